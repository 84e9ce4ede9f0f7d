"""The paper's completion network (table 1), as MMagic builds it (GLEncoderDecoder)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import Initializer
from jaxtyping import Float

from glinpaint_jax.models.blocks import to_blocks, to_pixels
from glinpaint_jax.models.layers import CONV_INIT, Conv, ConvNormRelu, Layer

STRIDE = 4  # input sides must be multiples of it
RECEPTIVE_RADIUS = 153  # an output pixel depends on no input pixel farther away

# Table 1 of the paper. Shapes are for width 64.
ENCODER = (  # [h, w, 4]
    Layer("enc1", 1, kernel=5, block_side=2),  # [h, w, 64]
    Layer("enc2", 2, kernel=3, stride=2, block_side=1),  # [h/2, w/2, 128]
    Layer("enc3", 2, kernel=3),
    Layer("enc4", 4, kernel=3, stride=2),  # [h/4, w/4, 256]
    Layer("enc5", 4, kernel=3),
    Layer("enc6", 4, kernel=3),
)
DILATION_NECK = (
    Layer("dilation_convs_0", 4, kernel=3, dilation=2),
    Layer("dilation_convs_1", 4, kernel=3, dilation=4),
    Layer("dilation_convs_2", 4, kernel=3, dilation=8),
    Layer("dilation_convs_3", 4, kernel=3, dilation=16),
)
DECODER = (
    Layer("dec1", 4, kernel=3),
    Layer("dec2", 4, kernel=3),
    Layer("dec3", 2, kernel=4, stride=2, transposed=True),  # [h/2, w/2, 128]
    Layer("dec4", 2, kernel=3),
    Layer("dec5", 1, kernel=4, stride=2, transposed=True, block_side=2),  # [h, w, 64]
    Layer("dec6", 0.5, kernel=3, block_side=2),  # [h, w, 32]
)
# With bias, no norm, no ReLU. In blocks of 4x4 pixels it has 48 channels; of 2x2, it would have 12.
TO_RGB = Layer("dec7", 0, kernel=3, block_side=4)  # [h, w, 3]


class Stack(nn.Module):
    """The layers of one table, in order; with `rgb_init`, then a convolution to RGB."""

    table: tuple[Layer, ...]
    width: int
    dtype: Any = None
    blocks: bool = False
    rgb_init: Initializer | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w ci"],
        inside: Float[Array, "b h_full w_full 1"] | None = None,
        *,
        train: bool,
    ) -> Float[Array, "b ho wo co"]:
        for layer in self.table:
            convolve = ConvNormRelu(layer, self.width, self.dtype, self.blocks, name=layer.name)
            x = pad_outside(convolve(x, train=train), inside)
        if self.rgb_init:
            # No dtype: the last layer computes in the parameters' own precision.
            x = Conv(TO_RGB, 3, True, self.rgb_init, blocks=self.blocks, name=TO_RGB.name)(x)
            x = to_pixels(x, TO_RGB.block_side) if self.blocks else x
        return x


def pad_outside(
    x: Float[Array, "b h w c"], inside: Float[Array, "b h_full w_full 1"] | None
) -> Float[Array, "b h w c"]:
    """Sets to 0 what is not inside the image, as the padding of a convolution is."""
    if inside is None:
        return x
    stride = inside.shape[1] // x.shape[1]
    return x * inside[:, ::stride, ::stride]


class Generator(nn.Module):
    """Completes masked images of any size whose sides are multiples of `STRIDE`.

    `width` is the number of channels of the first layer (64 in the paper); `output` is 'clip'
    (MMagic) or 'sigmoid' (the paper); all convolutions but the last compute in `dtype`.

    With `base` 'smooth', the prediction is `masked_image` plus, in the hole, the last layer's
    output, which is 0 at first. Training does not clip it: clipped pixels get no gradient.

    `padding` is the RGB color in [-1, 1] beyond the border: the first layer sees differences to it.

    With `blocks`, full resolution is computed in blocks of 2x2 pixels (blocks.py): equal results.
    """

    width: int = 64
    output: str = "clip"
    base: str = "none"
    dtype: Any = None
    blocks: bool = False
    padding: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @nn.compact
    def __call__(
        self,
        masked_image: Float[Array, "b h w 3"],
        mask: Float[Array, "b h w 1"],
        inside: Float[Array, "b h w 1"] | None = None,
        *,
        train: bool,
    ) -> Float[Array, "b h w 3"]:
        """`masked_image` in [-1, 1] with its hole filled, `mask` 1 = hole -> prediction [-1, 1].

        `inside` is 1 in the upper left part that is the image, 0 beyond it: so images of many sizes
        share one program. Not with `blocks`.
        """
        smooth, shared = self.base == "smooth", (self.width, self.dtype, self.blocks)
        rgb_init = nn.initializers.zeros if smooth else CONV_INIT
        padding = jnp.array(self.padding, masked_image.dtype).reshape(1, 1, 1, 3)
        x = pad_outside(jnp.concatenate([masked_image - padding, mask], axis=-1), inside)
        x = to_blocks(x) if self.blocks else x
        x = Stack(ENCODER, *shared, name="encoder")(x, inside, train=train)
        x = Stack(DILATION_NECK, *shared, name="dilation_neck")(x, inside, train=train)
        x = Stack(DECODER, *shared, rgb_init=rgb_init, name="decoder")(x, inside, train=train)
        if smooth:
            x = masked_image + mask * x
            return x if train else jnp.clip(x, -1, 1)
        if self.output == "sigmoid":
            return 2 * nn.sigmoid(x) - 1
        return jnp.clip(x, -1, 1)
