"""Reads and writes photographs: modes, orientation, profiles and other metadata."""

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

from glinpaint_jax.data.images import DAMAGED, FORMATS, PhotoInput, open_image, unsupported
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import report_unwritable, write_atomically

ORIENTATION = PIL.ExifTags.Base.Orientation
DESCRIPTIVE_TAGS = (
    PIL.ExifTags.Base.DocumentName,
    PIL.ExifTags.Base.ImageDescription,
    PIL.ExifTags.Base.Make,
    PIL.ExifTags.Base.Model,
    PIL.ExifTags.Base.Software,
    PIL.ExifTags.Base.DateTime,
    PIL.ExifTags.Base.Artist,
    PIL.ExifTags.Base.Copyright,
    PIL.ExifTags.IFD.Exif,
    PIL.ExifTags.IFD.GPSInfo,
)
# Text chunks of PNG that hold XMP and, as ImageMagick writes it, EXIF.
XMP_CHUNK, EXIF_CHUNK = "XML:com.adobe.xmp", "Raw profile type exif"
LOSSLESS = ("PNG", "TIFF", "BMP")
OPAQUE = ("JPEG", "BMP")  # cannot hold alpha
MAX_SIDE = {"JPEG": 65500, "WEBP": 16383}  # of libjpeg and libwebp


@dataclass(frozen=True)
class Photo:
    """An upright image of mode L, LA, RGB or RGBA, with its file's format and metadata."""

    image: PIL.Image.Image
    file_format: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels without alpha; grey images have three equal channels."""
        without_alpha = {"LA": "L", "RGBA": "RGB"}.get(self.image.mode, self.image.mode)
        return np.array(self.image.convert(without_alpha).convert("RGB"))

    def with_hole_filled(
        self, completed: UInt8[np.ndarray, "h w 3"], hole: Bool[np.ndarray, "h w"]
    ) -> "Photo":
        """Takes colours in the hole from `completed`; other pixels and alpha are unchanged."""
        pixels = np.array(self.image)
        if self.image.mode in ("L", "LA"):
            filled = np.array(PIL.Image.fromarray(completed).convert("L"))[..., None]
        else:
            filled = completed
        colours = pixels.reshape(*hole.shape, -1)[..., : filled.shape[-1]]  # a view
        colours[hole] = filled[hole]
        image = PIL.Image.fromarray(pixels)
        image.info.update(self.metadata)  # for callers that save the image themselves
        return Photo(image, self.file_format, self.metadata)


def read_photo(source: PhotoInput, max_pixels: int | None = None) -> Photo:
    """Raises UserError for files that are not images, too large, or in an unsupported mode."""
    image = open_image(source, max_pixels=max_pixels)
    path = "the image" if isinstance(source, PIL.Image.Image) else source
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
            f"{path} has the colour mode {upright.mode}, must be RGB, RGBA or grey; convert it"
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
        # A TIFF file's tags also describe how its pixels are stored.
        if image.format == "TIFF" and tag not in DESCRIPTIVE_TAGS:
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


def write_photo(photo: Photo, path: Path, quality: int = 95) -> None:
    """Writes atomically, in the format of the path's suffix.

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
    write_bytes(path, buffer.getvalue())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes atomically; raises UserError on failure."""
    with report_unwritable(path):
        write_atomically(path, content)


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
    width, height = photo.image.size
    if max(width, height) > (limit := MAX_SIDE.get(file_format, max(width, height))):
        raise UserError(
            f"{path} cannot be written as {file_format}: it is {width}x{height}, at most {limit} "
            "pixels per side are allowed; write a PNG"
        )
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
