"""Compares the convolutions' values and gradients with independent implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from glinpaint_jax.models import conv
from glinpaint_jax.models.conv import conv2d, conv_transpose_4x4_stride2


def naive_conv(x, kernel, stride, dilation, padding):
    """Computes one output pixel at a time, in numpy."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    k = kernel.shape[0]
    extent = dilation * (k - 1) + 1
    height = (x.shape[1] - extent) // stride + 1
    width = (x.shape[2] - extent) // stride + 1
    out = np.zeros((x.shape[0], height, width, kernel.shape[3]))
    for i in range(height):
        for j in range(width):
            top, left = i * stride, j * stride
            patch = x[:, top : top + extent : dilation, left : left + extent : dilation]
            out[:, i, j] = np.einsum("bhwc,hwco->bo", patch, kernel)
    return out


def naive_conv_transpose(x, kernel):
    """PyTorch's definition: every input pixel adds a multiple of the flipped kernel."""
    b, h, w, _ = x.shape
    flipped = kernel[::-1, ::-1]
    out = np.zeros((b, 2 * h + 2, 2 * w + 2, kernel.shape[3]))
    for i in range(h):
        for j in range(w):
            stamp = np.einsum("bc,hwco->bhwo", x[:, i, j], flipped)
            out[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += stamp
    return out[:, 1:-1, 1:-1]


SHAPES = [(5, 1, 1, 2), (3, 2, 1, 1), (5, 2, 1, 2), (4, 2, 1, 1), (3, 1, 4, 4)]


@pytest.mark.parametrize(("kernel", "stride", "dilation", "padding"), SHAPES)
def test_conv2d_matches_naive_conv(kernel, stride, dilation, padding):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 9, 10, 3)), rng.normal(size=(kernel, kernel, 3, 4))
    with jax.enable_x64(True):
        got = conv2d(
            jnp.asarray(x), jnp.asarray(w), stride=stride, dilation=dilation, padding=padding
        )
        np.testing.assert_allclose(got, naive_conv(x, w, stride, dilation, padding), rtol=1e-10)


def test_transposed_convolution_matches_naive():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 5, 6, 3)), rng.normal(size=(4, 4, 3, 4))
    with jax.enable_x64(True):
        got = conv_transpose_4x4_stride2(jnp.asarray(x), jnp.asarray(w))
        np.testing.assert_allclose(got, naive_conv_transpose(x, w), rtol=1e-10, atol=1e-12)


def test_transposed_convolution_has_xlas_gradients():
    def xla_conv_transpose(x, w):
        return lax.conv_general_dilated(
            x,
            w,
            (1, 1),
            ((2, 2), (2, 2)),
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (2, 5, 6, 3))
        w = jax.random.normal(keys[1], (4, 4, 3, 4))
        cotangent = jax.random.normal(keys[2], (2, 10, 12, 4))

        @jax.jit
        def gradients(x, w):
            functions = conv_transpose_4x4_stride2, xla_conv_transpose
            return [jax.vjp(function, x, w)[1](cotangent) for function in functions]

        for a, b in zip(*gradients(x, w), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def xla_conv(x, w, stride, dilation, padding):
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def our_conv(x, w, stride, dilation, padding):
    return conv2d(x, w, stride=stride, dilation=dilation, padding=padding)


def operands(size, channels, taps, dtype):
    x = jax.random.normal(jax.random.key(0), (2, *size, channels[0]), dtype)
    return x, jax.random.normal(jax.random.key(1), (taps, taps, *channels), dtype)


def value_and_gradients(function, x, w, shape):
    """The output, and its gradients for both operands with cotangents of varying sign."""
    y, pull_back = jax.vjp(lambda x, w: function(x, w, *shape), x, w)
    signs = jnp.sign(jnp.cos(jnp.arange(y.size))).reshape(y.shape)
    return y, *pull_back(signs.astype(y.dtype))


@pytest.mark.parametrize("cpu_pixels", [20, 1024])
@pytest.mark.parametrize(
    ("size", "channels"), [((8, 12), (3, 5)), ((9, 7), (6, 2)), ((4, 4), (3, 5)), ((2, 2), (3, 5))]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_conv2d_matches_xla_in_float64(shape, size, channels, cpu_pixels, monkeypatch):
    """For all forms that a CPU runs."""
    monkeypatch.setattr(conv, "CPU_PIXELS", cpu_pixels)
    taps, *shape = shape

    @jax.jit
    def both(x, w):
        return [value_and_gradients(f, x, w, shape) for f in (our_conv, xla_conv)]

    with jax.enable_x64(True):
        for a, b in zip(*both(*operands(size, channels, taps, jnp.float64)), strict=True):
            assert a.dtype == b.dtype
            assert abs(a - b).max() <= 1e-10 * max(abs(b).max(), 1)


@pytest.mark.parametrize("cpu_pixels", [20, 1024])
@pytest.mark.parametrize("shape", SHAPES)
def test_conv2d_in_float32_and_bfloat16(shape, cpu_pixels, monkeypatch):
    """float32 matches XLA to rounding; bfloat16 rounds results, not sums."""
    monkeypatch.setattr(conv, "CPU_PIXELS", cpu_pixels)
    taps, *shape = shape
    x, w = operands((8, 12), (6, 2), taps, jnp.bfloat16)

    @jax.jit
    def all_three(x, w):
        exact = [a.astype(jnp.float32) for a in (x, w)]
        return (
            value_and_gradients(our_conv, x, w, shape),
            value_and_gradients(our_conv, *exact, shape),
            value_and_gradients(xla_conv, *exact, shape),
        )

    for rounded, ours, xla in zip(*all_three(x, w), strict=True):
        assert (rounded.dtype, ours.dtype) == (jnp.bfloat16, jnp.float32)
        assert abs(ours - xla).max() <= 1e-5 * abs(xla).max()
        np.testing.assert_allclose(rounded.astype(jnp.float32), xla, rtol=2**-8, atol=1e-4)


def on_cpu_as_on_gpus(monkeypatch):
    """Runs the forms for GPUs here."""

    def choose(*arrays, default, cuda=None, cpu=None):
        return (cuda or default)(*arrays)

    monkeypatch.setattr(lax, "platform_dependent", choose)


@pytest.mark.parametrize(("size", "dilation"), [((8, 12), 4), ((8, 12), 2), ((9, 12), 4)])
def test_the_forms_for_gpus_match_xla(size, dilation, monkeypatch):
    """Also if the sides are no multiples of the dilation."""
    on_cpu_as_on_gpus(monkeypatch)
    shape = 1, dilation, dilation
    with jax.enable_x64(True):
        x, w = operands(size, (3, 5), 3, jnp.float64)
        ours, xla = (value_and_gradients(f, x, w, shape) for f in (our_conv, xla_conv))
        for a, b in zip(ours, xla, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        x, w = x[0, :4, :4][None], jax.random.normal(jax.random.key(2), (4, 4, 3, 4))
        got = conv_transpose_4x4_stride2(x, w)
        np.testing.assert_allclose(got, naive_conv_transpose(x, w), rtol=1e-10, atol=1e-12)


def test_gpus_get_no_convolution_of_another_shape():
    """What `scripts/benchmarks/compile_steps.py` finds in the compiled program, but as lowered."""

    def program(function, *arrays):
        def gradients(*arrays):
            y, pull_back = jax.vjp(function, *arrays)
            return pull_back(jnp.ones_like(y))

        return jax.jit(gradients).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()

    x, w = jnp.ones((2, 64, 64, 3)), jnp.ones((3, 3, 3, 4))
    dilated = program(lambda x, w: our_conv(x, w, 1, 16, 16), x, w)
    assert "tensor<512x4x4x3xf32>" in dilated  # 16 * 16 images of every 16th pixel
    assert "stride = [16, 16]" not in dilated
    small = program(lambda x, w: our_conv(x, w, 2, 1, 2), x[:, :8, :8], jnp.ones((5, 5, 3, 4)))
    assert small.count("stablehlo.convolution") == 0  # the forward pass is not needed
    assert small.count("stablehlo.dot_general") == 2
    transposed = jax.jit(conv_transpose_4x4_stride2).trace(x, jnp.ones((4, 4, 3, 4)))
    text = transposed.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.optimization_barrier") == 1


def test_gradients_work_under_vmap_and_remat():
    x = jax.random.normal(jax.random.key(0), (3, 2, 8, 8, 3))
    w = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))

    def loss(function):
        def sum_of_squares(w):
            return jax.vmap(lambda x: jnp.square(function(x, w, 2, 1, 1)).sum())(x).sum()

        return jax.jit(jax.grad(jax.checkpoint(sum_of_squares)))(w)

    np.testing.assert_allclose(loss(our_conv), loss(xla_conv), rtol=1e-4, atol=1e-3)
