"""Baselines without learning that a model should beat. They need at least one valid pixel."""

from collections.abc import Callable

import cv2
import jax
import numpy as np

from glinpaint_jax.data.masks import Mask
from glinpaint_jax.data.sources import Image
from glinpaint_jax.models.smooth import smooth_fill

Fill = Callable[[Image, Mask], Image]

RADIUS = 3  # of OpenCV's methods, pixels
BIHARMONIC_SIZE = 128  # largest image side: less than a second if all of it is a hole


def mean_fill(image: Image, mask: Mask) -> Image:
    """Fills the hole (mask 1) with the mean color of the valid pixels."""
    hole = mask[..., 0] > 0
    filled = image.copy()
    filled[hole] = np.rint(image[~hole].mean(axis=0)).astype(np.uint8)
    return filled


def opencv(kind: int) -> Fill:
    return lambda image, mask: cv2.inpaint(image, mask[..., 0], RADIUS, kind)


telea = opencv(cv2.INPAINT_TELEA)  # fast marching (Telea 2004)
navier_stokes = opencv(cv2.INPAINT_NS)  # fluid dynamics (Bertalmio 2001)


def smooth(image: Image, mask: Mask) -> Image:
    """The smooth fill that `model.base=smooth` starts from."""
    batch = image[None].astype(np.float32), mask[None].astype(np.float32)
    return np.rint(jax.jit(smooth_fill)(*batch)[0]).astype(np.uint8)


def biharmonic(image: Image, mask: Mask) -> Image:
    """Continues slopes as well as colors into the hole (Damelin and Hoang 2018).

    Solves a sparse system directly: time grows faster than the number of pixels in the hole.
    """
    from skimage.restoration import inpaint_biharmonic  # slow to import

    filled = inpaint_biharmonic(image, mask[..., 0] > 0, channel_axis=-1)
    return np.rint(filled * 255).clip(0, 255).astype(np.uint8)


BASELINES = {
    "mean color": mean_fill,
    "Telea": telea,
    "Navier-Stokes": navier_stokes,
    "smooth fill": smooth,
    "biharmonic": biharmonic,
}
