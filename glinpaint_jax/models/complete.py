"""Completes images with a trained generator: fill the hole, generate, composite."""

import dataclasses
from collections.abc import Callable

import jax
from jax import Array
from jaxtyping import Float

from glinpaint_jax.models.generator import Generator
from glinpaint_jax.models.inputs import composite, fill_hole
from glinpaint_jax.models.networks import Variables, Weights, make_networks

Image = Float[Array, "b h w 3"]
Mask = Float[Array, "b h w 1"]
Color = tuple[float, float, float]


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
    generator, _ = make_networks(dataclasses.replace(weights.config, precision="float32"))

    def complete_unit_range(image: Image, mask: Mask) -> Image:
        hole = (mask > 0.5).astype(image.dtype)
        completed = complete(
            generator, weights.generator, 2 * image - 1, hole, weights.config.mask.fill
        )
        return composite((completed + 1) / 2, image, hole)  # valid pixels stay exact

    return complete_unit_range
