"""Builds and initializes a config's two networks, and holds their trained weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from glinpaint_jax.config import Config
from glinpaint_jax.models.discriminator import Discriminator
from glinpaint_jax.models.generator import Generator

Variables = dict[str, Any]  # {"params": ..., "batch_stats": ...}


@dataclasses.dataclass(frozen=True)
class Weights:
    """Trained networks. Leaves are numpy arrays.

    `config` determines the shapes; `step` is the number of training steps. `discriminator` is None
    if a file holds only the generator.
    """

    config: Config
    step: int
    generator: Variables
    discriminator: Variables | None


def make_networks(config: Config, blocks: bool = False) -> tuple[Generator, Discriminator]:
    """With `blocks`, the generator computes the same in the form that TPUs prefer (blocks.py)."""
    dtype = jnp.bfloat16 if config.precision == "bfloat16" else None
    return (
        Generator(config.model.width, config.model.output, config.model.base, dtype, blocks),
        Discriminator(config.model.width, dtype),
    )


def init_variables(config: Config) -> tuple[Variables, Variables]:
    """Initializes the generator and the discriminator from the config's seed."""
    generator, discriminator = make_networks(config)
    # rbg keys compile in 4 s instead of 11 s on a CPU.
    keys = jax.random.split(jax.random.key(config.seed, impl="rbg"), 2)

    def image(size: int, channels: int = 3) -> jax.Array:
        return jnp.zeros((1, size, size, channels))

    size = config.image_size
    return (
        generator.init(keys[0], image(size), image(size, 1), train=True),
        discriminator.init(keys[1], image(size), image(config.local_size), train=True),
    )


def abstract_variables(config: Config) -> tuple[Variables, Variables]:
    """Shapes and types of `init_variables`."""
    return jax.eval_shape(lambda: init_variables(config))
