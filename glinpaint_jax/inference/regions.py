"""Plans which crops of an image to compute so that all its holes are exact.

An output pixel of the generator depends on no input pixel farther away than RECEPTIVE_RADIUS. So a
crop gives the same result as the whole image if it starts at a multiple of STRIDE and extends that
far around the hole, or to the image's border.
"""

from typing import NamedTuple

import cv2
import numpy as np

from glinpaint_jax.inference.boxes import Box, label_holes, split_box
from glinpaint_jax.inference.photos import Hole
from glinpaint_jax.models.generator import RECEPTIVE_RADIUS, STRIDE

# A crop's height and width are multiples of this, or the image's, so that few shapes are compiled:
# six heights and six widths for tiles of 512 pixels.
SIZE_STEP = 128


class Region(NamedTuple):
    """A crop to compute and the box of it to keep, both in image coordinates."""

    crop: Box
    kept: Box

    @property
    def kept_in_crop(self) -> tuple[slice, slice]:
        top, left = self.kept.top - self.crop.top, self.kept.left - self.crop.left
        height, width = self.kept.size
        return slice(top, top + height), slice(left, left + width)


def plan_regions(hole: Hole, tile: int) -> list[Region]:
    """Returns regions whose `kept` boxes cover all holes; no side of a box exceeds `tile`.

    The sides of `hole` must be multiples of STRIDE. Holes closer than the receptive radius share
    regions, because their crops would overlap.
    """
    height, width = hole.shape
    coarse = hole.reshape(height // STRIDE, STRIDE, width // STRIDE, STRIDE).any(axis=(1, 3))
    _, groups = label_holes(coarse, RECEPTIVE_RADIUS // STRIDE - 1)
    regions = []
    for group in groups:
        group = shrink_to_hole(Box(*(STRIDE * edge for edge in group)), hole)
        for square in split_box(group, tile, hole):
            kept = shrink_to_hole(square, hole)
            regions.append(Region(crop_around(kept, height, width), kept))
    return regions


def shrink_to_hole(box: Box, hole: Hole) -> Box:
    """The smallest box around the hole's pixels in `box`."""
    left, top, width, height = cv2.boundingRect(hole[box.slices].view(np.uint8))
    top, left = box.top + top, box.left + left
    return Box(top, left, top + height, left + width)


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
