"""Layers shared by the generator and the discriminator."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from glinpaint_jax.models.conv import conv2d, conv_transpose_4x4_stride2

# Kaiming normal, fan_out, ReLU (MMagic). PyTorch counts a transposed kernel's fan_out over its
# first axis, the input channels.
CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
TRANSPOSED_CONV_INIT = nn.initializers.variance_scaling(
    2.0, "fan_out", "normal", in_axis=-1, out_axis=-2
)

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.1  # PyTorch's meaning: the share of the new batch


class Conv(nn.Module):
    """Convolution that keeps ceil(size / stride), or doubles the size when `transposed`.

    `dtype` is what it computes in; None: the type of its parameters and input.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    transposed: bool = False
    use_bias: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w ci"]) -> Float[Array, "b ho wo co"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        init = TRANSPOSED_CONV_INIT if self.transposed else CONV_INIT
        kernel = self.param("kernel", init, shape)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        if self.transposed:
            if (self.kernel_size, self.stride, self.dilation) != (4, 2, 1):
                raise ValueError("the only transposed convolution here is 4x4 with stride 2")
            y = conv_transpose_4x4_stride2(x, kernel)
        else:
            y = conv2d(
                x,
                kernel,
                stride=self.stride,
                dilation=self.dilation,
                padding=self.dilation * (self.kernel_size // 2),
            )
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).reshape(1, 1, 1, -1)
        return y


class BatchNormRelu(nn.Module):
    """PyTorch's (Sync)BatchNorm2d, then ReLU: its running variance is the unbiased one, unlike
    flax's.

    Under `jax.jit` over a sharded batch the statistics are those of the global batch.
    Statistics are at least float32; the output has the input's type.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if not train:
            return _normalize_relu(x, scale, bias, running_mean.value, running_var.value)
        y, mean, var = batch_norm_relu(x, scale, bias, running_mean.value)
        if not self.is_initializing():
            n = x.size // channels
            running_mean.value += BATCH_NORM_MOMENTUM * (mean - running_mean.value)
            unbiased = var * (n / max(n - 1, 1))
            running_var.value += BATCH_NORM_MOMENTUM * (unbiased - running_var.value)
        return y


@jax.custom_vjp
def batch_norm_relu(
    x: Float[Array, "b h w c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    near: Float[Array, " c"],
) -> tuple[Float[Array, "b h w c"], Float[Array, " c"], Float[Array, " c"]]:
    """relu(scale * (x - mean) / sqrt(var + epsilon) + bias), and the batch's mean and variance.

    `near` is any guess of the mean, the better the more exact the variance: both come from sums
    over x - near, so that x is read once and many devices wait for each other once.
    For its gradient x and the output are kept, as they are: in bfloat16 no float32 copy. No
    gradient passes through the mean and the variance given back.
    """
    # Sums of two-dimensional arrays are ten times faster on CPU than sums over axes 0-2.
    pixels = _pixels(x) - near[None]
    offset = pixels.mean(axis=0)
    var = jnp.maximum(jnp.square(pixels).mean(axis=0) - jnp.square(offset), 0)
    mean = near + offset
    return _normalize_relu(x, scale, bias, mean, var), mean, var


def _normalize_relu(
    x: Array, scale: ArrayLike, bias: ArrayLike, mean: ArrayLike, var: ArrayLike
) -> Array:
    factor = scale * lax.rsqrt(var + BATCH_NORM_EPSILON)
    y = x * factor.reshape(1, 1, 1, -1) + (bias - mean * factor).reshape(1, 1, 1, -1)
    return nn.relu(y).astype(x.dtype)


def _batch_norm_relu_forward(x: Array, scale: Array, bias: Array, near: Array) -> tuple[Any, Any]:
    y, mean, var = batch_norm_relu(x, scale, bias, near)
    return (y, mean, var), (x, y, scale, mean, var)


def _batch_norm_relu_backward(residuals: Any, cotangents: Any) -> tuple[Array, Array, Array, None]:
    """The gradients of Ioffe and Szegedy (2015), section 3, gathered by sums over pixels."""
    x, y, scale, mean, var = residuals
    inverse_deviation = lax.rsqrt(var + BATCH_NORM_EPSILON)
    normalized = (_pixels(x) - mean[None]) * inverse_deviation[None]
    gradient = jnp.where(_pixels(y) > 0, _pixels(cotangents[0]), 0)
    of_bias = gradient.sum(axis=0)
    of_scale = (gradient * normalized).sum(axis=0)
    n = normalized.shape[0]
    centered = gradient - (of_bias / n)[None] - normalized * (of_scale / n)[None]
    of_x = centered * (scale * inverse_deviation)[None]
    return of_x.reshape(x.shape).astype(x.dtype), of_scale, of_bias, None


def _pixels(x: Array) -> Float[Array, "pixels c"]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(-1, x.shape[-1])


batch_norm_relu.defvjp(_batch_norm_relu_forward, _batch_norm_relu_backward)


class ConvNormRelu(nn.Module):
    """Convolution without bias -> batch norm -> ReLU: every layer but the networks' last."""

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    transposed: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w ci"], *, train: bool) -> Float[Array, "b ho wo co"]:
        x = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.transposed,
            dtype=self.dtype,
            name="conv",
        )(x)
        return BatchNormRelu(name="bn")(x, train=train)
