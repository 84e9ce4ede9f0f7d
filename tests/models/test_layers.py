import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.models.layers import BatchNorm, Conv


def test_batch_norm_keeps_pytorchs_running_statistics():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=(4, 5, 6, 7)).astype(np.float32)
    scale, bias = rng.normal(size=(2, 7)).astype(np.float32)
    mean, var = rng.normal(size=7).astype(np.float32), rng.uniform(1, 2, 7).astype(np.float32)
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "var": var},
    }
    y, updated = BatchNorm().apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])

    pixels = x.reshape(-1, 7).astype(np.float64)
    expected = (x - pixels.mean(0)) / np.sqrt(pixels.var(0) + 1e-5) * scale + bias
    np.testing.assert_allclose(y, expected, atol=1e-5)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.9 * mean + 0.1 * pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 * var + 0.1 * pixels.var(0, ddof=1), rtol=1e-5)

    y = BatchNorm().apply(variables, jnp.asarray(x), train=False)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, atol=1e-5)


def test_batch_norm_statistics_stay_float32_under_bfloat16():
    x = jnp.ones((2, 3, 3, 4), jnp.bfloat16)
    variables = BatchNorm().init(jax.random.key(0), x, train=True)
    y, updated = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("transposed", "kernel", "stride"), [(False, 5, 1), (True, 4, 2)])
def test_kernels_start_from_kaiming_normal_with_pytorchs_fan_out(transposed, kernel, stride):
    layer = Conv(64, kernel, stride, transposed=transposed)
    weights = layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 128)))["params"]["kernel"]
    # torch.nn.init.kaiming_normal_(mode="fan_out") on (out, in, k, k) and on (in, out, k, k)
    fan_out = (128 if transposed else 64) * kernel**2
    assert np.std(weights) == pytest.approx(np.sqrt(2 / fan_out), rel=0.01)
    assert abs(np.mean(weights)) < 1e-3
