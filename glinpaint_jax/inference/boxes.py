"""Holes and the boxes around them."""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Int32
from scipy import ndimage

from glinpaint_jax.inference.photos import Hole


class Box(NamedTuple):
    """Rows top..bottom and columns left..right, excluding bottom and right."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def moved(self, down: int, right: int) -> "Box":
        return Box(self.top + down, self.left + right, self.bottom + down, self.right + right)


def box_around(hole: Hole, within: Box | None = None) -> Box:
    """The smallest box around the hole's pixels that are `within` a box."""
    within = within or Box(0, 0, *hole.shape)
    left, top, width, height = cv2.boundingRect(hole[within.slices].view(np.uint8))
    return Box(top, left, top + height, left + width).moved(within.top, within.left)


def grow(box: Box, pixels: int, shape: tuple[int, int]) -> Box:
    """Extends a box on all sides, up to the border of an image of that shape."""
    top, left = max(0, box.top - pixels), max(0, box.left - pixels)
    return Box(top, left, min(shape[0], box.bottom + pixels), min(shape[1], box.right + pixels))


def label_holes(hole: Hole, gap: int = 0) -> tuple[Int32[np.ndarray, "h w"], list[Box]]:
    """Returns labels from 1, 0 outside the holes, and the box of each label in order.

    Holes at most `gap` pixels apart share a label.
    """
    labels, box = np.zeros(hole.shape, np.int32), box_around(hole)
    if box.bottom == box.top:
        return labels, []
    part, reach = np.ascontiguousarray(hole[box.slices]), np.ones((gap + 1, gap + 1), np.uint8)
    _, found = cv2.connectedComponents(cv2.dilate(part.view(np.uint8), reach))
    found[~part] = 0
    labels[box.slices] = found
    return labels, [
        Box(rows.start, columns.start, rows.stop, columns.stop).moved(box.top, box.left)
        for rows, columns in ndimage.find_objects(found)
    ]


def group_holes(hole: Hole, gap: int, cell: int) -> list[Box]:
    """Boxes of whole cells around groups of holes, which are more than `gap` pixels apart.

    Looks only at cells of cell x cell pixels, which takes less time and memory than `label_holes`.
    """
    padded = np.pad(hole, [(0, -side % cell) for side in hole.shape])
    coarse = padded.reshape(-1, cell, padded.shape[1] // cell, cell).any(axis=(1, 3))
    _, groups = label_holes(coarse, -(-gap // cell))
    return [Box(*(cell * edge for edge in group)) for group in groups]


def split_box(box: Box, side: int, hole: Hole) -> Iterator[Box]:
    """Yields the parts of a box with a hole, at most `side` pixels high and wide."""
    for top in range(box.top, box.bottom, side):
        for left in range(box.left, box.right, side):
            tile = Box(top, left, min(top + side, box.bottom), min(left + side, box.right))
            if hole[tile.slices].any():
                yield tile
