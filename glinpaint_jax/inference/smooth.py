"""The smooth fill of a whole photograph, computed only around its holes."""

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Shaped

from glinpaint_jax.inference.boxes import label_holes
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
    labels, boxes = label_holes(hole, GAP)
    for label, box in enumerate(boxes, start=1):
        # Powers of two that hold the box and a pixel around it.
        sides = [max(MIN_SIDE, 1 << (size + 1).bit_length()) for size in box.size]
        sides = [max(side, min(SQUARE, max(sides))) for side in sides]
        crop = tuple(
            slice(start := max(0, min(first - 1, length - side)), start + side)
            for first, length, side in zip(box[:2], hole.shape, sides, strict=True)
        )
        mask = (labels[crop] == label)[..., None]
        values = np.asarray(_fill_crop(image[crop][None], mask[None]))[0]
        np.copyto(filled[crop], values, where=mask)
    return filled


@jax.jit
def _fill_crop(image: Array, mask: Array) -> Array:
    image = to_unit_range(image.astype(np.float32))
    return smooth_fill(image, mask.astype(np.float32)) * 127.5 + 127.5
