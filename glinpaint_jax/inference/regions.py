"""Which rectangles of an image must be computed so that all its holes are exact.

An output pixel of the generator depends on no input farther away than RECEPTIVE_RADIUS. So a hole
computed from a crop that reaches that far around it, or to the image's border, and that starts at a
multiple of STRIDE, is computed as if from the whole image.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from glinpaint_jax.data.masks import bounding_box
from glinpaint_jax.models.generator import RECEPTIVE_RADIUS, STRIDE

# Crops come in these steps of height and width (or are as large as the image), so that few shapes
# are compiled: with tiles of 512 pixels, six heights and six widths.
SIZE_STEP = 128


class Box(NamedTuple):
    """Rows top..bottom and columns left..right, the ends not included."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


class Region(NamedTuple):
    """A crop to compute, and the part of it that holds the holes to fill, both in the image."""

    crop: Box
    kept: Box

    @property
    def kept_in_crop(self) -> tuple[slice, slice]:
        top, left = self.kept.top - self.crop.top, self.kept.left - self.crop.left
        height, width = self.kept.size
        return slice(top, top + height), slice(left, left + width)


def plan_regions(hole: Bool[np.ndarray, "h w"], tile: int) -> list[Region]:
    """Regions whose `kept` boxes cover all holes, none of them larger than `tile` on a side.

    `hole` has sides that are multiples of STRIDE. Boxes are merged where that saves work.
    """
    height, width = hole.shape
    kept = []
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            part = hole[top : top + tile, left : left + tile]
            if part.any():
                y, x, rows, columns = bounding_box(part.view(np.uint8)[..., None]).tolist()
                kept.append(Box(top + y, left + x, top + y + rows, left + x + columns))
    kept = merge(kept, tile, height, width)
    return [Region(crop_around(box, height, width), box) for box in kept]


def union(first: Box, second: Box) -> Box:
    return Box(
        min(first.top, second.top),
        min(first.left, second.left),
        max(first.bottom, second.bottom),
        max(first.right, second.right),
    )


def merge(boxes: list[Box], tile: int, height: int, width: int) -> list[Box]:
    """Joins each box with the one before it that saves most, while one crop costs less than two."""

    def saved(first: Box, second: Box) -> int:
        both = union(first, second)
        if max(both.size) > tile:
            return 0
        apart = sum(crop_around(box, height, width).area for box in (first, second))
        return apart - crop_around(both, height, width).area

    # By tile, so that only neighbours are looked at: joined boxes are no larger than a tile.
    joined: dict[tuple[int, int], list[Box]] = {}
    for box in boxes:
        while True:
            row, column = box.top // tile, box.left // tile
            near = [
                (saved(box, other), place, other)
                for place in itertools.product(
                    (row - 1, row, row + 1), (column - 1, column, column + 1)
                )
                for other in joined.get(place, [])
            ]
            saving, place, other = max(near, default=(0, (0, 0), box))
            if saving <= 0:
                break
            joined[place].remove(other)
            box = union(box, other)
        joined.setdefault((row, column), []).append(box)
    return [box for group in joined.values() for box in group]


def crop_around(box: Box, height: int, width: int) -> Box:
    """The box grown by the receptive radius, aligned to the stride, of a size in SIZE_STEPs."""
    top, bottom = _grown(box.top, box.bottom, height)
    left, right = _grown(box.left, box.right, width)
    return Box(top, left, bottom, right)


def _grown(start: int, end: int, length: int) -> tuple[int, int]:
    start = max(0, start - RECEPTIVE_RADIUS) // STRIDE * STRIDE
    end = min(length, -(-(end + RECEPTIVE_RADIUS) // STRIDE) * STRIDE)
    size = min(length, -(-(end - start) // SIZE_STEP) * SIZE_STEP)
    start = min(start, length - size)  # `length` and `size` are multiples of the stride
    return start, start + size
