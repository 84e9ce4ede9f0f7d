"""The completion network of the paper (table 1), as MMagic builds it (GLEncoderDecoder)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from glinpaint_jax.models.layers import Conv, ConvNormRelu

STRIDE = 4  # input sides must be multiples of it
RECEPTIVE_RADIUS = 153  # an output pixel depends on no input farther away

# name, channels / width, kernel, stride, dilation, transposed
ENCODER = (
    ("enc1", 1, 5, 1, 1, False),
    ("enc2", 2, 3, 2, 1, False),  # 1/2
    ("enc3", 2, 3, 1, 1, False),
    ("enc4", 4, 3, 2, 1, False),  # 1/4
    ("enc5", 4, 3, 1, 1, False),
    ("enc6", 4, 3, 1, 1, False),
)
DILATION_NECK = (
    ("dilation_convs_0", 4, 3, 1, 2, False),
    ("dilation_convs_1", 4, 3, 1, 4, False),
    ("dilation_convs_2", 4, 3, 1, 8, False),
    ("dilation_convs_3", 4, 3, 1, 16, False),
)
DECODER = (
    ("dec1", 4, 3, 1, 1, False),
    ("dec2", 4, 3, 1, 1, False),
    ("dec3", 2, 4, 2, 1, True),  # 1/2
    ("dec4", 2, 3, 1, 1, False),
    ("dec5", 1, 4, 2, 1, True),  # full size
    ("dec6", 0.5, 3, 1, 1, False),
)


class Stack(nn.Module):
    """The layers of one table, in order; a decoder ends in a convolution with bias to RGB."""

    table: tuple
    width: int
    to_rgb: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w ci"], *, train: bool) -> Float[Array, "b ho wo co"]:
        for name, multiple, kernel, stride, dilation, transposed in self.table:
            features = int(multiple * self.width)
            x = ConvNormRelu(
                features, kernel, stride, dilation, transposed, dtype=self.dtype, name=name
            )(x, train=train)
        if self.to_rgb:
            # Not self.dtype: the last layer computes in the parameters' own precision.
            x = Conv(3, 3, use_bias=True, name="dec7")(x)
        return x


class Generator(nn.Module):
    """Completes masked images of any size whose sides are multiples of `STRIDE`.

    `width` is the channels of the first layer (64 in the paper); `output` is 'clip' (MMagic) or
    'sigmoid' (the paper); `dtype` is what all convolutions but the last compute in.
    """

    width: int = 64
    output: str = "clip"
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        masked_image: Float[Array, "b h w 3"],
        mask: Float[Array, "b h w 1"],
        *,
        train: bool,
    ) -> Float[Array, "b h w 3"]:
        """`masked_image` in [-1, 1] with its hole filled, `mask` 1 = hole -> prediction [-1, 1]."""
        x = jnp.concatenate([masked_image, mask], axis=-1)
        x = Stack(ENCODER, self.width, dtype=self.dtype, name="encoder")(x, train=train)
        x = Stack(DILATION_NECK, self.width, dtype=self.dtype, name="dilation_neck")(x, train=train)
        x = Stack(DECODER, self.width, to_rgb=True, dtype=self.dtype, name="decoder")(
            x, train=train
        )
        if self.output == "sigmoid":
            return 2 * nn.sigmoid(x) - 1
        return jnp.clip(x, -1, 1)
