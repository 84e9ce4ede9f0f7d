"""The smooth fill of a whole photograph, computed only around its holes."""

from collections.abc import Iterator

import cv2
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
    image, left = image.copy(), hole.copy()
    part = left[box_around(hole).slices]
    if part.size:
        stacked = cv2.connectedComponentsWithStats(np.ascontiguousarray(part).view(np.uint8))
        _, labels, stats, _ = stacked
        sides = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
        part[(sides <= DOT)[labels]] = False
    for crop, mask, values in _fill_crops(image, hole & ~left):
        np.copyto(image[crop], np.rint(values).astype(np.uint8), where=mask)
    return image, left


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
