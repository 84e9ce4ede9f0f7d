"""Hides the seam between a filled hole and its surroundings (paper, section 3.4).

Each hole is blended separately; the original pixels inside it are never read.
"""

import warnings

import cv2
import numpy as np

from glinpaint_jax.inference.boxes import box_around, grow, label_holes
from glinpaint_jax.inference.photos import Hole, Image

KINDS = ("none", "telea-poisson")
MAX_BLENDED = 8 * 10**6  # pixels of a hole's bounding box; blending takes 200 bytes for each
# In this many outermost pixels of a mask, OpenCV takes the detail from the destination.
ERODED = 3
MARGIN = 8  # pixels around a hole that blending uses
# The image is mirrored by at most this many pixels at borders that a hole touches, because there
# are no colors to match beyond the border.
MIRRORED = 128


def blend(completed: Image, hole: Hole, kind: str) -> Image:
    """Returns `completed` with its holes blended; pixels outside the holes are unchanged.

    telea-poisson: the completion is cloned over Telea's inpainting (radius 1), which remains
    visible in a rim of ERODED pixels. A hole that covers the whole image is not blended. Warns of
    holes that are too large to blend.
    """
    if kind == "none" or hole.all():
        return completed
    blended = completed.copy()
    labels, boxes = label_holes(hole, MARGIN)  # so that none lies in the surroundings of another
    for label, box in enumerate(boxes, start=1):
        height, width = box.size
        if height * width > MAX_BLENDED:
            warnings.warn(f"a hole of {width}x{height} pixels is too large to blend", stacklevel=2)
            continue
        crop = grow(box, MARGIN, hole.shape).slices
        this_hole = labels[crop] == label
        result = _blend_one(completed[crop], this_hole)
        blended[crop][this_hole] = result[this_hole]
    return blended


def _blend_one(completed: Image, hole: Hole) -> Image:
    """Blends one hole. `completed` is cropped to MARGIN pixels around it, or the image's border."""
    box, (height, width) = box_around(hole), hole.shape
    distances = (box.top, height - box.bottom, box.left, width - box.right)
    top, bottom, left, right = (
        0 if distance >= MARGIN else min(length, MIRRORED)
        for distance, length in zip(distances, (height, height, width, width), strict=True)
    )
    mirror = (top, bottom, left, right, cv2.BORDER_REFLECT)
    source = cv2.copyMakeBorder(completed, *mirror)
    mask = cv2.copyMakeBorder(hole.view(np.uint8), *mirror)
    # A hole that spans the image also reaches the mirrored border, but OpenCV needs a valid frame.
    for frame in (mask[:MARGIN], mask[-MARGIN:], mask[:, :MARGIN], mask[:, -MARGIN:]):
        frame[:] = 0
    destination = cv2.inpaint(source, mask, 1, cv2.INPAINT_TELEA)
    column, row, columns, rows = cv2.boundingRect(mask)
    # Only rim, or nothing in an image of a few pixels; OpenCV fails for the narrowest masks.
    if min(columns, rows) <= 2 * ERODED:
        return destination[top : top + height, left : left + width]
    center = (column + columns // 2, row + rows // 2)
    cloned = cv2.seamlessClone(source, destination, mask * 255, center, cv2.NORMAL_CLONE)
    return cloned[top : top + height, left : left + width]
