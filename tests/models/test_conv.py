"""Compares the convolutions' values and gradients with PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax

from glinpaint_jax.models import conv
from glinpaint_jax.models.conv import conv2d, conv_transpose_4x4_stride2

# Kernel, stride, dilation and padding.
SHAPES = [(5, 1, 1, 2), (3, 2, 1, 1), (5, 2, 1, 2), (4, 2, 1, 1), (3, 1, 4, 4)]
SIZES = [((8, 12), (3, 5)), ((9, 7), (6, 2)), ((4, 4), (3, 5)), ((2, 2), (3, 5))]


def operands(size, channels, taps, dtype=jnp.float64):
    x = jax.random.normal(jax.random.key(0), (2, *size, channels[0]), dtype)
    return x, jax.random.normal(jax.random.key(1), (taps, taps, *channels), dtype)


def signs(y):
    """Cotangents of varying sign."""
    return np.sign(np.cos(np.arange(y.size))).reshape(y.shape)


def ours(function, *operands):
    """The output, and its gradients."""

    @jax.jit
    def run(*operands):
        y, pull_back = jax.vjp(function, *operands)
        return y, *pull_back(jnp.asarray(signs(y), y.dtype))

    return run(*operands)


def pytorchs(x, kernel, stride=1, dilation=1, padding=0, *, transposed=False):
    """The same, in float64, of torch.nn.functional.conv2d or conv_transpose2d."""
    x, kernel = (torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in (x, kernel))
    pixels = x.permute(0, 3, 1, 2)
    if transposed:
        flipped = kernel.flip(0, 1).permute(2, 3, 0, 1)
        y = torch.nn.functional.conv_transpose2d(pixels, flipped, stride=2, padding=1)
    else:
        weight = kernel.permute(3, 2, 0, 1)
        y = torch.nn.functional.conv2d(pixels, weight, None, stride, padding, dilation)
    y = y.permute(0, 2, 3, 1)
    y.backward(torch.from_numpy(signs(y.detach().numpy())))
    return y.detach().numpy(), x.grad.numpy(), kernel.grad.numpy()


def convolution(*shape):
    return lambda x, kernel: conv2d(x, kernel, *shape)


def assert_close(found, expected, dtype=np.float64, tolerance=1e-12):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        assert abs(a - b).max() <= tolerance * max(abs(b).max(), 1)


@pytest.mark.parametrize("cpu_pixels", [20, 1024])
@pytest.mark.parametrize(("size", "channels"), SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_conv2d_matches_pytorch(shape, size, channels, cpu_pixels, monkeypatch):
    """All forms that a CPU runs."""
    monkeypatch.setattr(conv, "CPU_PIXELS", cpu_pixels)
    taps, *shape = shape
    with jax.enable_x64(True):
        arrays = operands(size, channels, taps)
        assert_close(ours(convolution(*shape), *arrays), pytorchs(*arrays, *shape))


@pytest.mark.parametrize("cpu_pixels", [20, 1024])
@pytest.mark.parametrize("shape", SHAPES)
def test_conv2d_in_float32_and_bfloat16(shape, cpu_pixels, monkeypatch):
    """float32 is exact to rounding; bfloat16 rounds results, not sums."""
    monkeypatch.setattr(conv, "CPU_PIXELS", cpu_pixels)
    taps, *shape = shape
    arrays = operands((8, 12), (6, 2), taps, jnp.bfloat16)
    exact = [array.astype(jnp.float32) for array in arrays]
    expected = pytorchs(*exact, *shape)
    for a, b in zip(ours(convolution(*shape), *arrays), expected, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-8, atol=1e-4)
    for a, b in zip(ours(convolution(*shape), *exact), expected, strict=True):
        assert a.dtype == jnp.float32
        assert abs(a - b).max() <= 1e-5 * abs(b).max()


@pytest.mark.parametrize(("size", "dilation"), [((8, 12), 4), ((8, 12), 2), ((9, 12), 4)])
def test_the_forms_for_gpus_match_pytorch(size, dilation, monkeypatch):
    """Also if the sides are no multiples of the dilation."""

    def choose(*arrays, default, cuda=None, cpu=None):
        return (cuda or default)(*arrays)

    monkeypatch.setattr(lax, "platform_dependent", choose)
    shape = 1, dilation, dilation
    with jax.enable_x64(True):
        arrays = operands(size, (3, 5), 3)
        assert_close(ours(convolution(*shape), *arrays), pytorchs(*arrays, *shape))
        arrays = operands((4, 4), (3, 4), 4)
        found = ours(conv_transpose_4x4_stride2, *arrays)
        assert_close(found, pytorchs(*arrays, transposed=True))


def test_gpus_get_no_convolution_of_another_shape():
    """What `scripts/benchmarks/compile_steps.py` finds in the compiled program, but as lowered."""

    def program(function, *arrays):
        def gradients(*arrays):
            y, pull_back = jax.vjp(function, *arrays)
            return pull_back(jnp.ones_like(y))

        return jax.jit(gradients).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()

    x, w = jnp.ones((2, 64, 64, 3)), jnp.ones((3, 3, 3, 4))
    dilated = program(convolution(1, 16, 16), x, w)
    assert "tensor<512x4x4x3xf32>" in dilated  # 16 * 16 images of every 16th pixel
    assert "stride = [16, 16]" not in dilated
    small = program(convolution(2, 1, 2), x[:, :8, :8], jnp.ones((5, 5, 3, 4)))
    assert small.count("stablehlo.convolution") == 0  # the forward pass is not needed
    assert small.count("stablehlo.dot_general") == 2
    transposed = jax.jit(conv_transpose_4x4_stride2).trace(x, jnp.ones((4, 4, 3, 4)))
    text = transposed.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.optimization_barrier") == 1
