"""Reads uploaded photographs, masks and options, and completes them."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from glinpaint_jax.data.images import FORMATS
from glinpaint_jax.data.mask_files import Hole, describe_doubt
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.blend import KINDS, MAX_BLENDED, blend
from glinpaint_jax.inference.completer import check_scale
from glinpaint_jax.inference.photos import LOSSLESS, OPAQUE, Photo, read_pair, write_photo
from glinpaint_jax.web.methods import TITLES, Methods


class Options(NamedTuple):
    """What a request may set, as `complete` does on the command line."""

    method: str
    blend: str = "auto"
    scale: float | str = "auto"
    quality: int = 95
    invert_mask: int = 0
    dilate_mask: int = 0
    resize_mask: int = 0


BOUNDS = {
    "quality": (1, 100),
    "invert_mask": (0, 1),
    "dilate_mask": (0, 200),
    "resize_mask": (0, 1),
}


def parse_options(fields: Mapping[str, str], default_method: str) -> Options:
    """Raises UserError for unknown fields and values."""
    if unknown := set(fields) - set(Options._fields):
        allowed = ", ".join(Options._fields)
        raise UserError(f"unknown field {unknown.pop()!r}; allowed: photo, mask, {allowed}")
    options: dict[str, Any] = {"method": default_method, "scale": "auto"} | dict(fields)
    if (kind := options.get("blend", "auto")) not in ("auto", *KINDS):
        raise UserError(f"blend={kind!r} must be one of auto, {', '.join(KINDS)}")
    with contextlib.suppress(ValueError):
        options["scale"] = float(options["scale"])
    check_scale(options["scale"])
    for name in BOUNDS.keys() & options.keys():
        text, (minimum, maximum) = options[name], BOUNDS[name]
        if not (text.isdecimal() and minimum <= int(text) <= maximum):
            raise UserError(f"{name}={text!r} must be a whole number in {minimum}..{maximum}")
        options[name] = int(text)
    return Options(**options)


def read_hole(photo: Path, mask: Path, options: Options, max_pixels: int) -> tuple[Photo, Hole]:
    """Returns a photograph and its hole. Raises UserError if one of the files is unusable."""
    invert, resize = bool(options.invert_mask), bool(options.resize_mask)
    return read_pair(photo, mask, invert, resize, options.dilate_mask, max_pixels)[:2]


def complete(
    methods: Methods, photo: Path, mask: Path, options: Options, folder: Path, max_pixels: int
) -> tuple[Path, str]:
    """Completes a photograph; returns the file of the result, in the same format, and a summary.

    Raises UserError if there is nothing to complete, or the files are unsupported.
    """
    started = time.perf_counter()
    original, hole = read_hole(photo, mask, options, max_pixels)
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
    path = folder / f"{photo.stem.removesuffix('-completed')}-completed{suffix}"
    write_photo(completed, path, options.quality)
    return path, summarize(options.method, hole, time.perf_counter() - started, file_format)


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
