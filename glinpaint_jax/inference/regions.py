"""Plans which crops of an image to compute so that all its holes are exact.

An output pixel of the generator depends on no input pixel farther away than RECEPTIVE_RADIUS. So a
crop gives the same result as the whole image if it starts at a multiple of STRIDE and extends that
far around the hole, or to the image's border.
"""

from typing import NamedTuple

import numpy as np

from glinpaint_jax.inference.boxes import Box, box_around, group_holes, split_box
from glinpaint_jax.inference.photos import Hole
from glinpaint_jax.models.generator import RECEPTIVE_RADIUS, STRIDE

# Crops are squares, whose sides are multiples of this, so that few programs are compiled: at most
# seven for tiles of 512 pixels.
SIZE_STEP = 128


class Region(NamedTuple):
    """A crop to compute and the box of it to keep, both in image coordinates.

    The crop may extend beyond the image.
    """

    crop: Box
    kept: Box

    @property
    def kept_in_crop(self) -> tuple[slice, slice]:
        top, left = self.kept.top - self.crop.top, self.kept.left - self.crop.left
        height, width = self.kept.size
        return slice(top, top + height), slice(left, left + width)


def plan_regions(hole: Hole, tile: int) -> list[Region]:
    """Returns regions whose `kept` boxes cover all holes; no side of a box exceeds `tile`.

    Holes closer than the receptive radius share regions, because their crops would overlap.
    """
    regions = []
    for group in group_holes(hole, RECEPTIVE_RADIUS - 2 * STRIDE, STRIDE):
        for square in split_box(group, tile, hole):
            kept = box_around(hole, square)
            regions.append(Region(crop_around(kept, hole.shape), kept))
    return regions


def crop_around(box: Box, shape: tuple[int, int]) -> Box:
    """A square that holds the box and the receptive radius around it, as far as the image goes."""
    top, height = _reach(box.top, box.bottom, shape[0])
    left, width = _reach(box.left, box.right, shape[1])
    side = -(-max(height, width) // SIZE_STEP) * SIZE_STEP
    return Box(top, left, top + side, left + side)


def _reach(start: int, end: int, length: int) -> tuple[int, int]:
    """Where a crop starts, and how long it must be."""
    start = max(0, start - RECEPTIVE_RADIUS) // STRIDE * STRIDE
    return start, min(length, end + RECEPTIVE_RADIUS) - start


def cut(array: np.ndarray, crop: Box) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns the crop of an image or hole, 0 beyond the image, and how much of it is image.

    The image's last row and column are repeated until its sides are multiples of STRIDE.
    """
    part = array[crop.slices]
    rest = [(0, 0)] * (array.ndim - 2)
    part = np.pad(part, [(0, -side % STRIDE) for side in part.shape[:2]] + rest, mode="edge")
    height, width = part.shape[:2]
    missing = [(0, crop.size[0] - height), (0, crop.size[1] - width), *rest]
    return np.pad(part, missing), (height, width)
