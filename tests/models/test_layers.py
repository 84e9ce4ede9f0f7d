import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from glinpaint_jax.models.batch_norm import BatchNormRelu
from glinpaint_jax.models.layers import Conv, ConvNormRelu, Layer


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_matches_pytorch(train):
    """Values, running statistics and, in training, gradients."""
    x = np.random.default_rng(0).normal(3, 2, size=(4, 5, 6, 7))
    scale, bias, mean = np.random.default_rng(1).normal(size=(3, 7))
    layer = torch.nn.BatchNorm2d(7, dtype=torch.float64).train(train)
    for tensor, values in zip(layer.state_dict().values(), (scale, bias, mean), strict=False):
        tensor.copy_(torch.from_numpy(values))
    pixels = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = torch.relu(layer(pixels))
    cotangent = np.cos(np.arange(x.size)).reshape(x.shape)
    expected.backward(torch.from_numpy(cotangent.transpose(0, 3, 1, 2)))

    def forward(x, params):
        stats = {"mean": jnp.asarray(mean), "var": jnp.ones(7)}
        variables = {"params": params, "batch_stats": stats}
        return BatchNormRelu().apply(variables, x, train=train, mutable=["batch_stats"])

    def assert_close(found, tensor):
        np.testing.assert_allclose(found, tensor.detach().numpy(), rtol=1e-10, atol=1e-12)

    with jax.enable_x64(True):
        params = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
        y, pull_back, updated = jax.vjp(forward, jnp.asarray(x), params, has_aux=True)
        x_gradient, gradients = pull_back(jnp.asarray(cotangent))
    assert_close(y, expected.permute(0, 2, 3, 1))
    assert_close(updated["batch_stats"]["mean"], layer.running_mean)
    assert_close(updated["batch_stats"]["var"], layer.running_var)
    assert_close(x_gradient, pixels.grad.permute(0, 2, 3, 1))
    assert_close(gradients["scale"], layer.weight.grad)
    assert_close(gradients["bias"], layer.bias.grad)


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
