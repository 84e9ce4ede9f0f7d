"""The smooth fill of a whole photograph, computed only around its holes."""

from collections.abc import Iterator

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Shaped

from glinpaint_jax.inference.boxes import box_around, label_holes
from glinpaint_jax.inference.photos import Hole, Image
from glinpaint_jax.models.inputs import to_unit_range
from glinpaint_jax.models.smooth import smooth_fill

GAP = 32  # holes at most this many pixels apart are filled together
MIN_SIDE = 64
SQUARE = 512  # crops up to this side are square: compiling takes longer than filling
DOT = 3  # largest side in pixels of dots; nothing that we have fills them better


def smooth_fill_photo(image: Shaped[np.ndarray, "h w 3"], hole: Hole) -> Float[np.ndarray, "h w 3"]:
    """Returns the image in float32, 0..255, with its hole filled smoothly.

    A fill depends only on the pixels next to its hole, so the result is that of the whole image.
    """
    filled = image.astype(np.float32)
    for crop, mask, values in _fill_crops(image, hole):
        np.copyto(filled[crop], values, where=mask)
    return filled


def fill_dots(image: Image, hole: Hole) -> tuple[Image, Hole]:
    """Fills dots of up to DOT x DOT pixels smoothly; returns the holes that are left."""
    labels, boxes = label_holes(hole)
    is_dot = np.array([False, *(max(box.size) <= DOT for box in boxes)])
    image, dots, part = image.copy(), np.zeros_like(hole), box_around(hole).slices
    dots[part] = is_dot[labels[part]]
    for crop, mask, values in _fill_crops(image, dots):
        np.copyto(image[crop], np.rint(values).astype(np.uint8), where=mask)
    return image, hole & ~dots


def _fill_crops(
    image: Shaped[np.ndarray, "h w 3"], hole: Hole
) -> Iterator[tuple[tuple[slice, slice], Shaped[np.ndarray, "a b 1"], Shaped[np.ndarray, "a b 3"]]]:
    """Yields crops that hold all holes, the holes in them, and their smooth fills, 0..255.

    The crops have few sizes, so that few programs are compiled.
    """
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
        yield crop, mask, np.asarray(_fill_crop(image[crop][None], mask[None]))[0]


@jax.jit
def _fill_crop(image: Array, mask: Array) -> Array:
    image = to_unit_range(image.astype(np.float32))
    return smooth_fill(image, mask.astype(np.float32)) * 127.5 + 127.5
