"""Reads photographs with their holes, and writes them: modes, orientation and metadata are kept."""

import dataclasses
import io
from dataclasses import dataclass, field
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
from glinpaint_jax.files import report_unwritable, write_atomically
from glinpaint_jax.inference.metadata import Metadata, Tag, read_metadata, save_options

Image = UInt8[np.ndarray, "h w 3"]
TURNED = {  # by orientation: what makes the stored pixels upright, if it swaps their sides
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
OPAQUE = ("JPEG", "BMP")  # cannot hold alpha


@dataclass(frozen=True)
class Photo:
    """An upright image of mode L, LA, RGB or RGBA, with its file's format and metadata."""

    image: PIL.Image.Image
    file_format: str
    metadata: Metadata = field(default_factory=dict)
    orientation: int = 1  # of the file's pixels, as in EXIF
    lost: list[str] = field(default_factory=list)  # what cannot be kept

    @property
    def rgb(self) -> Image:
        """The pixels without alpha; gray images have three equal channels."""
        return np.array(self.image.convert(self.image.mode.removesuffix("A")).convert("RGB"))

    def with_hole_filled(self, completed: Image, hole: Hole) -> "Photo":
        """Takes the colors in the hole from `completed`; other pixels and alpha are unchanged."""
        filled = PIL.Image.fromarray(completed).convert(self.image.mode.removesuffix("A"))
        if self.image.mode.endswith("A"):
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
    photo = read_photo(image, max_pixels)
    if mask is None:
        photo, hole = split_alpha(photo, _name(image, "the image"))
    else:
        hole = _read_hole(mask, photo, max_pixels)
    stored = TURNED.get(photo.orientation)
    turned = stored is not None and hole.shape == photo.image.size != hole.shape[::-1]
    if turned:
        hole = np.array(PIL.Image.fromarray(hole).transpose(stored))
    sizes = [f"{width}x{height}" for width, height in (photo.image.size, hole.shape[::-1])]
    if sizes[0] != sizes[1] and not resize:
        raise UserError(
            f"{_name(image, 'the image')} is {sizes[0]}, {_name(mask, 'its mask')} {sizes[1]}; "
            "make them the same size, or stretch the mask (--resize-mask)"
        )
    hole = resize_hole(~hole if invert else hole, photo.image.height, photo.image.width)
    hole = dilate_hole(hole, dilate)
    doubts = [
        "the mask fits the photograph before its orientation is applied, so it was turned" * turned,
        f"the photograph's {' and '.join(photo.lost)} cannot be kept" * bool(photo.lost),
        describe_doubt(hole) or "",
    ]
    return photo, hole, "; ".join(filter(None, doubts)) or None


def _read_hole(source: Any, photo: Photo, max_pixels: int) -> Bool[np.ndarray, "_ _"]:
    source = _as_input(source)
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype not in (bool, np.uint8):
            raise UserError(
                f"the mask is {source.dtype} {source.shape}, must be bool [h, w], True = hole, or "
                f"uint8 [h, w], white = hole; pass {_as_hole(source)}, for example"
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
    if len(shape) == 2:
        return "np.dstack(3 * [image])"
    if len(shape) == 3 and shape[0] == 3:
        return "image.transpose(1, 2, 0)"
    return "np.repeat(image, 3, axis=-1)" if shape[-1] == 1 else "image[..., :3]"


def _as_hole(array: np.ndarray) -> str:
    return "mask > 0.5" if array.ndim == 2 else "mask[..., 0]"


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
        return Photo(PIL.Image.fromarray(source), "")
    image = open_image(source, max_pixels=max_pixels)
    path = _name(source, "the image")
    # Images made in memory have no format. MPO: a phone's JPEG with more pictures after the first.
    file_format = {None: "", "MPO": "JPEG"}.get(image.format, image.format)
    if file_format and file_format not in FORMATS.values():
        raise UserError(unsupported(path, file_format))
    try:
        upright = PIL.ImageOps.exif_transpose(image)
        metadata, lost = read_metadata(image, upright, source)
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
    return Photo(upright, file_format, metadata, image.getexif().get(Tag.Orientation, 1), lost)


def write_photo(photo: Photo, path: Path, quality: int) -> None:
    """Writes what `encode_photo` returns, atomically."""
    content = encode_photo(photo, path, quality)
    with report_unwritable(path):
        write_atomically(path, content)


def encode_photo(photo: Photo, path: Path, quality: int) -> bytes:
    """Returns the content of a file in the format of the path's suffix.

    `quality` applies to JPEG, and to WebP unless the photo came from a lossless format. Raises
    UserError if the suffix is unknown or the format cannot store the photo.
    """
    file_format = check_storable(photo, path)
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


def output_format(path: Path) -> str:
    """Returns the format of the path's suffix; raises UserError if it is unknown."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: the name must end in one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def check_storable(photo: Photo, path: Path) -> str:
    """Returns the format of the path's suffix; raises UserError if it cannot store the photo."""
    file_format = output_format(path)
    if file_format in OPAQUE and photo.image.mode in ("LA", "RGBA"):
        raise UserError(f"{path}: {file_format} cannot store the image's alpha; write a PNG")
    return file_format


def split_alpha(photo: Photo, name: Any) -> tuple[Photo, Bool[np.ndarray, "h w"]]:
    """Returns the photo without alpha, and a hole where it is not fully opaque.

    Raises UserError, with the photo's name, if it has no alpha.
    """
    if photo.image.mode not in ("LA", "RGBA"):
        raise UserError(f"{name} has no alpha, its mode is {photo.image.mode}; pass --mask")
    hole = np.array(photo.image.getchannel("A")) < 255
    opaque = photo.image.convert(photo.image.mode.removesuffix("A"))
    return dataclasses.replace(photo, image=opaque), hole
