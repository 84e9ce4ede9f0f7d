"""Plans which crops of an image to compute so that all its holes are exact.

An output pixel of the generator depends on no input pixel farther away than RECEPTIVE_RADIUS. So a
crop gives the same result as the whole image if it starts at a multiple of STRIDE and extends that
far around the hole, or to the image's border.
"""

import itertools
from typing import NamedTuple

import numpy as np

from glinpaint_jax.data.masks import bounding_box
from glinpaint_jax.inference.photos import Hole
from glinpaint_jax.models.generator import RECEPTIVE_RADIUS, STRIDE

# A crop's height and width are multiples of this, or the image's, so that few shapes are compiled:
# six heights and six widths for tiles of 512 pixels.
SIZE_STEP = 128


class Box(NamedTuple):
    """Rows top..bottom and columns left..right, excluding bottom and right."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


class Region(NamedTuple):
    """A crop to compute and the part of it to keep, both in image coordinates."""

    crop: Box
    kept: Box

    @property
    def kept_in_crop(self) -> tuple[slice, slice]:
        top, left = self.kept.top - self.crop.top, self.kept.left - self.crop.left
        height, width = self.kept.size
        return slice(top, top + height), slice(left, left + width)


def plan_regions(hole: Hole, tile: int) -> list[Region]:
    """Returns regions whose `kept` boxes cover all holes; no side of a box exceeds `tile`.

    The sides of `hole` must be multiples of STRIDE. Boxes are merged if that saves work.
    """
    height, width = hole.shape
    kept = []
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            part = hole[top : top + tile, left : left + tile]
            if part.any():
                y, x, rows, columns = bounding_box(part.view(np.uint8)[..., None]).tolist()
                kept.append(Box(top + y, left + x, top + y + rows, left + x + columns))
    kept = merge_boxes(kept, tile, height, width)
    return [Region(crop_around(box, height, width), box) for box in kept]


def union(first: Box, second: Box) -> Box:
    return Box(
        min(first.top, second.top),
        min(first.left, second.left),
        max(first.bottom, second.bottom),
        max(first.right, second.right),
    )


def merge_boxes(boxes: list[Box], tile: int, height: int, width: int) -> list[Box]:
    """Merges each box with an earlier one, the one that saves most pixels, while any saves some."""

    def saved_pixels(first: Box, second: Box) -> int:
        both = union(first, second)
        if max(both.size) > tile:
            return 0
        separate = sum(crop_around(box, height, width).area for box in (first, second))
        return separate - crop_around(both, height, width).area

    # Merged boxes are no larger than a tile, so only those in neighbouring tiles are candidates.
    merged: dict[tuple[int, int], list[Box]] = {}
    for box in boxes:
        while True:
            row, column = box.top // tile, box.left // tile
            candidates = [
                (saved_pixels(box, other), place, other)
                for place in itertools.product(
                    (row - 1, row, row + 1), (column - 1, column, column + 1)
                )
                for other in merged.get(place, [])
            ]
            saving, place, other = max(candidates, default=(0, (0, 0), box))
            if saving <= 0:
                break
            merged[place].remove(other)
            box = union(box, other)
        merged.setdefault((row, column), []).append(box)
    return [box for group in merged.values() for box in group]


def crop_around(box: Box, height: int, width: int) -> Box:
    """Grows a box by the receptive radius, aligned to STRIDE, to a multiple of SIZE_STEP."""
    top, bottom = _grow(box.top, box.bottom, height)
    left, right = _grow(box.left, box.right, width)
    return Box(top, left, bottom, right)


def _grow(start: int, end: int, length: int) -> tuple[int, int]:
    start = max(0, start - RECEPTIVE_RADIUS) // STRIDE * STRIDE
    end = min(length, -(-(end + RECEPTIVE_RADIUS) // STRIDE) * STRIDE)
    size = min(length, -(-(end - start) // SIZE_STEP) * SIZE_STEP)
    start = min(start, length - size)  # `length` and `size` are multiples of the stride
    return start, start + size
