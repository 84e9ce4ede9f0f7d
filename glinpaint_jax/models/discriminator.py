"""The paper's context discriminators (table 2), as MMagic builds them (GLDiscs)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from glinpaint_jax.models.layers import ConvNormRelu, Layer

# Table 2 of the paper. Shapes are for width 64 and 256x256 images. Each branch ends in a linear
# layer to 1024 features; another maps both to one logit.
GLOBAL_BRANCH = (  # [256, 256, 3]
    Layer("conv1", 1, kernel=5, stride=2),  # [128, 128, 64]
    Layer("conv2", 2, kernel=5, stride=2),  # [64, 64, 128]
    Layer("conv3", 4, kernel=5, stride=2),  # [32, 32, 256]
    Layer("conv4", 8, kernel=5, stride=2),  # [16, 16, 512]
    Layer("conv5", 8, kernel=5, stride=2),  # [8, 8, 512]
    Layer("conv6", 8, kernel=5, stride=2),  # [4, 4, 512]
)
LOCAL_BRANCH = GLOBAL_BRANCH[:-1]  # [128, 128, 3] -> [4, 4, 512]
# PyTorch multiplies linear layers, unlike convolutions, in full float32 by default.
LINEAR = partial(
    nn.Dense, kernel_init=nn.initializers.normal(0.02), precision=jax.lax.Precision.HIGHEST
)


class Branch(nn.Module):
    """The convolutions of one table, then a linear layer to 16 * width features."""

    table: tuple[Layer, ...]
    width: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool, parts: int = 1
    ) -> Float[Array, "b features"]:
        for layer in self.table:
            convolve = ConvNormRelu(layer, self.width, self.dtype, name=layer.name)
            x = convolve(x, train=train, parts=parts)
        x = x.reshape(x.shape[0], -1)
        return nn.relu(LINEAR(16 * self.width, name="fc")(x))


class Discriminator(nn.Module):
    """Scores a whole image together with the window around its hole.

    Convolutions compute in `dtype`, linear layers in the parameters' own precision. Unlike the
    generator, it only accepts the image size it was initialized with.
    """

    width: int = 64
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b h w 3"],
        window: Float[Array, "b hl wl 3"],
        *,
        train: bool,
        parts: int = 1,
    ) -> Float[Array, "b 1"]:
        """Image and local window in [-1, 1] -> logits, positive for images that look real.

        `parts` is that of BatchNormRelu.
        """
        global_branch = Branch(GLOBAL_BRANCH, self.width, self.dtype, name="global_disc")
        local_branch = Branch(LOCAL_BRANCH, self.width, self.dtype, name="local_disc")
        whole = global_branch(image, train=train, parts=parts)
        local = local_branch(window, train=train, parts=parts)
        return LINEAR(1, name="fc")(jnp.concatenate([whole, local], axis=-1))
