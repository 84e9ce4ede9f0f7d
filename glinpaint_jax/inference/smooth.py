"""The smooth fill of a whole photograph, computed only around its holes."""

import cv2
import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Shaped

from glinpaint_jax.data.masks import bounding_box
from glinpaint_jax.inference.photos import Hole
from glinpaint_jax.models.inputs import to_unit_range
from glinpaint_jax.models.smooth import smooth_fill

GAP = 32  # holes at most this many pixels apart are filled together
MIN_SIDE = 64
SQUARE = 512  # crops up to this side are square: compiling takes longer than filling


def smooth_fill_photo(image: Shaped[np.ndarray, "h w 3"], hole: Hole) -> Float[np.ndarray, "h w 3"]:
    """Returns the image in float32, 0..255, with its hole filled smoothly.

    Computes crops around the holes, of few sizes to compile few programs. A fill depends only on
    the pixels next to its hole, so the result is that of the whole image.
    """
    filled = image.astype(np.float32)
    reach = np.ones((GAP + 1, GAP + 1), np.uint8)
    count, groups = cv2.connectedComponents(cv2.dilate(hole.astype(np.uint8), reach))
    for group in range(1, count):
        near = hole & (groups == group)
        top, left, height, width = bounding_box(near[..., None].view(np.uint8)).tolist()
        # Powers of two that hold the group and a pixel around it.
        sides = [max(MIN_SIDE, 1 << (size + 1).bit_length()) for size in (height, width)]
        sides = [max(side, min(SQUARE, max(sides))) for side in sides]
        crop = tuple(
            slice(start := max(0, min(first - 1, length - side)), start + side)
            for first, length, side in zip((top, left), hole.shape, sides, strict=True)
        )
        values = np.asarray(_fill_crop(image[crop][None], near[crop][None, ..., None]))[0]
        np.copyto(filled[crop], values, where=near[crop][..., None])
    return filled


@jax.jit
def _fill_crop(image: Array, mask: Array) -> Array:
    image = to_unit_range(image.astype(np.float32))
    return smooth_fill(image, mask.astype(np.float32)) * 127.5 + 127.5
