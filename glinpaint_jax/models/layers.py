"""Layers shared by the generator and the discriminator."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.nn.initializers import Initializer
from jax.typing import ArrayLike
from jaxtyping import Float

from glinpaint_jax.distributed import DATA_AXIS, device_count, sum_over_devices
from glinpaint_jax.models.conv import conv2d, conv_transpose_4x4_stride2

# Kaiming normal, fan_out, ReLU (MMagic). For transposed kernels PyTorch computes fan_out from the
# first axis, the input channels.
CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
TRANSPOSED_CONV_INIT = nn.initializers.variance_scaling(
    2.0, "fan_out", "normal", in_axis=-1, out_axis=-2
)

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.1  # PyTorch's meaning: the weight of the new batch


class Layer(NamedTuple):
    """A row of the paper's tables: convolution, batch norm, ReLU."""

    name: str
    width_multiple: float  # output channels / the network's width
    kernel: int
    stride: int = 1
    dilation: int = 1
    transposed: bool = False

    def features(self, width: int) -> int:
        return int(self.width_multiple * width)


class Conv(nn.Module):
    """Convolution with output size ceil(size / stride), or twice the size if `transposed`.

    Computes in `dtype`; None means the promoted type of its parameters and input.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    transposed: bool = False
    use_bias: bool = False
    kernel_init: Initializer | None = None  # None: Kaiming
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w ci"]) -> Float[Array, "b ho wo co"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        init = self.kernel_init or (TRANSPOSED_CONV_INIT if self.transposed else CONV_INIT)
        if self.dilation > 1 and self.is_initializing():
            init = zero_out_of_reach(init, x.shape[1:3], self.dilation)
        kernel = self.param("kernel", init, shape)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        if self.transposed:
            if (self.kernel_size, self.stride, self.dilation) != (4, 2, 1):
                raise ValueError("a transposed convolution must be 4x4 with stride 2, dilation 1")
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


def zero_out_of_reach(init: Initializer, size: tuple[int, int], dilation: int) -> Initializer:
    """Wraps `init`: weights that see only padding on images of `size` (height, width) start at 0.

    They get no gradient on such images. If they started at random values, they would disturb larger
    images after the training.
    """

    def init_in_reach(key: Array, shape: Sequence[int], *args: Any, **kwargs: Any) -> Array:
        in_reach = [
            dilation * abs(np.arange(kernel_size) - kernel_size // 2) < side
            for kernel_size, side in zip(shape, size, strict=False)
        ]
        kernel = init(key, shape, *args, **kwargs)
        return kernel * np.outer(*in_reach)[..., None, None]

    return init_in_reach


class BatchNormRelu(nn.Module):
    """PyTorch's (Sync)BatchNorm2d, then ReLU. Unlike flax's, its running variance is unbiased.

    Within a training step, statistics are those of all images along the mesh axis `DATA_AXIS`.
    They are at least float32; the output has the input's type.
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
            n = _count_pixels(x)
            running_mean.value += BATCH_NORM_MOMENTUM * (mean - running_mean.value)
            unbiased = var * (n / max(n - 1, 1))
            running_var.value += BATCH_NORM_MOMENTUM * (unbiased - running_var.value)
        return y


@jax.custom_vjp
def batch_norm_relu(
    x: Float[Array, "b h w c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    shift: Float[Array, " c"],
) -> tuple[Float[Array, "b h w c"], Float[Array, " c"], Float[Array, " c"]]:
    """relu(scale * (x - mean) / sqrt(var + epsilon) + bias), and the batch's mean and variance.

    `shift` is an estimate of the mean; the closer, the more accurate the variance. Both come from
    sums over x - shift, so x is read once and devices synchronize once.

    The backward pass needs only x and the output, kept in their own type: no float32 copies of
    bfloat16 arrays. No gradient flows through the returned mean and variance.
    """
    # On CPU, summing a two-dimensional array is ten times faster than summing over axes 0-2.
    pixels = _flatten_pixels(x) - shift[None]
    sums = jnp.stack([pixels.sum(axis=0), jnp.square(pixels).sum(axis=0)])
    offset, square = _mean_over_devices(sums, x)
    var = jnp.maximum(square - jnp.square(offset), 0)
    mean = shift + offset
    return _normalize_relu(x, scale, bias, mean, var), mean, var


def _normalize_relu(
    x: Array, scale: ArrayLike, bias: ArrayLike, mean: ArrayLike, var: ArrayLike
) -> Array:
    factor = scale * lax.rsqrt(var + BATCH_NORM_EPSILON)
    y = x * factor.reshape(1, 1, 1, -1) + (bias - mean * factor).reshape(1, 1, 1, -1)
    return nn.relu(y).astype(x.dtype)


def _batch_norm_relu_forward(x: Array, scale: Array, bias: Array, shift: Array) -> tuple[Any, Any]:
    y, mean, var = batch_norm_relu(x, scale, bias, shift)
    return (y, mean, var), (x, y, scale, mean, var)


def _batch_norm_relu_backward(residuals: Any, cotangents: Any) -> tuple[Array, Array, Array, None]:
    """The gradients of Ioffe and Szegedy (2015), section 3, from sums over pixels."""
    x, y, scale, mean, var = residuals
    inverse_deviation = lax.rsqrt(var + BATCH_NORM_EPSILON)
    normalized = (_flatten_pixels(x) - mean[None]) * inverse_deviation[None]
    gradient = jnp.where(_flatten_pixels(y) > 0, _flatten_pixels(cotangents[0]), 0)
    # The gradients of bias and scale: of this device's images only, as those of all parameters.
    sums = jnp.stack([gradient.sum(axis=0), (gradient * normalized).sum(axis=0)])
    bias_mean, scale_mean = _mean_over_devices(sums, x)
    centered = gradient - bias_mean[None] - normalized * scale_mean[None]
    x_gradient = centered * (scale * inverse_deviation)[None]
    return x_gradient.reshape(x.shape).astype(x.dtype), sums[1], sums[0], None


def _mean_over_devices(sums: Float[Array, "2 c"], x: Array) -> Float[Array, "2 c"]:
    """The mean over all pixels of x, from sums over those of this device: one reduction."""
    return sum_over_devices(sums, (DATA_AXIS,)) / _count_pixels(x)


def _count_pixels(x: Array) -> int:
    return x.size // x.shape[-1] * device_count((DATA_AXIS,))


def _flatten_pixels(x: Array) -> Float[Array, "pixels c"]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(-1, x.shape[-1])


batch_norm_relu.defvjp(_batch_norm_relu_forward, _batch_norm_relu_backward)


class ConvNormRelu(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

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
