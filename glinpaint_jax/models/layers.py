"""Layers shared by the generator and the discriminator."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn.initializers import Initializer
from jaxtyping import Float

from glinpaint_jax.models.batch_norm import ONE_BATCH, BatchNormRelu, Parts
from glinpaint_jax.models.blocks import conv2d_on_blocks, conv_transpose_to_blocks
from glinpaint_jax.models.conv import conv2d, conv_transpose_4x4_stride2

# Kaiming normal, fan_out, ReLU (MMagic). For transposed kernels PyTorch computes fan_out from the
# first axis, the input channels.
CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
TRANSPOSED_CONV_INIT = nn.initializers.variance_scaling(
    2.0, "fan_out", "normal", in_axis=-1, out_axis=-2
)


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
        self, x: Float[Array, "b h w ci"], *, train: bool, parts: Parts = ONE_BATCH
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
