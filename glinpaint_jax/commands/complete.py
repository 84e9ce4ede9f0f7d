"""Fills holes in photographs: one image and its mask, or folders with matching names.

A mask is an image of the same size; white pixels are filled. In folders, masks have their image's
name, or LaMa's names: a_mask001.png for a.png, in the same folder or in another.

All other pixels of the photograph stay exactly the same; its EXIF orientation is applied, its color
profile and metadata are kept. PNG, TIFF and BMP are lossless; JPEG is re-encoded.
"""

import argparse
import os
import sys
import time
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from glinpaint_jax.commands import cli
from glinpaint_jax.data.folders import MASK_NAME
from glinpaint_jax.data.images import FORMATS, MAX_PIXELS, UNSUPPORTED, unsupported
from glinpaint_jax.downloads import CHECKPOINT_HELP
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import check_folder_writable, report_unwritable, write_atomically
from glinpaint_jax.inference.blend import KINDS
from glinpaint_jax.inference.photos import check_format, encode_photo, read_pair

if TYPE_CHECKING:
    from glinpaint_jax.inference.completer import Completer

SECONDS_PER_LINE = 30  # of progress


class Job(NamedTuple):
    image: Path
    mask: Path | None  # None: the image's alpha
    output: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, path, number = parser.add_argument, cli.local_path, cli.whole_number
    add("--checkpoint", metavar="PATH", help=CHECKPOINT_HELP)
    cli.add_method_argument(parser)
    add("--image", type=path, required=True, metavar="PATH", help="a file or a folder")
    add("--mask", type=path, metavar="PATH", help="a file, or a folder with the images' names")
    add("--mask-from", choices=["alpha"], help="fill what is transparent; no --mask")
    add("--output", type=path, required=True, metavar="PATH", help="a file or a folder")
    add("--overwrite", action="store_true", help="replace existing outputs; inputs never")
    add("--skip-existing", action="store_true", help="leave existing outputs as they are")
    add("--resize-mask", action="store_true", help="stretch masks of another size; thin holes stay")
    add("--invert-mask", action="store_true", help="fill the black of masks")
    add("--dilate-mask", type=number(0), default=0, metavar="N", help="grow holes by N pixels [0]")
    add("--quality", type=number(1, 100), default=95, metavar="1..100", help="of JPEG, WebP [95]")
    blends = ("auto", *KINDS)
    add("--blend", choices=blends, default="auto", help="what hides seams; auto: as needed [auto]")
    add("--scale", default="auto", help="auto shrinks holes larger than in training [auto]")
    attempts = "without --checkpoint: another result, 1 to 4 [0]"
    add("--attempt", type=int, default=0, metavar="N", help=attempts)
    most, larger = MAX_PIXELS // 10**6, "larger photographs are rejected [200]"
    add("--max-megapixels", type=number(1), default=most, metavar="N", help=larger)
    add("--tile", type=int, default=512, metavar="N", help="largest hole computed at once [512]")


def main(arguments: argparse.Namespace) -> None:
    from glinpaint_jax.processes import start

    if (arguments.mask is None) == (arguments.mask_from is None):
        raise UserError("pass either --mask or --mask-from alpha")
    if arguments.overwrite and arguments.skip_existing:
        raise UserError("pass either --overwrite or --skip-existing")
    jobs, failures = find_jobs(arguments.image, arguments.mask, arguments.output)
    count = len(jobs) + len(failures)
    if arguments.skip_existing:
        jobs = [job for job in jobs if not os.path.exists(job.output)]  # Path.exists may raise
    skipped = count - len(jobs) - len(failures)
    jobs, unwritable = split_jobs(jobs, arguments.overwrite)
    failures += unwritable
    if count == 1 and failures:
        raise UserError(failures[0])
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if jobs:
        check_folder_writable(jobs[0].output.parent)  # the same for all
        start()
        names = ("tile", "blend", "scale", "attempt")
        options = {name: getattr(arguments, name) for name in names}
        completer = cli.load_completer(arguments, **options)
    for job in show_progress(jobs):
        try:
            complete_file(completer, job, arguments)
        except UserError as error:
            if count == 1:
                raise
            failures.append(str(error))
            tqdm.write(f"error: {error}", file=sys.stderr)
    before = f", {skipped} of them before" * bool(skipped)
    print(f"{count - len(failures)} of {count} images completed{before}: {arguments.output}")
    if failures:
        sys.exit(1)


def show_progress(jobs: list[Job]) -> Iterator[Job]:
    """Yields the jobs, with a bar on a terminal; else with a line now and then."""
    if sys.stderr.isatty() and len(jobs) > 1:
        yield from tqdm(jobs, unit="image")
        return
    shown = time.monotonic()
    for number, job in enumerate(jobs):
        if time.monotonic() > shown + SECONDS_PER_LINE:
            print(f"{number} of {len(jobs)} images", file=sys.stderr, flush=True)
            shown = time.monotonic()
        yield job


def find_jobs(image: Path, mask: Path | None, output: Path) -> tuple[list[Job], list[str]]:
    """The jobs, and errors for images without a usable mask. Raises UserError if there are none."""
    for path in (image, mask):
        if path is not None and not os.path.exists(path):  # Path.exists may raise
            raise UserError(f"no file or folder {path}")
    if not image.is_dir():
        if mask is not None and mask.is_dir():
            raise UserError(f"--image is a file, --mask={mask} is a folder; both must be the same")
        return [Job(image, mask, output / image.name if os.path.isdir(output) else output)], []
    images, others = _files_in(image, FORMATS), _files_in(image, UNSUPPORTED)
    failures = [unsupported(path, path.suffix[1:].upper()) for path in others]
    if mask is not None and mask.is_dir():
        jobs, unpaired = pair_masks(images, mask, output)
        failures += unpaired
    else:
        jobs = [Job(path, mask, output / path.name) for path in images]
    if not jobs and not failures:
        raise UserError(f"no images in {image}; supported: {', '.join(FORMATS)}")
    if left_out := {*_shown(image)} - {*images, *others}:
        folders = sum(path.is_dir() for path in left_out)
        counts = f"{folders} folders, {len(left_out) - folders} files that are not images"
        print(f"left out of {image}: {counts}", file=sys.stderr)
    return jobs, failures


def pair_masks(images: list[Path], folder: Path, output: Path) -> tuple[list[Job], list[str]]:
    """The jobs for images and their masks in `folder`, and errors for images without one.

    The masks of a.png are a.* and LaMa's a_mask*.*; outputs are named after masks. If images and
    masks share a folder, a.* is not a mask, and a_mask*.* not an image.
    """
    stems = {_stem(path) for path in images}
    shared = bool(images) and images[0].parent.samefile(folder)
    masks: dict[str, list[Path]] = {}
    for path in _files_in(folder, FORMATS):
        is_named_alike = _stem(path) in stems and not shared
        masks.setdefault(_stem(path) if is_named_alike else _masked(path), []).append(path)
    jobs, failures = [], []
    for image in images:
        for mask in masks.get(_stem(image), []):
            jobs.append(Job(image, mask, output / (mask.stem + image.suffix)))
        is_mask = shared and _masked(image) in stems
        if _stem(image) not in masks and not is_mask:
            alike = "" if shared else f"{image.stem}.* or "
            failures.append(f"{image}: no mask named {alike}{image.stem}_mask*.* in {folder}")
    return jobs, failures


def split_jobs(jobs: list[Job], overwrite: bool) -> tuple[list[Job], list[str]]:
    """The jobs whose output can be written, and errors for the others."""
    possible: dict[Path, Job] = {}
    failures = []
    for job in jobs:
        try:
            check_output(job, overwrite)
            if earlier := possible.get(job.output):
                raise UserError(f"{job.mask} has the output of {earlier.mask}; rename one of them")
            possible[job.output] = job
        except UserError as error:
            failures.append(str(error))
    return list(possible.values()), failures


def check_output(job: Job, overwrite: bool) -> None:
    """Raises UserError if the output cannot be written, or would replace a file it must not."""
    image, mask, output = job
    check_format(output)
    with report_unwritable(output):  # its name may be too long
        if output.is_dir():
            raise UserError(f"{output} is a folder, must be a file; change --output")
        exists = output.exists()
        if exists and any(path and output.samefile(path) for path in (image, mask)):
            raise UserError(f"{output} is an input, which is never overwritten; change --output")
        if exists and not overwrite:
            raise UserError(f"{output} exists; pass --overwrite or change --output")


def _files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    found = (path for path in _shown(folder) if path.suffix.lower() in suffixes)
    return sorted(path for path in found if path.is_file())  # a pipe would block its reader


def _shown(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]  # no ._a.jpg


def _stem(path: Path) -> str:
    """In one of the forms that Unicode has for accents: macOS writes another than Linux."""
    return unicodedata.normalize("NFC", path.stem)


def _masked(mask: Path) -> str:
    """The stem of the image that a mask of LaMa's names is for, or ""."""
    match = MASK_NAME.fullmatch(unicodedata.normalize("NFC", mask.name))
    return match[1] if match else ""


def complete_file(completer: "Completer", job: Job, arguments: argparse.Namespace) -> None:
    """Raises UserError and writes nothing if the image, its mask or the output is unusable."""
    image, mask, output = job
    flags = arguments.invert_mask, arguments.resize_mask, arguments.dilate_mask
    photo, hole, doubt = read_pair(image, mask, *flags, arguments.max_megapixels * 10**6)
    check_format(output, photo.image.mode)
    if doubt:
        may_invert = doubt.endswith("inverted?") and not arguments.invert_mask
        advice = " If so, pass --invert-mask." if may_invert else ""
        print(f"warning: {mask or image}: {doubt}{advice}", file=sys.stderr)
    if not hole.any() and output.suffix.lower() == image.suffix.lower():
        content = image.read_bytes()
    else:
        filled = photo.with_hole_filled(completer.fill(photo.rgb, hole), hole)
        content = encode_photo(filled, output, arguments.quality)
    with report_unwritable(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, content)
    if advice := completer.advice(hole):
        print(f"note: {output}: {advice}", file=sys.stderr)
