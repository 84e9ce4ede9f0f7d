"""What fills holes without a checkpoint. Loads jax only when used, so that --help is quick."""

import cv2
import numpy as np

from glinpaint_jax.inference.photos import Hole, Image

CLASSICAL = ("smooth", "telea", "navier-stokes")
# patches: copies the photograph's own (patches.py). network: the small one of the package. auto:
# patches, a smooth fill with grain in plain surroundings, the network where there are few patches.
METHODS = ("auto", "patches", "network", *CLASSICAL)
# Fast marching (Telea 2004) and fluid dynamics (Bertalmio 2001), looking at RADIUS pixels.
OPENCV, RADIUS = {"telea": cv2.INPAINT_TELEA, "navier-stokes": cv2.INPAINT_NS}, 3


def fill_without_weights(image: Image, hole: Hole, method: str) -> Image:
    """Returns the image with its hole filled by one of CLASSICAL."""
    from glinpaint_jax.inference.smooth import smooth_fill_photo

    if method == "smooth":
        return np.rint(smooth_fill_photo(image, hole)).clip(0, 255).astype(np.uint8)
    return cv2.inpaint(image, hole.astype(np.uint8), RADIUS, OPENCV[method])
