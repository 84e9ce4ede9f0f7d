"""Layers shared by the generator and the discriminator."""

from collections.abc import Sequence
from functools import partial
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
from glinpaint_jax.models.blocks import conv2d_on_blocks, conv_transpose_to_blocks
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
    full_resolution: bool = False  # of its input or output

    def features(self, width: int) -> int:
        return int(self.width_multiple * width)


class Conv(nn.Module):
    """Convolution with output size ceil(size / stride), or twice the size if `transposed`.

    Computes in `dtype`; None means the promoted type of its parameters and input. With `blocks`,
    the larger of its input and output (both if equal) is in blocks of 2x2 pixels: see blocks.py.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    transposed: bool = False
    use_bias: bool = False
    kernel_init: Initializer | None = None  # None: Kaiming
    dtype: Any = None
    blocks: bool = False
    side: int = 2  # of its output's blocks, if it has any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w ci"]) -> Float[Array, "b ho wo co"]:
        channels = x.shape[-1] // (4 if self.blocks and not self.transposed else 1)
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        init = self.kernel_init or (TRANSPOSED_CONV_INIT if self.transposed else CONV_INIT)
        if self.dilation > 1 and self.is_initializing():
            init = zero_out_of_reach(init, x.shape[1:3], self.dilation)
        kernel = self.param("kernel", init, shape)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        if self.transposed:
            if (self.kernel_size, self.stride, self.dilation) != (4, 2, 1):
                raise ValueError("a transposed convolution must be 4x4 with stride 2, dilation 1")
            y = (conv_transpose_to_blocks if self.blocks else conv_transpose_4x4_stride2)(x, kernel)
        elif self.blocks:
            if self.dilation != 1:
                raise ValueError("a convolution on blocks cannot be dilated")
            y = conv2d_on_blocks(
                x, kernel, stride=self.stride, side=self.side if self.stride == 1 else 1
            )
        else:
            y = conv2d(
                x,
                kernel,
                stride=self.stride,
                dilation=self.dilation,
                padding=self.dilation * (self.kernel_size // 2),
            )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y += jnp.tile(bias, y.shape[-1] // self.features).reshape(1, 1, 1, -1)
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
    They are at least float32; the output has the input's type. With `blocks`, x holds blocks of 2x2
    pixels.

    A batch of several equal `parts`, one after another, is computed as if each part were a batch.
    """

    blocks: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool, parts: int = 1
    ) -> Float[Array, "b h w c"]:
        channels = x.shape[-1] // (4 if self.blocks else 1)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if not train:
            mean, var = running_mean.value[None], running_var.value[None]
            return _normalize_relu(x, scale, bias, mean, var)
        y, means, variances = batch_norm_relu(x, scale, bias, running_mean.value, parts)
        if not self.is_initializing():
            n = _count_pixels(x, means)
            for mean, var in zip(means, variances * (n / max(n - 1, 1)), strict=True):
                running_mean.value += BATCH_NORM_MOMENTUM * (mean - running_mean.value)
                running_var.value += BATCH_NORM_MOMENTUM * (var - running_var.value)
        return y


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def batch_norm_relu(
    x: Float[Array, "b h w cs"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    shift: Float[Array, " c"],
    parts: int = 1,
) -> tuple[Float[Array, "b h w cs"], Float[Array, "parts c"], Float[Array, "parts c"]]:
    """relu(scale * (x - mean) / sqrt(var + epsilon) + bias), and each part's mean and variance.

    The last axis of x holds the c channels of one pixel, or those of the four pixels of a block.

    `shift` is an estimate of the mean; the closer, the more accurate the variance. Both come from
    sums over x - shift, so x is read once and devices synchronize once.

    The backward pass needs only x and the output, kept in their own type: no float32 copies of
    bfloat16 arrays. No gradient flows through the returned mean and variance.
    """
    shifted = _to_float32(x) - _spread(shift[None], x)
    sums = _sum_pixels(shifted, jnp.square(shifted), shape=(parts, shift.size))
    offset, square = _mean_over_devices(sums, x)
    var = jnp.maximum(square - jnp.square(offset), 0)
    mean = shift[None] + offset
    return _normalize_relu(x, scale, bias, mean, var), mean, var


def _normalize_relu(
    x: Array, scale: ArrayLike, bias: ArrayLike, mean: ArrayLike, var: ArrayLike
) -> Array:
    """Mean and variance are [parts, c]."""
    factor = scale[None] * lax.rsqrt(var + BATCH_NORM_EPSILON)
    y = x * _spread(factor, x) + _spread(bias[None] - mean * factor, x)
    return nn.relu(y).astype(x.dtype)


def _batch_norm_relu_forward(
    x: Array, scale: Array, bias: Array, shift: Array, parts: int
) -> tuple[Any, Any]:
    y, mean, var = batch_norm_relu(x, scale, bias, shift, parts)
    return (y, mean, var), (x, y, scale, mean, var)


def _batch_norm_relu_backward(
    parts: int, residuals: Any, cotangents: Any
) -> tuple[Array, Array, Array, None]:
    """The gradients of Ioffe and Szegedy (2015), section 3, from sums over pixels."""
    x, y, scale, mean, var = residuals
    inverse_deviation = lax.rsqrt(var + BATCH_NORM_EPSILON)
    normalized = (_to_float32(x) - _spread(mean, x)) * _spread(inverse_deviation, x)
    gradient = jnp.where(y > 0, _to_float32(cotangents[0]), 0)
    # The gradients of bias and scale: of this device's images only, as those of all parameters.
    sums = _sum_pixels(gradient, gradient * normalized, shape=mean.shape)
    bias_mean, scale_mean = (_spread(means, x) for means in _mean_over_devices(sums, x))
    centered = gradient - bias_mean - normalized * scale_mean
    x_gradient = (centered * _spread(scale[None] * inverse_deviation, x)).astype(x.dtype)
    bias_gradient, scale_gradient = sums.sum(axis=1)
    return x_gradient, scale_gradient, bias_gradient, None


def _sum_pixels(
    *arrays: Float[Array, "b h w cs"], shape: tuple[int, int]
) -> Float[Array, "n parts c"]:
    """The sums over the pixels of each part; `shape` is (parts, c)."""
    parts, channels = shape

    def sum_rows(array: Array) -> Float[Array, "images cs"]:
        if parts > 1:
            return array.sum(axis=(1, 2))
        return array.reshape(-1, array.shape[-1]).sum(axis=0)[None]  # faster on CPU

    sums = jnp.stack([sum_rows(array) for array in arrays])
    return sums.reshape(len(arrays), parts, -1, channels).sum(axis=2)


def _mean_over_devices(sums: Float[Array, "2 parts c"], x: Array) -> Float[Array, "2 parts c"]:
    """The mean over all pixels of x, from sums over those of this device: one reduction."""
    return sum_over_devices(sums, (DATA_AXIS,)) / _count_pixels(x, sums[0])


def _count_pixels(x: Array, vectors: Float[Array, "parts c"]) -> int:
    """The number of pixels of each part on all devices."""
    return x.size // vectors.size * device_count((DATA_AXIS,))


def _to_float32(x: Array) -> Array:
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _spread(vectors: Float[Array, "parts c"], x: Array) -> Float[Array, "images 1 1 cs"]:
    """Repeats each part's vector for the pixels in the last axis of x, and for its images."""
    parts, channels = vectors.shape
    vectors = jnp.tile(vectors, x.shape[-1] // channels)
    if parts > 1:
        vectors = jnp.repeat(vectors, x.shape[0] // parts, axis=0)
    return vectors[:, None, None]


batch_norm_relu.defvjp(_batch_norm_relu_forward, _batch_norm_relu_backward)


class ConvNormRelu(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    transposed: bool = False
    dtype: Any = None
    blocks: bool = False  # as in Conv

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w ci"], *, train: bool, parts: int = 1
    ) -> Float[Array, "b ho wo co"]:
        x = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.transposed,
            dtype=self.dtype,
            blocks=self.blocks,
            name="conv",
        )(x)
        norm = BatchNormRelu(blocks=x.shape[-1] != self.features, name="bn")
        return norm(x, train=train, parts=parts)
