"""Two baselines without learning that a model should beat, in numpy and OpenCV."""

import cv2
import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "h w 3"]
Mask = UInt8[np.ndarray, "h w 1"]

TELEA_RADIUS = 3  # pixels


def mean_fill(image: Image, mask: Mask) -> Image:
    """Fills the hole (mask 1) with the mean colour of the valid pixels."""
    hole = mask[..., 0] > 0
    filled = image.copy()
    filled[hole] = np.rint(image[~hole].mean(axis=0)).astype(np.uint8)
    return filled


def telea(image: Image, mask: Mask) -> Image:
    """Telea's fast marching inpainting (2004)."""
    return cv2.inpaint(image, mask[..., 0], TELEA_RADIUS, cv2.INPAINT_TELEA)


BASELINES = {"mean colour": mean_fill, "Telea": telea}
