"""Losses: pure functions to a scalar. Images are in [-1, 1], masks are 1 in the hole.

The formulas are MMagic's (mmagic/models/losses), so its loss weights apply unchanged.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

Image = Float[Array, "b h w 3"]
Mask = Float[Array, "b h w 1"]
Scalar = Float[Array, ""]

EPSILON = 1e-12  # MMagic's guard against an empty region


def masked_mean(values: Image, weight: Mask) -> Scalar:
    """Mean over the pixels with weight 1 in the whole batch, and their channels."""
    return jnp.sum(values * weight) / (values.shape[-1] * jnp.sum(weight) + EPSILON)


def l1(prediction: Image, image: Image, weight: Mask) -> Scalar:
    """Mean absolute error where `weight` is 1 (the hole or the valid region)."""
    return masked_mean(jnp.abs(prediction - image), weight)


def mse(prediction: Image, image: Image, weight: Mask) -> Scalar:
    """Mean squared error where `weight` is 1 (the paper's equation 2, averaged)."""
    return masked_mean(jnp.square(prediction - image), weight)


def total_variation(completed: Image, mask: Mask) -> Scalar:
    """Mean absolute difference between the hole's pixels and those below and to the right."""
    down = jnp.abs(completed[:, :-1] - completed[:, 1:])
    right = jnp.abs(completed[:, :, :-1] - completed[:, :, 1:])
    return masked_mean(down, mask[:, :-1]) + masked_mean(right, mask[:, :, :-1])


def adversarial(
    logits: Float[Array, "b 1"], kind: str, *, real: bool, discriminator: bool
) -> Scalar:
    """Loss of `logits` for the target `real`, for the discriminator or the generator.

    `kind`: 'vanilla' (binary cross-entropy, the paper's equation 3), 'lsgan', 'hinge' or 'wgan'.
    """
    if kind == "vanilla":
        return jnp.mean(jax.nn.softplus(-logits if real else logits))
    if kind == "lsgan":
        return jnp.mean(jnp.square(logits - float(real)))
    if kind == "hinge" and discriminator:
        return jnp.mean(jax.nn.relu(1 - logits if real else 1 + logits))
    return -jnp.mean(logits) if real else jnp.mean(logits)  # wgan, and hinge for the generator


def discriminator_shift(fake_loss: Scalar, real_loss: Scalar) -> Scalar:
    """Keeps the discriminator's losses from drifting.

    Like MMagic (one_stage.py, forward_train_d) it squares the two losses; PGGAN squares the logits.
    """
    return 0.5 * (jnp.square(fake_loss) + jnp.square(real_loss))
