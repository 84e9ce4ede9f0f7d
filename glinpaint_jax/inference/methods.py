"""What fills holes without trained weights. Loads jax only when used, so that --help is quick."""

import numpy as np
from jaxtyping import Bool, UInt8

METHODS = ("smooth", "telea", "navier-stokes")


def fill_without_weights(
    image: UInt8[np.ndarray, "h w 3"], hole: Bool[np.ndarray, "h w"], method: str
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image with its hole (True) filled by one of METHODS."""
    from glinpaint_jax.evaluation.baselines import navier_stokes, telea
    from glinpaint_jax.inference.smooth import fill_smoothly

    if method == "smooth":
        return np.rint(fill_smoothly(image, hole)).clip(0, 255).astype(np.uint8)
    mask = hole[..., None].astype(np.uint8)
    return (telea if method == "telea" else navier_stokes)(image, mask)
