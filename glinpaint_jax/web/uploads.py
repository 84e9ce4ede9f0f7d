"""Reads uploaded photographs and masks, and completes them. Paths never reach a visitor."""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from glinpaint_jax.data.mask_files import Hole, adjust_hole, describe_doubt, read_mask
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.blend import KINDS, MAX_BLENDED, blend
from glinpaint_jax.inference.completer import check_scale
from glinpaint_jax.inference.photos import (
    FORMATS,
    LOSSLESS,
    OPAQUE,
    Photo,
    read_photo,
    write_photo,
)
from glinpaint_jax.web.methods import TITLES, Methods

# The page shows and paints on photographs at most this large; they are completed at full size.
PREVIEW = 4096
# Options that are whole numbers: their default and bounds.
NUMBERS = {
    "quality": (95, 1, 100),
    "invert_mask": (0, 0, 1),
    "dilate_mask": (0, 0, 200),
    "resize_mask": (0, 0, 1),
}


class Limits(NamedTuple):
    megapixels: int  # of a photograph
    megabytes: int  # of a file
    queue: int  # waiting requests of each kind


class Upload(NamedTuple):
    name: str  # of the visitor's file
    path: Path


class Options(NamedTuple):
    """What a request may set, as `complete` does on the command line."""

    method: str
    blend: str
    scale: float | str
    quality: int
    invert_mask: int
    dilate_mask: int
    resize_mask: int


def parse_options(fields: Mapping[str, str], default_method: str) -> Options:
    """Raises UserError for unknown fields and values."""
    if unknown := set(fields) - set(Options._fields):
        allowed = ", ".join(Options._fields)
        raise UserError(f"unknown field {unknown.pop()!r}; allowed: photo, mask, {allowed}")
    kind = fields.get("blend", "auto")
    if kind not in ("auto", *KINDS):
        raise UserError(f"blend={kind!r} must be one of auto, {', '.join(KINDS)}")
    scale = fields.get("scale", "auto")
    try:
        scale = check_scale(scale if scale == "auto" else float(scale))
    except ValueError:
        raise UserError(f"scale={scale!r} must be auto or a number above 0 and up to 1") from None
    numbers = {name: _whole(name, fields.get(name), *bounds) for name, bounds in NUMBERS.items()}
    return Options(fields.get("method") or default_method, kind, scale, **numbers)


def _whole(name: str, text: str | None, default: int, least: int, most: int) -> int:
    if text is None:
        return default
    if not (re.fullmatch("[0-9]{1,9}", text) and least <= int(text) <= most):
        raise UserError(f"{name}={text!r} must be a whole number in {least}..{most}")
    return int(text)


def _read(read: Callable[..., Any], upload: Upload, limits: Limits, **more: Any) -> Any:
    """Calls `read` on an uploaded file; UserErrors then show its name, not its path."""
    if (size := upload.path.stat().st_size) > limits.megabytes * 10**6:
        raise UserError(
            f"{upload.name} has {size / 1e6:.1f} MB, at most {limits.megabytes} are allowed"
        )
    try:
        return read(upload.path, max_pixels=limits.megapixels * 10**6, **more)
    except UserError as error:
        raise UserError(str(error).replace(str(upload.path), upload.name)) from None


def make_preview(photo: Upload, folder: Path, limits: Limits) -> tuple[Path, tuple[int, int]]:
    """Writes what the page shows of a photograph; returns its path and the full (width, height).

    It is upright, on white, has at most PREVIEW pixels per side, and keeps the colour profile.
    Raises UserError if the photograph cannot be completed.
    """
    original = _read(read_photo, photo, limits)
    shown, size = original.image, original.image.size
    shown.thumbnail((PREVIEW, PREVIEW))
    if "A" in shown.mode:
        shown = shown.convert("RGBA")
        shown = PIL.Image.alpha_composite(PIL.Image.new("RGBA", shown.size, "white"), shown)
    path = folder / "preview.jpg"
    profile = original.metadata.get("icc_profile")
    shown = shown if shown.mode == "L" else shown.convert("RGB")
    shown.save(path, quality=92, subsampling=0, icc_profile=profile)
    return path, size


def read_hole(photo: Photo, mask: Upload, options: Options, limits: Limits) -> Hole:
    """Returns the hole [h, w] of the photograph. Raises UserError if the mask is unusable."""
    hole = _read(read_mask, mask, limits, photo=photo.rgb)
    width, height = photo.image.size
    flags = bool(options.invert_mask), bool(options.resize_mask)
    return adjust_hole(hole, (height, width), *flags, options.dilate_mask)


def draw_mask(photo: Upload, mask: Upload, options: Options, folder: Path, limits: Limits) -> Path:
    """Writes a mask file's hole as white in the preview's size, transparent elsewhere."""
    hole = read_hole(_read(read_photo, photo, limits), mask, options, limits)
    alpha = PIL.Image.fromarray(255 * hole.view(np.uint8))
    alpha.thumbnail((PREVIEW, PREVIEW))
    drawn = PIL.Image.new("L", alpha.size, 255)
    drawn.putalpha(alpha)
    path = folder / "mask.png"
    drawn.save(path, compress_level=1)
    return path


class Result(NamedTuple):
    path: Path  # the file that was written
    name: str  # for the visitor
    summary: str


def complete_upload(
    methods: Methods,
    photo: Upload,
    mask: Upload,
    options: Options,
    folder: Path,
    limits: Limits,
) -> Result:
    """Completes a photograph and writes the result to `folder`, in the photograph's format.

    Raises UserError if there is nothing to complete, or the files are unsupported.
    """
    started = time.perf_counter()
    original: Photo = _read(read_photo, photo, limits)
    hole = read_hole(original, mask, options, limits)
    if not hole.any():
        raise UserError("there is no hole yet; paint over what should go, or send a mask")
    completer = methods.get(options.method)
    kind = completer.default_blend if options.blend == "auto" else options.blend
    filled = completer.at_scale(options.scale).fill([original.rgb], [hole])[0]
    completed = original.with_hole_filled(blend(filled, hole, kind, MAX_BLENDED), hole)

    file_format = original.file_format
    if file_format in OPAQUE and "A" in completed.image.mode:
        file_format = "PNG"
    suffix = next(suffix for suffix, name in FORMATS.items() if name == file_format)
    name = f"{Path(photo.name).stem.removesuffix('-completed')}-completed{suffix}"
    path = folder / f"completed{suffix}"
    try:
        write_photo(completed, path, options.quality)
    except UserError as error:
        raise UserError(str(error).replace(str(path), name)) from None
    seconds = time.perf_counter() - started
    return Result(path, name, summarize(options.method, hole, seconds, file_format))


def summarize(method: str, hole: Hole, seconds: float, file_format: str) -> str:
    """Returns what was filled by what, and what is unusual about it."""
    others = (
        "All other pixels are unchanged."
        if file_format in LOSSLESS
        else f"{file_format} is re-encoded, so other pixels may change slightly."
    )
    doubt = describe_doubt(hole)
    note = f" Note: {doubt}" if doubt else ""
    filled = f"{100 * hole.mean():.3g} % filled in {seconds:.1f} s"
    return f"{TITLES.get(method, method)}: {filled}. {others}{note}"
