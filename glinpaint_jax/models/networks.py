"""Builds and initializes a config's two networks, holds their weights, completes with them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from glinpaint_jax.config import Config
from glinpaint_jax.models.discriminator import Discriminator
from glinpaint_jax.models.generator import Generator
from glinpaint_jax.models.inputs import composite, fill_hole

Image = Float[Array, "b h w 3"]
Mask = Float[Array, "b h w 1"]
Color = tuple[float, float, float]
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
    model = config.model
    return (
        Generator(model.width, model.output, model.base, dtype, blocks, padding_color(config)),
        Discriminator(model.width, dtype),
    )


def padding_color(config: Config) -> Color:
    """The RGB color in [-1, 1] that the generator sees beyond the border."""
    if config.model.padding == "gray":
        return 0.0, 0.0, 0.0
    red, green, blue = ((level - 127.5) / 127.5 for level in config.mask.fill)
    return red, green, blue


def init_variables(config: Config) -> tuple[Variables, Variables]:
    """Initializes the generator and the discriminator from the config's seed."""
    generator, discriminator = make_networks(config)
    # rbg keys compile in 4 s instead of 11 s on a CPU.
    keys = jax.random.split(jax.random.key(config.seed, impl="rbg"), 2)
    size, local_size = config.image_size, config.local_size
    image, mask = jnp.zeros((1, size, size, 3)), jnp.zeros((1, size, size, 1))
    window = jnp.zeros((1, local_size, local_size, 3))
    return (
        generator.init(keys[0], image, mask, train=True),
        discriminator.init(keys[1], image, window, train=True),
    )


def abstract_variables(config: Config) -> tuple[Variables, Variables]:
    """Shapes and types of `init_variables`."""
    return jax.eval_shape(lambda: init_variables(config))


def predict(
    generator: Generator,
    variables: Variables,
    masked_image: Image,
    mask: Mask,
    inside: Mask | None = None,
) -> Image:
    """Returns the generator's raw output for an image in [-1, 1] whose hole (mask 1) is filled.

    `inside` is as for Generator.

    Batch norm uses its running statistics. Accelerators multiply float32 exactly, so that every
    platform gives the same result.
    """
    with jax.default_matmul_precision("float32"):
        return generator.apply(variables, masked_image, mask, inside, train=False)


def complete(
    generator: Generator, variables: Variables, image: Image, mask: Mask, fill: Color
) -> Image:
    """Returns `image` with the prediction in its hole. Generators without a base see `fill` there.

    `fill` is RGB, 0..255.
    """
    masked_image = fill_hole(image, mask, fill, generator.base)
    return composite(predict(generator, variables, masked_image, mask), image, mask)


def make_complete_function(weights: Weights) -> Callable[[Image, Mask], Image]:
    """Makes the function we export: (image in 0..1, mask) -> completed image in 0..1.

    Mask values above 0.5 are the hole. Computes in float32 even if the weights were trained in
    bfloat16.
    """
    config = dataclasses.replace(weights.config, precision="float32")
    generator, _ = make_networks(config)

    def complete_unit_range(image: Image, mask: Mask) -> Image:
        hole = (mask > 0.5).astype(image.dtype)
        completed = complete(generator, weights.generator, 2 * image - 1, hole, config.mask.fill)
        return composite((completed + 1) / 2, image, hole)  # valid pixels stay exact

    return complete_unit_range
