import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.models.batch_norm import BatchNormRelu, batch_norm_relu
from glinpaint_jax.models.layers import Conv, ConvNormRelu, Layer


def test_batch_norm_updates_running_statistics_like_pytorch():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=(4, 5, 6, 7)).astype(np.float32)
    scale, bias = rng.normal(size=(2, 7)).astype(np.float32)
    mean, var = rng.normal(size=7).astype(np.float32), rng.uniform(1, 2, 7).astype(np.float32)
    variables = {
        "params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)},
        "batch_stats": {"mean": jnp.asarray(mean), "var": var},
    }
    y, updated = BatchNormRelu().apply(
        variables, jnp.asarray(x), train=True, mutable=["batch_stats"]
    )

    pixels = x.reshape(-1, 7).astype(np.float64)
    expected = (x - pixels.mean(0)) / np.sqrt(pixels.var(0) + 1e-5) * scale + bias
    np.testing.assert_allclose(y, np.maximum(expected, 0), atol=1e-5)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.9 * mean + 0.1 * pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 * var + 0.1 * pixels.var(0, ddof=1), rtol=1e-5)

    y = BatchNormRelu().apply(variables, jnp.asarray(x), train=False)
    expected = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(y, np.maximum(expected, 0), atol=1e-5)


def test_batch_norm_gradients_match_autodiff():
    def plain(x, scale, bias):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return jnp.maximum((x - mean) / jnp.sqrt(var + 1e-5) * scale + bias, 0)

    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        keys = jax.random.split(jax.random.key(0), 4)
        x = 3 + 2 * jax.random.normal(keys[0], (4, 5, 6, 7))
        scale, bias = jax.random.normal(keys[1], (2, 7))
        cotangent = jax.random.normal(keys[2], x.shape)
        expected = jax.vjp(plain, x, scale, bias)[1](cotangent)
        ours = jax.vjp(lambda *a: batch_norm_relu(*a, jnp.ones(7))[0], x[:, None], scale, bias)[1](
            cotangent[:, None]
        )
        ours = ours[0][:, 0], *ours[1:]
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_residuals_stay_in_bfloat16():
    """A layer keeps its input and its convolution's output, neither in float32."""

    def forward(x, variables):
        return layer.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    layer = ConvNormRelu(Layer("", 1, kernel=3), width=8, dtype=jnp.bfloat16)
    x = jnp.ones((2, 16, 16, 4), jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x, train=True)
    pull_back = jax.eval_shape(lambda: jax.vjp(forward, x, variables)[1])
    kept = [leaf for leaf in jax.tree.leaves(pull_back) if leaf.size >= x.size]
    assert {leaf.dtype for leaf in kept} == {jnp.dtype("bfloat16")}
    assert len(kept) == 2


def test_batch_norm_statistics_are_float32_for_bfloat16_inputs():
    x = jnp.ones((2, 3, 3, 4), jnp.bfloat16)
    variables = BatchNormRelu().init(jax.random.key(0), x, train=True)
    y, updated = BatchNormRelu().apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("transposed", "kernel", "stride"), [(False, 5, 1), (True, 4, 2)])
def test_kernels_are_kaiming_normal_with_pytorchs_fan_out(transposed, kernel, stride):
    layer = Conv(Layer("", 1, kernel, stride, transposed=transposed), 64)
    weights = layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 128)))["params"]["kernel"]
    # torch.nn.init.kaiming_normal_(mode="fan_out") on (out, in, k, k) and on (in, out, k, k)
    fan_out = (128 if transposed else 64) * kernel**2
    assert np.std(weights) == pytest.approx(np.sqrt(2 / fan_out), rel=0.01)
    assert abs(np.mean(weights)) < 1e-3


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 8), (30, 4), (1, 1)])
def test_dilated_weights_that_see_only_padding_start_at_zero(height, width):
    layer, image = Conv(Layer("", 1, kernel=3, dilation=8), 5), jnp.zeros((1, height, width, 2))
    kernel = layer.init(jax.random.key(0), image)["params"]["kernel"]
    large = layer.init(jax.random.key(0), jnp.zeros((1, 40, 40, 2)))["params"]["kernel"]
    kernel_gradient = jax.jacrev(lambda k: layer.apply({"params": {"kernel": k}}, image + 1))(large)
    used = (kernel_gradient != 0).any(axis=(0, 1, 2, 3))
    assert large.all()
    np.testing.assert_array_equal(kernel, large * used)
