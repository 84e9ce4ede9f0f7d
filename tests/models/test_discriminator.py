import jax
import jax.numpy as jnp

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
