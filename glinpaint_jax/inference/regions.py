"""Plans which crops of an image to compute so that all its holes are exact.

An output pixel of the generator depends on no input pixel farther away than RECEPTIVE_RADIUS. So a
crop gives the same result as the whole image if it starts at a multiple of STRIDE and extends that
far around the hole, or to the image's border.
"""

import numpy as np

from glinpaint_jax.inference.boxes import Box, box_around, group_holes, grow, split_box
from glinpaint_jax.inference.photos import Hole
from glinpaint_jax.models.generator import RECEPTIVE_RADIUS, STRIDE

# Crops are squares, whose sides are multiples of this, so that few programs are compiled: at most
# seven for tiles of 512 pixels.
SIZE_STEP = 128


def plan_regions(hole: Hole, tile: int) -> list[tuple[Box, Box]]:
    """Returns crops to compute, which may extend beyond the image, and the box of each to keep.

    The boxes to keep cover all holes; no side exceeds `tile`. Holes closer than the receptive
    radius share regions, because their crops would overlap.
    """
    regions = []
    for group in group_holes(hole, RECEPTIVE_RADIUS - 2 * STRIDE, STRIDE):
        for square in split_box(group, tile, hole):
            kept = box_around(hole, square)
            top, left, bottom, right = grow(kept, RECEPTIVE_RADIUS, hole.shape)
            top, left = top // STRIDE * STRIDE, left // STRIDE * STRIDE
            side = -(-max(bottom - top, right - left) // SIZE_STEP) * SIZE_STEP
            regions.append((Box(top, left, top + side, left + side), kept))
    return regions


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
