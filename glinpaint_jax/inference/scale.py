"""The working scale: at it, a hole is no larger than those the generator was trained on.

A generator knows nothing about larger holes: in their middle it sees no photograph at all.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Int32, UInt8
from scipy import ndimage

from glinpaint_jax.config import BBOX_MASK_KINDS, Config
from glinpaint_jax.inference.boxes import box_around, grow, label_holes
from glinpaint_jax.inference.photos import Hole, Image
from glinpaint_jax.inference.smooth import smooth_fill_photo

SmallImage = UInt8[np.ndarray, "small_h small_w 3"]


def trained_size(config: Config) -> int:
    """Side in pixels of the largest hole of a training run.

    For holes without a fixed size, half the image: what the local discriminator sees.
    """
    return max(
        config.mask.max_size if kind in BBOX_MASK_KINDS else config.local_size
        for kind in config.mask.kinds
    )


def hole_sizes(hole: Hole) -> tuple[Int32[np.ndarray, "h w"], Int32[np.ndarray, " holes"]]:
    """Labels the holes 1.. and returns the side of the largest square in each.

    A square at the border may extend beyond it: nothing is known there either. A hole that covers
    the whole image has size 0: no scale would show the generator any photograph.
    """
    labels, boxes = label_holes(hole)
    if not boxes or hole.all():
        return labels, np.zeros(len(boxes), np.int32)
    part = grow(box_around(hole), 1, hole.shape).slices  # elsewhere, all distances are 0
    distance = cv2.distanceTransform(np.ascontiguousarray(hole[part]).view(np.uint8), cv2.DIST_C, 3)
    radii = ndimage.maximum(distance, labels[part], np.arange(1, len(boxes) + 1))
    return labels, np.asarray(2 * radii - 1, np.int32)


def large_holes(hole: Hole, largest: int) -> list[tuple[float, Hole]]:
    """Groups the holes larger than `largest` by working scale: 1/2, 1/4 ..., the smallest first."""
    labels, sizes = hole_sizes(hole)
    halvings = np.ceil(np.log2(np.maximum(sizes / largest, 1)))
    part, groups = box_around(hole).slices, []
    for k in np.unique(halvings[halvings > 0])[::-1].tolist():
        group = np.zeros_like(hole)
        group[part] = np.isin(labels[part], np.flatnonzero(halvings == k) + 1)
        groups.append((0.5**k, group))
    return groups


def shrink(
    image: Image, hole: Hole, scale: float
) -> tuple[SmallImage, Bool[np.ndarray, "small_h small_w"]]:
    """Shrinks both. A pixel is the mean of the valid pixels in it, and a hole if they are few."""
    height, width = hole.shape
    size = max(1, round(width * scale)), max(1, round(height * scale))
    valid = (~hole).astype(np.float32)
    share = cv2.resize(valid, size, interpolation=cv2.INTER_AREA)
    colors = cv2.resize(image * valid[..., None], size, interpolation=cv2.INTER_AREA)
    mean = colors / np.maximum(share, 1e-6)[..., None]
    return np.rint(mean).clip(0, 255).astype(np.uint8), share < 0.5


def enlarge(small: SmallImage, image: Image, hole: Hole) -> Image:
    """Returns `image` with its hole filled from `small`, the same image completed at some scale.

    Shifts the enlarged colors smoothly, so that they meet the sharp pixels around the hole. What
    `small` adds to a smooth fill is thus added to the smooth fill at full size. A hole that covers
    the whole image has no pixels to meet.
    """
    enlarged = cv2.resize(small, hole.shape[::-1], interpolation=cv2.INTER_CUBIC)
    if hole.all():
        return enlarged
    enlarged = enlarged.astype(np.int16)
    filled = enlarged + smooth_fill_photo(image - enlarged, hole)
    return np.where(hole[..., None], np.rint(filled).clip(0, 255).astype(np.uint8), image)
