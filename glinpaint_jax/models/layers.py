"""Layers shared by the generator and the discriminator."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn.initializers import Initializer
from jaxtyping import Float

from glinpaint_jax.models.batch_norm import BatchNormRelu
from glinpaint_jax.models.blocks import conv2d_on_blocks, conv_transpose_to_blocks
from glinpaint_jax.models.conv import conv2d, conv_transpose_4x4_stride2

# Kaiming normal, fan_out, ReLU (MMagic). For transposed kernels PyTorch computes fan_out from the
# first axis, the input channels.
CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
TRANSPOSED_CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Layer(NamedTuple):
    """A row of the paper's tables. The output has size ceil(size / stride), or twice the size.

    Transposed convolutions are 4x4 with stride 2.
    """

    name: str
    width_multiple: float  # output channels / the network's width
    kernel: int
    stride: int = 1
    dilation: int = 1
    transposed: bool = False
    block_side: int = 0  # of the output, in pixels, if computed on blocks (blocks.py); 0: never

    @property
    def padding(self) -> int:
        """As PyTorch counts it."""
        return 1 if self.transposed else self.dilation * (self.kernel // 2)

    def features(self, width: int) -> int:
        return int(self.width_multiple * width)


class Conv(nn.Module):
    """A row's convolution to `features` channels.

    Computes in `dtype`; None means the promoted type of its parameters and input. With `blocks`,
    layers with a `block_side` return blocks of that side and, unless transposed, get blocks of 2x2.
    """

    layer: Layer
    features: int
    use_bias: bool = False
    kernel_init: Initializer | None = None  # None: Kaiming
    dtype: Any = None
    blocks: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w ci"]) -> Float[Array, "b ho wo co"]:
        layer, (height, width) = self.layer, x.shape[1:3]
        on_blocks = self.blocks and layer.block_side > 0
        channels = x.shape[-1] // (4 if on_blocks and not layer.transposed else 1)

        def init(key: Array) -> Array:
            kaiming = TRANSPOSED_CONV_INIT if layer.transposed else CONV_INIT
            shape = layer.kernel, layer.kernel, channels, self.features
            kernel = (self.kernel_init or kaiming)(key, shape)
            if layer.dilation > 1 and self.is_initializing():
                # Weights that see only padding get no gradient. Random values would disturb larger
                # images later.
                reach = layer.dilation * abs(np.arange(layer.kernel) - layer.kernel // 2)
                kernel *= np.outer(reach < height, reach < width)[..., None, None]
            return kernel

        kernel = self.param("kernel", init)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        if on_blocks and layer.transposed:
            y = conv_transpose_to_blocks(x, kernel)
        elif on_blocks:
            y = conv2d_on_blocks(x, kernel, layer.stride, layer.block_side)
        elif layer.transposed:
            y = conv_transpose_4x4_stride2(x, kernel)
        else:
            y = conv2d(x, kernel, layer.stride, layer.dilation, layer.padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y += jnp.tile(bias, y.shape[-1] // self.features).reshape(1, 1, 1, -1)
        return y


class ConvNormRelu(nn.Module):
    """A row of the tables: convolution without bias, batch norm, ReLU."""

    layer: Layer
    width: int
    dtype: Any = None
    blocks: bool = False  # as in Conv

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w ci"], *, train: bool, parts: int = 1
    ) -> Float[Array, "b ho wo co"]:
        features = self.layer.features(self.width)
        x = Conv(self.layer, features, dtype=self.dtype, blocks=self.blocks, name="conv")(x)
        return BatchNormRelu(features, name="bn")(x, train=train, parts=parts)
