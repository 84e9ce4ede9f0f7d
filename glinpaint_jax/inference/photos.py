"""Reads photographs with their holes, and writes them: modes, orientation and metadata are kept."""

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import Bool, UInt8

from glinpaint_jax.data.images import (
    DAMAGED,
    FORMATS,
    MAX_PIXELS,
    PhotoInput,
    open_image,
    unsupported,
)
from glinpaint_jax.data.mask_files import (
    Hole,
    describe_doubt,
    dilate_hole,
    read_mask,
    resize_hole,
)
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.metadata import Metadata, Tag, read_metadata, save_options

Image = UInt8[np.ndarray, "h w 3"]
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap an image's sides
OPAQUE = ("JPEG", "BMP")  # cannot hold alpha


@dataclass(frozen=True)
class Photo:
    """An upright image of mode L, LA, RGB or RGBA, with its file's format and metadata."""

    image: PIL.Image.Image
    file_format: str  # "" for images made in memory
    metadata: Metadata
    orientation: int = 1  # of the file's pixels, as in EXIF

    @property
    def rgb(self) -> Image:
        """The pixels without alpha; gray images have three equal channels."""
        return np.array(self.image.convert("RGB"))

    def with_hole_filled(self, completed: Image, hole: Hole) -> "Photo":
        """Takes the colors in the hole from `completed`; other pixels and alpha are unchanged."""
        filled = PIL.Image.fromarray(completed).convert(self.image.mode)
        if "A" in self.image.mode:
            filled.putalpha(self.image.getchannel("A"))
        image = self.image.copy()
        image.paste(filled, mask=PIL.Image.fromarray(hole))
        image.info = dict(self.metadata)  # for callers that save the image themselves
        return dataclasses.replace(self, image=image)


def read_pair(
    image: Any,
    mask: Any = None,
    invert: bool = False,
    resize: bool = False,
    dilate: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Photo, Hole, str | None]:
    """Reads a photograph and its hole; also returns what is unusual about the pair, or None.

    Both may be paths, PIL images or arrays. Without a mask, the hole is what is not fully opaque,
    and the alpha is dropped. The hole is inverted, stretched to the photograph and grown by
    `dilate` pixels, in this order. Raises UserError for what cannot be completed.
    """
    photo, name = read_photo(image, max_pixels), _name(image, "the image")
    if mask is None:
        if "A" not in photo.image.mode:
            raise UserError(f"{name} has no alpha, its mode is {photo.image.mode}; pass --mask")
        hole = np.array(photo.image.getchannel("A")) < 255
        opaque = photo.image.convert(photo.image.mode.removesuffix("A"))
        photo = dataclasses.replace(photo, image=opaque)
    else:
        hole = _read_hole(mask, photo, max_pixels)
    width, height = photo.image.size
    turned = photo.orientation in SIDEWAYS and hole.shape == (width, height) != (height, width)
    if turned:
        stored = PIL.Image.fromarray(hole)
        stored.getexif()[Tag.Orientation] = photo.orientation
        hole = np.array(PIL.ImageOps.exif_transpose(stored))
    if hole.shape != (height, width) and not resize:
        found = f"{_name(mask, 'its mask')} {hole.shape[1]}x{hole.shape[0]}"
        raise UserError(
            f"{name} is {width}x{height}, {found}; make them the same size, or stretch the mask "
            "(--resize-mask)"
        )
    hole = dilate_hole(resize_hole(~hole if invert else hole, height, width), dilate)
    lost = " and ".join(photo.metadata.get("lost", []))
    doubts = [
        "the mask fits the photograph before its orientation is applied, so it was turned" * turned,
        f"the photograph's {lost} cannot be kept" * bool(lost),
        describe_doubt(hole) or "",
    ]
    return photo, hole, "; ".join(filter(None, doubts)) or None


def _read_hole(source: Any, photo: Photo, max_pixels: int) -> Bool[np.ndarray, "_ _"]:
    source = _as_input(source)
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype not in (bool, np.uint8):
            advice = "mask > 0.5" if source.ndim == 2 else "mask[..., 0]"
            if source.ndim > 2 and source.shape[-1] > 4:  # a batch
                advice = "mask[0]"
            raise UserError(
                f"the mask is {source.dtype} {source.shape}, must be bool [h, w], True = hole, or "
                f"uint8 [h, w], white = hole; pass {advice}, for example"
            )
        if source.dtype == bool:
            return source
        source = PIL.Image.fromarray(source)
    return read_mask(source, photo.rgb, max_pixels)


def _as_input(given: Any) -> np.ndarray | PhotoInput:
    """Returns an array of any library, such as jax, as numpy's; paths and PIL images unchanged."""
    if isinstance(given, PhotoInput):
        return given
    if hasattr(given, "__array__"):
        return np.asarray(given)
    raise UserError(
        f"images and masks must be paths, PIL images or arrays, not {type(given).__name__}; "
        "complete several one by one"
    )


def _as_rgb(array: np.ndarray) -> str:
    """How to make an array an image."""
    shape = array.shape
    if array.dtype != np.uint8:
        return "np.rint(255 * image).astype(np.uint8), if it is in 0..1"
    if len(shape) == 4:
        return "image[0]"
    if len(shape) == 2:
        return "np.dstack(3 * [image])"
    if len(shape) == 3 and shape[0] == 3:
        return "image.transpose(1, 2, 0)"
    return "np.repeat(image, 3, axis=-1)" if shape[-1:] == (1,) else "image[..., :3]"


def _name(source: Any, otherwise: str) -> str:
    return str(source) if isinstance(source, str | Path | io.BytesIO) else otherwise


def read_photo(source: Any, max_pixels: int = MAX_PIXELS) -> Photo:
    """Reads a path, a PIL image or an array, uint8 [h, w, 3].

    Raises UserError for files that are not images, too large, or in an unsupported mode.
    """
    source = _as_input(source)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise UserError(
                f"the image is {source.dtype} {source.shape}, must be uint8 [h, w, 3]; pass "
                f"{_as_rgb(source)}, for example"
            )
        source = PIL.Image.fromarray(source)
    image = open_image(source, max_pixels=max_pixels)
    path = _name(source, "the image")
    # MPO: a phone's JPEG with more pictures after the first.
    file_format = {None: "", "MPO": "JPEG"}.get(image.format, image.format)
    if file_format and file_format not in FORMATS.values():
        raise UserError(unsupported(path, file_format))
    try:
        upright = PIL.ImageOps.exif_transpose(image)
        metadata = read_metadata(image, upright, source)
    except DAMAGED as error:
        raise UserError(
            f"{path} has damaged EXIF data ({error}); remove it from the file"
        ) from None
    if upright.mode == "1":
        upright = upright.convert("L")
    if "transparency" in upright.info:
        upright = upright.convert("LA" if upright.mode == "L" else "RGBA")
    elif upright.mode == "P":
        upright = upright.convert("RGB")
    if upright.mode not in ("L", "LA", "RGB", "RGBA"):
        raise UserError(
            f"{path} has the color mode {upright.mode}, must be RGB, RGBA or gray; convert it"
        )
    return Photo(upright, file_format, metadata, image.getexif().get(Tag.Orientation, 1))


def encode_photo(photo: Photo, path: Path, quality: int) -> bytes:
    """Returns the content of a file in the format of the path's suffix.

    `quality` applies to JPEG, and to WebP unless the photo came from a lossless format. Raises
    UserError if the suffix is unknown or the format cannot store the photo.
    """
    file_format = check_format(path, photo.image.mode)
    buffer = io.BytesIO()
    try:
        options = save_options(photo.metadata, file_format, quality)
        photo.image.save(buffer, file_format, **options)
    # Too much metadata for the format, for example. libtiff's errors are RuntimeErrors.
    except (OSError, RuntimeError, *DAMAGED) as error:
        raise UserError(
            f"{path} cannot be written as {file_format}: {error}; write a PNG"
        ) from None
    return buffer.getvalue()


def check_format(path: Path, mode: str = "RGB") -> str:
    """Returns the format of the path's suffix.

    Raises UserError if it is unknown, or cannot store images of that mode.
    """
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise UserError(f"{path}: the name must end in one of {', '.join(FORMATS)}")
    if file_format in OPAQUE and "A" in mode:
        raise UserError(f"{path}: {file_format} cannot store the image's alpha; write a PNG")
    return file_format
