"""Batch normalization and ReLU in one layer, with the least memory traffic we could reach.

In bfloat16 it moves x three times forward (read, read, write y) and five times backward (x and the
gradient of y twice, write the gradient of x), in the joint step compiled for eight H200s.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from glinpaint_jax.models.platforms import separate

EPSILON = 1e-5
MOMENTUM = 0.1  # PyTorch's meaning: the weight of the new batch


class BatchNormRelu(nn.Module):
    """PyTorch's (Sync)BatchNorm2d, then ReLU. Unlike flax's, its running variance is unbiased.

    Statistics are those of the global batch, at least in float32; the output has the input's type.
    The last axis of x holds the `features` channels of a pixel, or of the pixels of a block.

    The images may be those of several batches, image by image: the first of each, then the second
    of each, so no device needs another's. Each of these `parts` is normalized by its own
    statistics; the running statistics see one after another.
    """

    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool, parts: int = 1
    ) -> Float[Array, "b h w c"]:
        shape = (self.features,)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if not train:
            mean, var = running_mean.value[None], running_var.value[None]
            return normalize_relu(x[:, None], scale, bias, mean, var)[:, 0]
        split = x.reshape(-1, parts, *x.shape[1:])
        y, means, variances = batch_norm_relu(split, scale, bias, running_mean.value)
        if not self.is_initializing():
            n = x.size // means.size  # pixels of each part
            for mean, var in zip(means, variances * (n / max(n - 1, 1)), strict=True):
                running_mean.value += MOMENTUM * (mean - running_mean.value)
                running_var.value += MOMENTUM * (var - running_var.value)
        return y.reshape(x.shape)


@jax.custom_vjp
def batch_norm_relu(
    x: Float[Array, "b parts h w cs"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    shift: Float[Array, " c"],
) -> tuple[Float[Array, "b parts h w cs"], Float[Array, "parts c"], Float[Array, "parts c"]]:
    """relu(scale * (x - mean) / sqrt(var + epsilon) + bias), and each part's mean and variance.

    `shift` is an estimate of the mean; the closer, the more accurate the variance. Both come from
    sums over x - shift, so x is read once and devices synchronize once.

    The backward pass needs only x, in its own type. No gradient flows through mean and variance.
    """
    shifted = to_float32(x) - spread(shift, x)
    sums = sum_pixels(shifted, jnp.square(shifted), channels=shift.size)
    offset, square = sums / (x.size // sums[0].size)
    mean, var = shift[None] + offset, jnp.maximum(square - jnp.square(offset), 0)
    return normalize_relu(x, scale, bias, mean, var), mean, var


def _batch_norm_relu_forward(x: Array, scale: Array, bias: Array, shift: Array) -> tuple[Any, Any]:
    y, mean, var = batch_norm_relu(x, scale, bias, shift)
    return (y, mean, var), (x, scale, bias, mean, var)


def _batch_norm_relu_backward(residuals: Any, cotangents: Any) -> tuple[Array, Array, Array, None]:
    """The gradients of Ioffe and Szegedy (2015), section 3, from sums over pixels.

    Two passes over x: one for the sums, one for its gradient.
    """
    x, scale, bias, mean, var = residuals
    inverse = lax.rsqrt(var + EPSILON)

    def relu_gradient(x: Array, cotangent: Array) -> tuple[Array, Array]:
        normalized = (to_float32(x) - spread(mean, x)) * spread(inverse, x)
        active = normalized * spread(scale, x) + spread(bias, x) > 0
        return jnp.where(active, to_float32(cotangent), 0), normalized

    # `separate`: else XLA:GPU keeps, from the forward pass or between the two passes over x, a mask
    # of active pixels, and reads and writes more than it saves.
    x, y_gradient = separate((x, cotangents[0]))
    gradient, normalized = relu_gradient(x, y_gradient)
    sums = sum_pixels(gradient, gradient * normalized, channels=scale.size)
    x, y_gradient, sums = separate((x, y_gradient, sums))
    gradient, normalized = relu_gradient(x, y_gradient)
    bias_mean, scale_mean = sums / (x.size // mean.size)
    centered = gradient - spread(bias_mean, x) - normalized * spread(scale_mean, x)
    x_gradient = (centered * spread(scale[None] * inverse, x)).astype(x.dtype)
    bias_gradient, scale_gradient = sums.sum(axis=1)
    return x_gradient, scale_gradient, bias_gradient, None


batch_norm_relu.defvjp(_batch_norm_relu_forward, _batch_norm_relu_backward)


def normalize_relu(
    x: Array, scale: ArrayLike, bias: ArrayLike, mean: ArrayLike, var: ArrayLike
) -> Float[Array, "b parts h w cs"]:
    """Mean and variance are [parts, c]."""
    factor = scale[None] * lax.rsqrt(var + EPSILON)
    return nn.relu(x * spread(factor, x) + spread(bias[None] - mean * factor, x)).astype(x.dtype)


def sum_pixels(*arrays: Float[Array, "b parts h w cs"], channels: int) -> Float[Array, "n parts c"]:
    """The sums over each part's pixels of each array."""

    def at_once(array: Array) -> Array:
        return array.sum(axis=(0, 2, 3))

    def in_two_steps(array: Array) -> Array:
        # At once, XLA:GPU would first write the arrays of several parts in float32 (1.4 GB of the
        # joint step, as in platforms.py).
        b, parts, height, width, cs = array.shape
        array = array.reshape(b, parts, math.gcd(height * width, 128), -1, cs).sum(axis=3)
        return lax.optimization_barrier(array).sum(axis=(0, 2))

    sums = [lax.platform_dependent(array, cuda=in_two_steps, default=at_once) for array in arrays]
    pixels = jnp.stack(sums).reshape(len(arrays), arrays[0].shape[1], -1, channels)
    return pixels.sum(axis=2)  # of a block


def to_float32(x: Array) -> Array:
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def spread(vectors: Float[Array, "*parts c"], x: Array) -> Float[Array, "1 _ 1 1 cs"]:
    """Vectors of one pixel's channels, for the pixels in the last axis of x."""
    vectors = jnp.tile(vectors.reshape(-1, vectors.shape[-1]), x.shape[-1] // vectors.shape[-1])
    return vectors[None, :, None, None]
