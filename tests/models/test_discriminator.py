from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from glinpaint_jax.models.batch_norm import Parts
from glinpaint_jax.models.discriminator import Discriminator


def test_parameter_count_and_names_match_mmagic():
    image, window = jnp.zeros((1, 256, 256, 3)), jnp.zeros((1, 128, 128, 3))
    variables = jax.eval_shape(
        lambda: Discriminator().init(jax.random.key(0), image, window, train=True)
    )
    params = variables["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 45_060_225
    assert list(params["global_disc"]) == [f"conv{i}" for i in range(1, 7)] + ["fc"]
    assert list(params["local_disc"]) == [f"conv{i}" for i in range(1, 6)] + ["fc"]
    assert params["global_disc"]["fc"]["kernel"].shape == (8192, 1024)
    assert params["fc"]["kernel"].shape == (2048, 1)


def test_logits_are_float32_even_in_bfloat16():
    image, window = jnp.zeros((3, 32, 32, 3)), jnp.zeros((3, 16, 16, 3))
    network = Discriminator(width=4, dtype=jnp.bfloat16)
    logits, _ = jax.eval_shape(
        lambda: network.init_with_output(jax.random.key(0), image, window, train=True)
    )
    assert logits.shape == (3, 1)
    assert logits.dtype == jnp.float32


def test_two_batches_at_once_equal_one_after_another():
    """Logits, every gradient and the running statistics, in float64."""
    network = Discriminator(width=4)
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 4)
        images = jax.random.normal(keys[0], (6, 32, 32, 3))
        windows = jax.random.normal(keys[1], (6, 16, 16, 3))
        variables = jax.jit(partial(network.init, train=True))(keys[2], images, windows)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        params, stats = variables["params"], variables["batch_stats"]

        def at_once(params, images, windows):
            return apply(params, stats, images, windows, parts=Parts(devices=1, count=2))

        def one_after_another(params, images, windows):
            first, after = apply(params, stats, images[:3], windows[:3])
            second, after = apply(params, after, images[3:], windows[3:])
            return jnp.concatenate([first, second]), after

        def apply(params, stats, *inputs, **kwargs):
            variables = {"params": params, "batch_stats": stats}
            logits, variables = network.apply(
                variables, *inputs, train=True, mutable=["batch_stats"], **kwargs
            )
            return logits, variables["batch_stats"]

        def differentiate(function, *inputs):
            logits, pull_back, after = jax.vjp(function, *inputs, has_aux=True)
            return logits, after, pull_back(jax.random.normal(keys[3], logits.shape))

        results = [
            jax.jit(partial(differentiate, function))(params, images, windows)
            for function in (at_once, one_after_another)
        ]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13), *results)


def test_parts_are_joined_on_each_device_and_split_again():
    parts, batches = (
        Parts(devices=2, count=2),
        [jnp.arange(4)[:, None], 10 + jnp.arange(4)[:, None]],
    )
    joined = parts.join(batches)
    assert joined.ravel().tolist() == [0, 1, 10, 11, 2, 3, 12, 13]
    for batch, found in zip(batches, parts.split(joined), strict=True):
        np.testing.assert_array_equal(found, batch)
