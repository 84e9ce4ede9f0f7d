"""The context discriminators of the paper (table 2), as MMagic builds them (GLDiscs)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from glinpaint_jax.models.layers import ConvNormRelu

GLOBAL_LAYERS = 6  # 256 -> 4
LOCAL_LAYERS = 5  # 128 -> 4
LINEAR_INIT = nn.initializers.normal(0.02)


class Branch(nn.Module):
    """5x5 stride-2 convolutions, then a vector of 16 * width features (1024 at width 64)."""

    layers: int
    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b features"]:
        for i in range(self.layers):
            features = min(self.width * 2**i, self.width * 8)
            x = ConvNormRelu(features, 5, stride=2, dtype=self.dtype, name=f"conv{i + 1}")(
                x, train=train
            )
        x = x.reshape(x.shape[0], -1)
        return nn.relu(nn.Dense(16 * self.width, kernel_init=LINEAR_INIT, name="fc")(x))


class Discriminator(nn.Module):
    """Judges a whole image and the window around its hole together.

    The linear layers compute in the parameters' own precision, the convolutions in `dtype`.
    Unlike the generator it has a fixed image size, that of its initialisation.
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
    ) -> Float[Array, "b 1"]:
        """Image and local window in [-1, 1] -> logits, positive where it looks real."""
        features = jnp.concatenate(
            [
                Branch(GLOBAL_LAYERS, self.width, self.dtype, name="global_disc")(
                    image, train=train
                ),
                Branch(LOCAL_LAYERS, self.width, self.dtype, name="local_disc")(
                    window, train=train
                ),
            ],
            axis=-1,
        )
        return nn.Dense(1, kernel_init=LINEAR_INIT, name="fc")(features)
