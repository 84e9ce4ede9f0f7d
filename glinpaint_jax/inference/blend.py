"""Hiding the seam between a filled hole and its surroundings (paper, section 3.4).

Poisson blending keeps the detail of what was filled in and shifts its colours so that they meet
those around the hole. Each hole is blended by itself; nothing of the original inside it is read.
"""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from scipy.ndimage import distance_transform_edt

from glinpaint_jax.errors import UserError

KINDS = ("none", "poisson", "telea-poisson")
# OpenCV takes the detail of a mask's outermost pixels, this many, from the destination.
ERODED = 3
MARGIN = 8  # pixels around a hole that are looked at
# A hole at the image's border is mirrored there, at most this far: beyond the border are no colours
# that it must meet.
MIRRORED = 128

Image = UInt8[np.ndarray, "h w 3"]
Hole = Bool[np.ndarray, "h w"]


def blend(completed: Image, hole: Hole, kind: str, max_pixels: int | None = None) -> Image:
    """`completed` with its holes (True) blended into their surroundings, which stay as they are.

    poisson: the completion's detail up to the edge of the hole. telea-poisson: the paper's, with
    Telea's inpainting (radius 1) as the destination, of which a rim of ERODED pixels remains. A
    hole over everything stays as it is.

    A hole takes 200 bytes of memory for each pixel of its bounding box; raises UserError where that
    has more than `max_pixels`.
    """
    if kind == "none" or hole.all():
        return completed
    blended = completed.copy()
    # Holes that nearly touch are one: the surroundings of one must not be the inside of another.
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(_grown(hole, MARGIN // 2))
    for label, (left, top, width, height, _) in enumerate(boxes.tolist()[1:], start=1):
        if max_pixels is not None and width * height > max_pixels:
            raise UserError(
                f"a hole reaches over {width}x{height} pixels, too much for blending here; leave "
                "the seam, or make smaller holes"
            )
        rows = slice(max(0, top - MARGIN), top + height + MARGIN)
        columns = slice(max(0, left - MARGIN), left + width + MARGIN)
        this = hole[rows, columns] & (labels[rows, columns] == label)
        blended[rows, columns][this] = _blend_one(completed[rows, columns], this, kind)[this]
    return blended


def _blend_one(completed: Image, hole: Hole, kind: str) -> Image:
    """`completed` is cut out MARGIN pixels around the hole, or less at the image's border."""
    y, x = np.nonzero(hole)
    height, width = hole.shape
    distances = (y.min(), height - 1 - y.max(), x.min(), width - 1 - x.max())
    top, bottom, left, right = (
        0 if distance >= MARGIN else min(length, MIRRORED)
        for distance, length in zip(distances, (height, height, width, width), strict=True)
    )
    mirror = (top, bottom, left, right, cv2.BORDER_REFLECT)
    source = cv2.copyMakeBorder(completed, *mirror)
    mask = cv2.copyMakeBorder(hole.view(np.uint8), *mirror)
    # What spans the image reaches the end of its mirror image too, where OpenCV needs a frame.
    for frame in (mask[:MARGIN], mask[-MARGIN:], mask[:, :MARGIN], mask[:, -MARGIN:]):
        frame[:] = 0
    if not mask.any():  # an image of a few pixels
        return completed

    if kind == "telea-poisson":
        destination = cv2.inpaint(source, mask, 1, cv2.INPAINT_TELEA)
    else:
        # Edges too get their detail from inside: what lies around repeats the nearest of it.
        destination = source
        nearest = distance_transform_edt(mask == 0, return_distances=False, return_indices=True)
        source = source[tuple(nearest)]
        mask = _grown(mask, ERODED + 1)
    column, row, columns, rows = cv2.boundingRect(mask)
    if min(columns, rows) <= 2 * ERODED:  # all rim; OpenCV fails for the narrowest
        return destination[top : top + height, left : left + width]
    centre = (column + columns // 2, row + rows // 2)
    cloned = cv2.seamlessClone(source, destination, mask * 255, centre, cv2.NORMAL_CLONE)
    return cloned[top : top + height, left : left + width]


def _grown(mask: np.ndarray, radius: int) -> UInt8[np.ndarray, "h w"]:
    return cv2.dilate(mask.view(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8))
