"""Reads uploaded photographs, masks and options, and completes them. Nothing is a file on disk."""

import io
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
from starlette.datastructures import FormData, UploadFile

from glinpaint_jax.data.images import FORMATS
from glinpaint_jax.data.mask_files import Hole
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.completer import Check, Completer
from glinpaint_jax.inference.patches import ATTEMPTS
from glinpaint_jax.inference.photos import OPAQUE, Photo, encode_photo, read_pair
from glinpaint_jax.step_folders import FOLDER

# Names of what visitors can fill holes with.
TITLES = {
    "auto": "Automatic",
    "patches": "Patches",
    "network": "Small network",
    "small": "Small network",
    "smooth": "Smooth",
    "telea": "Telea",
    "navier-stokes": "Navier-Stokes",
    "places": "Places (MMagic)",
    "celeba_hq": "CelebA-HQ (MMagic)",
}
WAYS = ("", ", from nearby", ", another search", ", another search from nearby", ", the network")


class Upload(io.BytesIO):
    """An uploaded file; messages show its name."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name

    def __str__(self) -> str:
        return self.name


# What a request may set, as `complete` does on the command line: defaults, and bounds of numbers.
WORDS = {"method": None, "blend": "auto", "scale": "auto"}
NUMBERS = {
    "quality": (95, 1, 100),
    "attempt": (0, 0, len(ATTEMPTS)),
    "invert_mask": (0, 0, 1),
    "dilate_mask": (0, 0, 200),
    "resize_mask": (0, 0, 1),
}


class Job(NamedTuple):
    name: str  # of the photograph's file
    photo: Photo
    hole: Hole
    doubt: str | None  # what is unusual about the hole
    options: dict[str, Any]


def read_upload(form: FormData, field: str, max_bytes: int) -> Upload:
    """Raises UserError if the form has no such file, or it is too large."""
    upload = form.get(field)
    if not isinstance(upload, UploadFile):
        raise UserError(f"there is no {field}; send a file as the form's field {field!r}")
    # The end of the visitor's name, without folders and control characters.
    name = re.sub(r"[\0-\x1f]|.*[/\\]", "", upload.filename or "")[-50:].strip(".") or field
    if (size := upload.size or 0) > max_bytes:
        allowed = f"at most {max_bytes / 1e6:.0f} are allowed"
        raise UserError(f"{name} has {size / 1e6:.1f} MB, {allowed}")
    return Upload(upload.file.read(), name)


def parse_options(fields: dict[str, str]) -> dict[str, Any]:
    """Raises UserError for unknown fields and wrong numbers; the Completer checks the rest."""
    if unknown := fields.keys() - WORDS.keys() - NUMBERS.keys():
        allowed = ", ".join((*WORDS, *NUMBERS))
        raise UserError(f"unknown field {unknown.pop()!r}; allowed: photo, mask, {allowed}")
    options = WORDS | fields
    for name, (default, minimum, maximum) in NUMBERS.items():
        text = fields.get(name, str(default))
        if not (text.isdecimal() and minimum <= int(text) <= maximum):
            raise UserError(f"{name}={text!r} must be a whole number in {minimum}..{maximum}")
        options[name] = int(text)
    return options


def read_job(form: FormData, max_bytes: int, max_pixels: int) -> Job:
    """Raises UserError if a file or an option is missing, unusable or unknown."""
    fields = {name: str(form[name]) for name in form if name not in ("photo", "mask", "preview")}
    photo, mask = (read_upload(form, field, max_bytes) for field in ("photo", "mask"))
    options = parse_options(fields)
    invert, resize = bool(options["invert_mask"]), bool(options["resize_mask"])
    pair = read_pair(photo, mask, invert, resize, options["dilate_mask"], max_pixels)
    return Job(photo.name, *pair, options)


def complete(
    methods: dict[str, Completer], job: Job, check: Check
) -> tuple[bytes, str, str, PIL.Image.Image]:
    """Completes a photograph; returns a file in its format, a name, a summary, and the image.

    Raises UserError if there is no hole, or no such method.
    """
    name, photo, hole, doubt, options = job
    if not hole.any():
        raise UserError("there is no hole yet; paint over what should go, or open a mask")
    method, attempt = options["method"] or next(iter(methods)), options["attempt"]
    if method not in methods:
        raise UserError(f"method={method!r} must be one of {', '.join(methods)}")
    completer = methods[method].with_options(options["blend"], options["scale"], attempt, check)
    started = time.perf_counter()
    completed = photo.with_hole_filled(completer.fill(photo.rgb, hole), hole)
    seconds = time.perf_counter() - started
    has_alpha = "A" in completed.image.mode
    file_format = "PNG" if has_alpha and photo.file_format in OPAQUE else photo.file_format
    suffix = next(suffix for suffix, name in FORMATS.items() if name == file_format)
    path = Path(f"{Path(name).stem.removesuffix('-completed')}-completed{suffix}")
    others = "All other pixels are unchanged."
    if "lossless" not in photo.metadata:
        others = f"{file_format} is re-encoded, so other pixels may change slightly."
    title = TITLES.get(method, method) + WAYS[attempt]
    summary = f"{title}: {100 * hole.mean():.3g} % filled in {seconds:.1f} s. {others}"
    advice = completer.advice(hole)
    if advice and "places" not in methods:
        advice += "; Places (200 MB) on this server would help, too"
    notes = [f" Note: {note}" for note in (doubt, advice) if note]
    content = encode_photo(completed, path, options["quality"])
    return content, path.name, summary + "".join(notes), completed.image


def name_checkpoint(place: str) -> str:
    """Returns a short name for a checkpoint: its file or folder, or "RUN STEP".

    The names in TITLES mean ours and MMagic's weights: a run or URL that ends in one is called
    "FOLDER/NAME".
    """
    path = Path(place.rstrip("/")).absolute()
    if path.name.isdigit() and path.parent.name == FOLDER:
        return f"{path.parent.parent.name} {path.name}"
    if path.name in TITLES and (place not in TITLES or path.exists()):
        return f"{path.parent.name}/{path.name}"
    return path.name
