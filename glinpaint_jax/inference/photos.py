"""Photographs and masks as files have them: modes, orientation, profiles, other metadata."""

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin
from jaxtyping import Bool, UInt8

from glinpaint_jax.errors import UserError
from glinpaint_jax.files import refuse_unwritable, write_atomically

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
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
Source = str | Path | PIL.Image.Image
LOSSLESS = ("PNG", "TIFF", "BMP")


@dataclass(frozen=True)
class Photo:
    """An upright image of mode L, LA, RGB or RGBA and what else its file held."""

    image: PIL.Image.Image
    file_format: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """Without alpha; grey in all three channels."""
        without_alpha = {"LA": "L", "RGBA": "RGB"}.get(self.image.mode, self.image.mode)
        return np.array(self.image.convert(without_alpha).convert("RGB"))

    def with_hole_filled(
        self, completed: UInt8[np.ndarray, "h w 3"], hole: Bool[np.ndarray, "h w"]
    ) -> "Photo":
        """Colours from `completed` in the hole; all other pixels, and alpha, as they were."""
        pixels = np.array(self.image)
        if self.image.mode in ("L", "LA"):
            filled = np.array(PIL.Image.fromarray(completed).convert("L"))[..., None]
        else:
            filled = completed
        colours = pixels.reshape(*hole.shape, -1)[..., : filled.shape[-1]]  # a view
        colours[hole] = filled[hole]
        return Photo(PIL.Image.fromarray(pixels), self.file_format, self.metadata)


def read_photo(source: Source, max_pixels: int | None = None) -> Photo:
    """Raises UserError for what is no image, is too large, or has a mode that cannot be kept."""
    image = _open(source, max_pixels=max_pixels)
    path = "the image" if isinstance(source, PIL.Image.Image) else source
    file_format = image.format or ""  # none of an image made in memory
    if file_format and file_format not in FORMATS.values():
        raise UserError(f"{path} is {file_format}, must be JPEG, PNG, WebP, TIFF or BMP")
    upright = PIL.ImageOps.exif_transpose(image)
    metadata = _metadata_of(image, upright)
    if upright.mode == "P":
        upright = upright.convert("RGBA" if "transparency" in upright.info else "RGB")
    elif upright.mode == "1":
        upright = upright.convert("L")
    if upright.mode not in ("L", "LA", "RGB", "RGBA"):
        raise UserError(
            f"{path} has the colour mode {upright.mode}, which cannot be kept; "
            "convert it to 8-bit RGB, RGBA or grey"
        )
    return Photo(upright, file_format, metadata)


def read_mask(source: Source, max_pixels: int | None = None) -> Bool[np.ndarray, "h w"]:
    """True where the mask image is more than half white. Raises UserError for what is no image."""
    image = PIL.ImageOps.exif_transpose(_open(source, deep=True, max_pixels=max_pixels))
    if image.mode.startswith("I"):
        return np.array(image) > 32767
    return np.array(image.convert("L")) > 127


def _metadata_of(image: PIL.Image.Image, upright: PIL.Image.Image) -> dict[str, Any]:
    """What is written again beside the pixels; without the orientation, which is applied."""
    names = ("icc_profile", "dpi", "xmp", "comment")
    metadata = {name: upright.info[name] for name in names if name in upright.info}
    exif = PIL.Image.Exif()  # a copy: the image may be the caller's
    exif.load(image.getexif().tobytes())
    for tag in list(exif):
        # A TIFF file's tags also say how its pixels are stored.
        if tag == ORIENTATION or (image.format == "TIFF" and tag not in DESCRIPTIVE_TAGS):
            del exif[tag]
    if exif:
        metadata["exif"] = exif.tobytes()
    if texts := getattr(image, "text", None):
        metadata["text"] = dict(texts)
    return metadata


def write_photo(photo: Photo, path: Path, quality: int = 95) -> None:
    """In the format of the file's suffix, moved into place when it is whole.

    JPEG has `quality`, WebP too unless the photo came from a lossless format. Raises UserError for
    another suffix, or where the format cannot hold the photo's alpha.
    """
    file_format = output_format(path)
    if file_format in ("JPEG", "BMP") and photo.image.mode in ("LA", "RGBA"):
        raise UserError(f"{path}: {file_format} cannot hold the image's alpha; write a PNG")
    options = {name: value for name, value in photo.metadata.items() if name != "text"}
    if file_format == "JPEG":
        options |= {"quality": quality, "subsampling": 0}
    elif file_format == "WEBP":
        options |= {"quality": quality, "lossless": photo.file_format in LOSSLESS}
    elif file_format == "PNG" and "text" in photo.metadata:
        texts = PIL.PngImagePlugin.PngInfo()
        for name, text in photo.metadata["text"].items():
            texts.add_itxt(name, text)
        options["pnginfo"] = texts
    elif file_format == "TIFF":
        options["compression"] = "tiff_deflate"
    buffer = io.BytesIO()
    photo.image.save(buffer, file_format, **options)
    write_bytes(path, buffer.getvalue())


def write_bytes(path: Path, content: bytes) -> None:
    """Moved into place when whole. Raises UserError where that cannot be."""
    with refuse_unwritable(path):
        write_atomically(path, content)


def output_format(path: Path) -> str:
    """By the suffix; raises UserError for one that is not known."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: the name must end in one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def _raw_mode(image: PIL.Image.Image) -> str:
    """How an opened file stores its pixels, such as 'RGB' or 'RGB;16B'; empty if PIL cannot say."""
    if not image.tile:
        return ""
    arguments = image.tile[0].args
    return arguments if isinstance(arguments, str) else str(arguments[0])


def _open(source: Source, deep: bool = False, max_pixels: int | None = None) -> PIL.Image.Image:
    """The image as it lies, loaded. 16 bits a channel only if `deep`: PIL would cut them to 8."""
    if isinstance(source, PIL.Image.Image):
        return source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            opened = PIL.Image.open(source)
        with opened as image:
            if max_pixels is not None and (pixels := image.width * image.height) > max_pixels:
                found, allowed = pixels / 1e6, max_pixels / 1e6
                raise UserError(f"{source} has {found:.1f} megapixels, at most {allowed:g} may be")
            if "16" in _raw_mode(image) and not deep:
                raise UserError(f"{source} has 16 bits a channel, which cannot be kept; use 8")
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise UserError(f"{source} holds {frames} images, must hold one")
            image.load()
            return image
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise UserError(f"{source} is too large: {error}") from None
    except PIL.UnidentifiedImageError:
        raise UserError(f"{source} is no image, or a damaged one") from None
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}") from None
    except (SyntaxError, ValueError, EOFError) as error:  # what damaged files make of PIL
        raise UserError(f"{source} is a damaged image: {error}") from None
