"""Completes uploaded files and writes the result for download."""

import contextlib
import functools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image
from jaxtyping import Bool

from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.blend import MAX_BLENDED, blend
from glinpaint_jax.inference.completer import Completer, check_same_size
from glinpaint_jax.inference.masks import read_mask
from glinpaint_jax.inference.photos import (
    FORMATS,
    LOSSLESS,
    OPAQUE,
    Photo,
    read_photo,
    write_photo,
)

# The page shows photographs at most this large; they are completed at full size.
PREVIEW = 1280


class Limits(NamedTuple):
    megapixels: int  # of a photograph
    megabytes: int  # of a file
    queue: int  # waiting events


def read_upload(read: Callable[..., Any], path: str, limits: Limits) -> Any:
    """Calls `read` on an uploaded file. Its UserErrors then show the file's name, not its path."""
    try:
        os.utime(path)  # in use, so remove_older keeps it
        return read(Path(path), max_pixels=limits.megapixels * 10**6)
    except FileNotFoundError:
        raise UserError(
            f"{Path(path).name} has been deleted on the server; open it again"
        ) from None
    except UserError as error:
        raise UserError(str(error).replace(path, Path(path).name)) from None


class Result(NamedTuple):
    before: PIL.Image.Image
    hole: Bool[np.ndarray, "h w"]
    after: PIL.Image.Image
    path: Path  # the file that was written
    lossless: bool


def complete_upload(
    completer: Completer,
    photo: str | None,
    mask: str | None,
    layer: PIL.Image.Image | None,
    kind: str,
    folder: Path,
    limits: Limits,
) -> Result:
    """Completes a photograph and writes the result to `folder`, in the photograph's format.

    The hole is the union of `mask` and what is painted on `layer`, stretched to the photograph.
    Raises UserError if there is nothing to complete, or the files are unsupported.
    """
    if photo is None:
        raise UserError("there is no photograph yet; open one first")
    original: Photo = read_upload(read_photo, photo, limits)
    width, height = original.image.size
    hole = np.zeros((height, width), bool)
    if mask is not None:
        read = functools.partial(read_mask, photo=original.rgb)
        uploaded = read_upload(read, mask, limits)
        check_same_size(hole.shape, uploaded.shape)
        hole |= uploaded
    if layer is not None:
        hole |= layer_to_hole(layer, height, width)
    if not hole.any():
        raise UserError("there is no hole yet; paint over what should go, or upload a mask")
    pixels = blend(completer.fill([original.rgb], [hole])[0], hole, kind, MAX_BLENDED)
    completed = original.with_hole_filled(pixels, hole)

    file_format = original.file_format
    if file_format in OPAQUE and "A" in completed.image.mode:
        file_format = "PNG"
    suffix = next(suffix for suffix, name in FORMATS.items() if name == file_format)
    path = Path(tempfile.mkdtemp(dir=folder)) / f"{Path(photo).stem}-completed{suffix}"
    try:
        write_photo(completed, path)
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from None
    return Result(original.image, hole, completed.image, path, file_format in LOSSLESS)


def layer_to_hole(layer: PIL.Image.Image, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """Returns the painted (opaque) part of a layer, stretched to `height` x `width`."""
    alpha = np.uint8(255) * (np.array(layer.getchannel("A")) > 0)
    return cv2.resize(alpha, (width, height), interpolation=cv2.INTER_LINEAR) > 127


def make_preview(image: PIL.Image.Image) -> PIL.Image.Image:
    """Shrinks an image to at most PREVIEW pixels per side, in RGB, on white."""
    shown = image.convert("RGBA")
    shown.thumbnail((PREVIEW, PREVIEW))
    white = PIL.Image.new("RGBA", shown.size, "white")
    return PIL.Image.alpha_composite(white, shown).convert("RGB")


def remove_older(folder: Path, seconds: int) -> None:
    """Removes files in `folder` unused for `seconds`, and empty folders."""
    for path in sorted(folder.rglob("*"), reverse=True):  # files before their folder
        with contextlib.suppress(OSError):  # another thread may have removed it or be writing to it
            if time.time() - path.stat().st_mtime > seconds:
                path.rmdir() if path.is_dir() else path.unlink()
