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


def label_holes(hole: Hole, gap: int = 0) -> tuple[Int32[np.ndarray, "h w"], list[Box]]:
    """Returns labels from 1, 0 outside the holes, and the box of each label in order.

    Holes at most `gap` pixels apart share a label.
    """
    reach = np.ones((gap + 1, gap + 1), np.uint8)
    _, labels = cv2.connectedComponents(cv2.dilate(hole.view(np.uint8), reach))
    labels[~hole] = 0
    boxes = ndimage.find_objects(labels)
    return labels, [
        Box(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in boxes
    ]


def split_box(box: Box, side: int, hole: Hole) -> Iterator[Box]:
    """Yields the parts of a box with a hole, at most `side` pixels high and wide."""
    for top in range(box.top, box.bottom, side):
        for left in range(box.left, box.right, side):
            tile = Box(top, left, min(top + side, box.bottom), min(left + side, box.right))
            if hole[tile.slices].any():
                yield tile
