"""The one reader of mask files, for training, evaluation, the commands and the page.

A mask is white where the image should be filled and black elsewhere. Its edges may be soft. Files
that are clearly not masks are rejected: photographs, painted copies, colors.
"""

import contextlib

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import Bool, UInt8

from glinpaint_jax.data.images import DAMAGED, MAX_PIXELS, PhotoInput, open_image
from glinpaint_jax.errors import UserError

BLACK, WHITE = 48, 208  # values up to BLACK count as black, from WHITE on as white
SATURATED = 64  # difference of a pixel's channels from which it has a color
NEAR = np.ones((5, 5), np.uint8)  # the pixels at most 2 away
# Measured share of tones that are not near black or white: antialiased and JPEG-compressed masks
# under 1 %, masks blurred by 10 pixels under 15 %, scikit-image's photographs over 33 % (Hubble's
# deep field only 2 %, but in color).
MAX_TONES = 0.25
# Areas of one tone are labels, if they have several tones and each covers so much of the image.
MIN_LABELED = 0.001
MAX_COLORED = 0.1  # of the mask's black or of its white, whichever is rarer
# A mask with few tones equals some photographs by chance, such as a night sky.
MIN_COPIED = 0.01
COPY_TOLERANCE = 16  # JPEG changes values
LARGE_HOLE = 0.6  # of the image
MEANING = "a mask is white where the image should be filled, black elsewhere"

Hole = Bool[np.ndarray, "h w"]


def read_mask(
    source: PhotoInput,
    photo: UInt8[np.ndarray, "_ _ 3"] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Hole:
    """Returns True for pixels brighter than half of white, after compositing alpha onto black.

    Raises UserError for files that are not images, whose white is ambiguous, or that look like a
    photograph, such as a copy of `photo`.
    """
    image = open_image(source, allow_16_bits=True, max_pixels=max_pixels)
    path = "the mask" if isinstance(source, PIL.Image.Image) else source
    with contextlib.suppress(*DAMAGED):  # a mask's metadata does not matter
        image = PIL.ImageOps.exif_transpose(image)
    transparent = False
    if image.mode.startswith("I;16"):
        white, values = 65535, np.array(image)
        image = PIL.Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UserError(f"{path} has 32 bits per pixel, so its white is ambiguous; use 8 bits")
    else:
        if "A" in image.mode or "transparency" in image.info:
            image = image.convert("RGBA")
            transparent = image.getextrema()[3][0] < 255
            image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "black"), image)
        white, values = 255, np.array(image.convert("L"))
    hole = values > white // 2
    reason = _find_reason(np.array(image.convert("RGB")), photo)
    if transparent and not hole.any():
        reason = reason or "has transparent parts but no white"
    if reason:
        advice = "; to fill its transparent parts, complete it with --mask-from alpha"
        raise UserError(f"{path} {reason}; {MEANING}{advice if transparent else ''}")
    if values.size and values.min() < (brightest := int(values.max())) <= white // 2:
        raise UserError(
            f"{path}: its brightest pixels are {brightest}, white is {white}; to fill all that is "
            f"not black, make it {white}"
        )
    return hole


def _find_reason(
    mask: UInt8[np.ndarray, "h w 3"], photo: UInt8[np.ndarray, "_ _ 3"] | None
) -> str | None:
    """Returns why this is clearly not a mask, or None."""
    red, green, blue = cv2.split(mask)
    darkest, brightest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    toned = (brightest > BLACK) & (darkest < WHITE)
    if photo is not None and photo.shape == mask.shape:
        if mask.min() < mask.max() and np.array_equal(mask, photo):
            return "is the photograph itself, not a mask"
        similar = cv2.inRange(cv2.absdiff(mask, photo), (0,) * 3, (COPY_TOLERANCE,) * 3) > 0
        if (toned & similar).mean() > max(MIN_COPIED, toned.mean() / 2):
            return "is a painted copy of the photograph, not a mask"
    colored = np.count_nonzero(brightest - darkest > SATURATED)
    rarer = min(np.count_nonzero(brightest > BLACK), np.count_nonzero(darkest < WHITE))
    if colored > MAX_COLORED * rarer:
        return "is colored"
    # Erosion leaves the tones that are far from black and white.
    share = cv2.erode(toned.view(np.uint8), NEAR).mean()
    if share > MAX_TONES:
        return f"has wide areas of gray ({share:.0%}), as a photograph has"
    flat = cv2.erode(red, NEAR) == cv2.dilate(red, NEAR)
    levels, counts = np.unique(np.minimum(red, WHITE)[flat & (red > BLACK)], return_counts=True)
    levels = levels[counts > MIN_LABELED * red.size]
    if len(levels) > 1:
        grays = ", ".join(map(str, levels[levels < WHITE]))
        return f"has areas of gray {grays}, as labels of objects have"
    return None


def describe_doubt(hole: Hole) -> str | None:
    """Returns what is unusual about the size of a hole, or None."""
    if not hole.any():
        return "there is no hole (no white in the mask), so nothing is filled"
    if (share := hole.mean()) > LARGE_HOLE:
        return f"the hole covers {share:.0%} of the image; is the mask inverted?"
    return None


def resize_hole(hole: Bool[np.ndarray, "_ _"], height: int, width: int) -> Hole:
    """Stretches the hole. A smaller pixel is a hole if any part of it is, so that lines survive."""
    if hole.shape == (height, width):
        return hole
    smaller = min(width, hole.shape[1]), min(height, hole.shape[0])
    share = cv2.resize(hole.astype(np.float32), smaller, interpolation=cv2.INTER_AREA)
    small = (share > 0).view(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST) > 0


def dilate_hole(hole: Hole, pixels: int) -> Hole:
    """Grows the hole by all pixels at most `pixels` away from it."""
    if not hole.any():
        return hole
    distances = cv2.distanceTransform((~hole).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distances <= pixels
