"""Layers shared by the generator and the discriminator."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
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


class BatchNorm(nn.Module):
    """PyTorch's (Sync)BatchNorm2d: its running variance is the unbiased one, unlike flax's.

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
        if train:
            # Sums of two-dimensional arrays are ten times faster on CPU than sums over axes 0-2.
            pixels = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(-1, channels)
            mean = pixels.mean(axis=0)
            # The variance's derivative with respect to the mean is 0. XLA does not know and would
            # sum the deviations, over all devices, in every layer's backward pass.
            centre = lax.stop_gradient(mean)[None]
            var = jnp.square(pixels - centre).mean(axis=0)
            if not self.is_initializing():
                n = pixels.shape[0]
                running_mean.value += BATCH_NORM_MOMENTUM * (mean - running_mean.value)
                unbiased = var * (n / max(n - 1, 1))
                running_var.value += BATCH_NORM_MOMENTUM * (unbiased - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * lax.rsqrt(var + BATCH_NORM_EPSILON)
        y = x * factor.reshape(1, 1, 1, -1) + (bias - mean * factor).reshape(1, 1, 1, -1)
        return y.astype(x.dtype)


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
        x = BatchNorm(name="bn")(x, train=train)
        return nn.relu(x)
