"""Reads photographs with their holes, and writes them: modes, orientation and metadata are kept."""

import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin
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

ORIENTATION = PIL.ExifTags.Base.Orientation
DESCRIPTIVE_TAGS = (  # of a TIFF file; others say how its pixels are stored
    *("DocumentName", "ImageDescription", "Make", "Model", "Software", "DateTime", "Artist"),
    *("Copyright", "ExifOffset", "GPSInfo"),
)
# Text chunks of PNG that hold XMP and, as ImageMagick writes it, EXIF.
XMP_CHUNK, EXIF_CHUNK = "XML:com.adobe.xmp", "Raw profile type exif"
Image = UInt8[np.ndarray, "h w 3"]
LOSSLESS = ("PNG", "TIFF", "BMP")
OPAQUE = ("JPEG", "BMP")  # cannot hold alpha


@dataclass(frozen=True)
class Photo:
    """An upright image of mode L, LA, RGB or RGBA, with its file's format and metadata."""

    image: PIL.Image.Image
    file_format: str
    metadata: dict[str, Any] = field(default_factory=dict)

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
        return Photo(image, self.file_format, self.metadata)


def read_pair(
    image: Any,
    mask: Any = None,
    invert: bool = False,
    resize: bool = False,
    dilate: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Photo, Hole, str | None]:
    """Reads a photograph and its hole; also returns what is unusual about the hole, or None.

    Both may be paths, PIL images or arrays. Without a mask, the hole is what is not fully opaque,
    and the alpha is dropped. The hole is inverted, stretched to the photograph and grown by
    `dilate` pixels, in this order. Raises UserError for what cannot be completed.
    """
    photo = read_photo(image, max_pixels)
    if mask is None:
        photo, hole = split_alpha(photo, _name(image, "the image"))
    else:
        hole = _read_hole(mask, photo, max_pixels)
    sizes = [f"{width}x{height}" for width, height in (photo.image.size, hole.shape[::-1])]
    if sizes[0] != sizes[1] and not resize:
        raise UserError(
            f"{_name(image, 'the image')} is {sizes[0]}, {_name(mask, 'its mask')} {sizes[1]}; "
            "make them the same size, or stretch the mask (--resize-mask)"
        )
    hole = resize_hole(~hole if invert else hole, photo.image.height, photo.image.width)
    hole = dilate_hole(hole, dilate)
    return photo, hole, describe_doubt(hole)


def _read_hole(source: Any, photo: Photo, max_pixels: int) -> Bool[np.ndarray, "_ _"]:
    source = _as_input(source)
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype not in (bool, np.uint8):
            raise UserError(
                f"the mask is {source.dtype} {source.shape}, must be bool [h, w], True = hole, or "
                "uint8 [h, w], white = hole; pass mask > 0.5, for example"
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
        f"images and masks must be paths, PIL images or arrays, not {type(given).__name__}; pass "
        "several of them to Completer.batch"
    )


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
                f"the image is {source.dtype} {source.shape}, must be uint8 [h, w, 3]; convert "
                "it, for example by np.rint(255 * image).astype(np.uint8) if it is in 0..1"
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
        metadata = _read_metadata(image, upright)
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
    return Photo(upright, file_format, metadata)


def _read_metadata(image: PIL.Image.Image, upright: PIL.Image.Image) -> dict[str, Any]:
    """Returns the metadata to keep. The orientation is reset, because it has been applied."""
    names = ("icc_profile", "dpi", "xmp", "comment")
    metadata = {name: upright.info[name] for name in names if name in upright.info}
    # A resolution of 0/0 in a TIFF file is NaN, which no format can store.
    if not all(math.isfinite(value) and value > 0 for value in metadata.get("dpi", ())):
        del metadata["dpi"]
    exif = PIL.Image.Exif()  # a copy, because the image may be the caller's
    exif.load(image.getexif().tobytes())
    for tag in list(exif):
        if image.format == "TIFF" and PIL.ExifTags.TAGS.get(tag) not in DESCRIPTIVE_TAGS:
            del exif[tag]
        elif tag == ORIENTATION:
            exif[tag] = 1  # if it were missing, an outdated one in XMP would apply
    if exif:
        metadata["exif"] = exif.tobytes()
    texts = dict(getattr(image, "text", {}))
    for name in (XMP_CHUNK, EXIF_CHUNK):  # kept above, with the orientation reset
        texts.pop(name, None)
    if texts:
        metadata["text"] = texts
    return metadata


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
    options = {name: value for name, value in photo.metadata.items() if name != "text"}
    if file_format == "JPEG":
        options |= {"quality": quality, "subsampling": 0}
    elif file_format == "WEBP":
        options |= {"quality": quality, "lossless": photo.file_format in LOSSLESS, "exact": True}
    elif file_format == "PNG":
        texts = PIL.PngImagePlugin.PngInfo()
        for name, text in photo.metadata.get("text", {}).items():
            texts.add_itxt(name, text)
        if xmp := options.pop("xmp", None):
            texts.add_itxt(XMP_CHUNK, xmp)
        options["pnginfo"] = texts
    elif file_format == "TIFF":
        options["compression"] = "tiff_deflate"
    buffer = io.BytesIO()
    try:
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
    return Photo(opaque, photo.file_format, photo.metadata), hole
