"""Opens image files with PIL: photographs to complete, and all masks."""

import io
import struct
import threading
from pathlib import Path
from typing import Any

import PIL.Image

from glinpaint_jax.errors import UserError

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
ALLOWED = "JPEG, PNG, WebP, TIFF or BMP"
# Suffixes of photographs in other formats.
UNSUPPORTED = (".heic", ".heif", ".avif", ".jxl", ".gif")
PhotoInput = str | Path | io.BytesIO | PIL.Image.Image  # str() of a BytesIO must be its name
# PIL raises these for damaged files.
DAMAGED = (SyntaxError, ValueError, EOFError, TypeError, KeyError, OverflowError, struct.error)
MAX_PIXELS = 200 * 10**6  # of a photograph, by default: what the largest phones take
PILLOW_LIMIT = threading.Lock()


def unsupported(path: Any, file_format: str) -> str:
    """Returns the message for a photograph in another format."""
    return f"{path} is {file_format}, must be {ALLOWED}; save it as JPEG or PNG first"


def _check_depth(image: PIL.Image.Image, name: Any) -> None:
    """Raises UserError for 16 bits per channel, which PIL would cut to 8 when loading pixels."""
    tiles = getattr(image, "tile", None)  # images made in memory have none
    arguments = tiles[0].args if tiles else ""
    raw_mode = arguments if isinstance(arguments, str) else str(arguments[0])
    # In BMP, 16 bits means all three channels together.
    if "16" in raw_mode and image.format != "BMP":
        raise UserError(f"{name} has 16 bits per channel, must have 8; convert it")


def open_image(
    source: PhotoInput, allow_16_bits: bool = False, max_pixels: int = MAX_PIXELS
) -> PIL.Image.Image:
    """Opens and loads an image, without transposing it. Allows 16-bit channels only if asked to."""
    if isinstance(source, PIL.Image.Image):
        if 0 in source.size:  # PIL opens no such files
            raise UserError(f"images need pixels, this one is {source.width}x{source.height}")
        if not allow_16_bits:
            _check_depth(source, "the image")
        try:
            source.load()  # opened images may not have been read yet
        except (OSError, *DAMAGED) as error:
            raise UserError(f"cannot read the image: {error}") from None
        return source
    try:
        with _open_without_limit(source) as image:
            if (pixels := image.width * image.height) > max_pixels:
                found, allowed = pixels / 1e6, max_pixels / 1e6
                raise UserError(
                    f"{source} has {found:.1f} megapixels, at most {allowed:g} are allowed "
                    "(max_megapixels)"
                )
            if not allow_16_bits:
                _check_depth(image, source)
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                raise UserError(f"{source} contains {frames} images, must contain one")
            image.load()
            return image
    except PIL.UnidentifiedImageError:
        suffix = Path(str(source)).suffix.lower()
        if suffix in UNSUPPORTED:
            raise UserError(unsupported(source, suffix[1:].upper())) from None
        raise UserError(
            f"{source} is not an image, is damaged, or is not {ALLOWED}; save it as PNG"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}") from None
    except DAMAGED as error:
        raise UserError(f"{source} is a damaged image: {error}") from None


def _open_without_limit(source: str | Path | io.BytesIO) -> PIL.Image.Image:
    """Opens an image of any size: Pillow's own limit is the same for the whole program."""
    with PILLOW_LIMIT:
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            # PIL would pass an EPS file to Ghostscript, whatever the file's name.
            return PIL.Image.open(source, formats=sorted({*FORMATS.values()}))
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit
