"""Turns a batch of bytes into the networks' inputs. Pure functions that run on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from glinpaint_jax.models.smooth import smooth_fill


class Inputs(NamedTuple):
    """A batch on the device: images in [-1, 1], mask 1 = hole, bbox (top, left, height, width)."""

    image: Float[Array, "b h w 3"]
    mask: Float[Array, "b h w 1"]
    bbox: Int[Array, "b 4"]

    def window_origins(self, window: int) -> Int[Array, "b 2"]:
        """(top, left) of the window centered on each bbox, clamped inside the image."""
        centered = self.bbox[:, :2] - (window - self.bbox[:, 2:]) // 2
        return jnp.clip(centered, 0, self.image.shape[1] - window)


def to_unit_range(pixels: Array) -> Array:
    """0..255 -> [-1, 1]."""
    return (pixels - 127.5) / 127.5


def to_pixel_range(image: Array) -> Array:
    """[-1, 1] -> 0..255, clipped, not rounded."""
    return jnp.clip(image * 127.5 + 127.5, 0, 255)


def bbox_mask(bbox: Int[Array, "b 4"], height: int, width: int) -> Float[Array, "b h w 1"]:
    """1 inside each (top, left, height, width), 0 outside."""
    top, left, box_height, box_width = (bbox[:, i].reshape(-1, 1, 1, 1) for i in range(4))
    rows = jnp.arange(height).reshape(1, -1, 1, 1)
    columns = jnp.arange(width).reshape(1, 1, -1, 1)
    inside = (rows >= top) & (rows < top + box_height)
    return (inside & (columns >= left) & (columns < left + box_width)).astype(jnp.float32)


def make_inputs(batch: dict[str, Array]) -> Inputs:
    """Scales the images of a batch and draws its masks.

    `batch` holds image uint8 [b, h, w, 3], bbox int32 [b, 4] and, for free-form holes, mask uint8
    [b, h, w, 1] (1 = hole).
    """
    image = to_unit_range(batch["image"].astype(jnp.float32))
    if "mask" in batch:
        mask = batch["mask"].astype(jnp.float32)
    else:
        mask = bbox_mask(batch["bbox"], image.shape[1], image.shape[2])
    return Inputs(image, mask, batch["bbox"])


def fill_hole(
    image: Array, mask: Array, fill: tuple[float, float, float], base: str = "none"
) -> Array:
    """Fills the hole of an image in [-1, 1], as the generator sees it.

    With `base` 'none', it gets the RGB color `fill`, 0..255; with 'smooth', the smooth fill.
    """
    if base == "smooth":
        return smooth_fill(image, mask)
    color = to_unit_range(jnp.asarray(fill, jnp.float32)).reshape(1, 1, 1, 3)
    return composite(color, image, mask)


def composite(prediction: Array, image: Array, mask: Array) -> Array:
    """Takes the prediction in the hole, the image elsewhere."""
    return image * (1 - mask) + prediction * mask


def cut_windows(
    image: Float[Array, "b h w c"], origins: Int[Array, "b 2"], window: int
) -> Float[Array, "b window window c"]:
    """Cuts the square window at (top, left) out of each image."""

    def cut(one: Array, origin: Array) -> Array:
        return lax.dynamic_slice(
            one, (origin[0], origin[1], jnp.zeros_like(origin[0])), (window, window, one.shape[-1])
        )

    return jax.vmap(cut)(image, origins)
