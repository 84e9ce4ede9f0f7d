import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.models.layers import Conv, ConvNormRelu, Layer


def test_residuals_stay_in_bfloat16_and_statistics_in_float32():
    """A layer keeps its input and its convolution's output, neither in float32."""

    def forward(x, variables):
        return layer.apply(variables, x, train=True, mutable=["batch_stats"])

    layer = ConvNormRelu(Layer("", 1, kernel=3), width=8, dtype=jnp.bfloat16)
    x = jnp.ones((2, 16, 16, 4), jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x, train=True)
    y, pull_back, updated = jax.eval_shape(lambda: jax.vjp(forward, x, variables, has_aux=True))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}
    kept = [leaf for leaf in jax.tree.leaves(pull_back) if leaf.size >= x.size]
    assert {leaf.dtype for leaf in kept} == {jnp.dtype("bfloat16")}
    assert len(kept) == 2


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
