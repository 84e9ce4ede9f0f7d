"""Fills holes in photographs: one image and its mask, or folders with matching names.

A mask is an image of the same size; white pixels are filled. In folders, masks have their image's
name, or LaMa's names: a_mask001.png for a.png, in the same folder or in another.

All other pixels of the photograph stay exactly the same; its EXIF orientation is applied, its color
profile and metadata are kept. PNG, TIFF and BMP are lossless; JPEG is re-encoded.
"""

import argparse
import os
import sys
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from glinpaint_jax.commands import cli
from glinpaint_jax.config import MaskConfig
from glinpaint_jax.data.images import FORMATS, UNSUPPORTED, unsupported
from glinpaint_jax.data.mask_files import Hole, adjust_hole, describe_doubt, read_mask
from glinpaint_jax.data.masks import free_form_mask
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import check_folder_writable, report_unwritable
from glinpaint_jax.inference.blend import KINDS
from glinpaint_jax.inference.photos import (
    Photo,
    check_storable,
    output_format,
    read_photo,
    split_alpha,
    write_bytes,
    write_photo,
)

if TYPE_CHECKING:
    from glinpaint_jax.inference.completer import Completer


class Job(NamedTuple):
    image: Path
    mask: Path | None  # None: a random hole, or the image's alpha
    output: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    cli.add_checkpoint_argument(parser, required=False)
    cli.add_method_argument(parser)
    add("--image", type=cli.local_path, required=True, metavar="PATH", help="a file or a folder")
    add(
        "--mask",
        type=cli.local_path,
        metavar="PATH",
        help="a file, or a folder with the images' names",
    )
    add("--mask-from", choices=["alpha"], help="fill what is transparent; no --mask")
    add("--random-holes", action="store_true", help="fill random brush strokes instead of a mask")
    add("--output", type=cli.local_path, required=True, metavar="PATH", help="a file or a folder")
    add("--overwrite", action="store_true", help="replace existing outputs; inputs never")
    add("--resize-mask", action="store_true", help="stretch masks of another size; thin holes stay")
    add("--invert-mask", action="store_true", help="fill the black of masks")
    add("--dilate-mask", type=int, default=0, metavar="N", help="grow holes by N pixels [0]")
    add("--quality", type=int, default=95, metavar="N", help="of JPEG and WebP, 1..100 [95]")
    add(
        "--blend",
        choices=("auto", *KINDS),
        default="auto",
        help="how to hide seams; auto: telea-poisson, the paper's, or none on a smooth base [auto]",
    )
    add(
        "--scale",
        type=_parse_scale,
        default="auto",
        metavar="SCALE",
        help="at which holes are filled: auto shrinks those larger than in training, 1 none [auto]",
    )
    add(
        "--tile",
        type=int,
        default=512,
        metavar="PIXELS",
        help="largest hole that is computed at once; smaller needs less memory [512]",
    )


def _parse_scale(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not auto or a number up to 1") from None


def main(arguments: argparse.Namespace) -> None:
    from glinpaint_jax.distributed import start

    holes = (arguments.mask is not None, arguments.mask_from is not None, arguments.random_holes)
    if sum(holes) != 1:
        raise UserError("pass one of --mask, --mask-from alpha and --random-holes")
    if arguments.quality not in range(1, 101):
        raise UserError(f"--quality={arguments.quality} must be in 1..100")
    if arguments.dilate_mask < 0:
        raise UserError(f"--dilate-mask={arguments.dilate_mask} must be at least 0")
    jobs, failures = find_jobs(arguments.image, arguments.mask, arguments.output)
    images = len(jobs) + len(failures)
    jobs, unwritable = split_jobs(jobs, arguments.overwrite)
    failures += unwritable
    if jobs:
        check_folder_writable(jobs[0].output.parent)  # the same for all
        start()
        completer = cli.load_completer(
            arguments, tile=arguments.tile, blend=arguments.blend, scale=arguments.scale
        )
    for job in tqdm(jobs, unit="image", disable=images == 1 or not sys.stderr.isatty()):
        try:
            complete_file(completer, job, arguments)
        except UserError as error:
            failures.append(str(error))
    if images == 1 and failures:
        raise UserError(failures[0])
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    print(f"{images - len(failures)} of {images} images completed: {arguments.output}")
    if failures:
        sys.exit(1)


def find_jobs(image: Path, mask: Path | None, output: Path) -> tuple[list[Job], list[str]]:
    """The jobs, and errors for images without a usable mask. Raises UserError if there are none."""
    for path in (image, mask):
        if path is not None and not os.path.exists(path):  # Path.exists may raise
            raise UserError(f"no file or folder {path}")
    if not image.is_dir():
        if mask is not None and mask.is_dir():
            raise UserError(f"--image is a file, --mask={mask} is a folder; both must be the same")
        return [Job(image, mask, output / image.name if os.path.isdir(output) else output)], []

    failures = [
        unsupported(path, path.suffix[1:].upper()) for path in _files_in(image, UNSUPPORTED)
    ]
    images = _files_in(image, FORMATS)
    if mask is not None and mask.is_dir():
        masks = _files_in(mask, FORMATS)
        jobs, without = pair_masks(images, masks, mask, output)
        failures += without
    else:  # one mask for all, random holes, or alpha
        jobs = [Job(path, mask, output / path.name) for path in images]
    if not jobs and not failures:
        raise UserError(f"no images in {image}; supported: {', '.join(FORMATS)}")
    return jobs, failures


def pair_masks(
    images: list[Path], masks: list[Path], folder: Path, output: Path
) -> tuple[list[Job], list[str]]:
    """The jobs for images and their masks in `folder`, and errors for images without a usable one.

    The mask of a.png is a.*, or any number of LaMa's a_mask*.*. Like LaMa, names an output after
    such a mask. If both are in one folder, a.* is no mask, and a_mask*.* no image.
    """
    stems = {path.stem for path in images}
    shared = bool(images) and images[0].parent.samefile(folder)
    same: dict[str, list[Path]] = {}
    lama: dict[str, list[Path]] = {}
    for path in masks:
        stem = path.stem.rpartition("_mask")[0]
        if stem in stems and (shared or path.stem not in stems):
            lama.setdefault(stem, []).append(path)
        else:
            same.setdefault(path.stem, []).append(path)
    if shared:
        used = {path for paths in lama.values() for path in paths}
        images, same = [path for path in images if path not in used], {}
    jobs, failures = [], []
    for path in images:
        if (several := same.get(path.stem, [])) and len(several) > 1:
            names = ", ".join(found.name for found in several)
            failures.append(f"{path}: several masks in {folder}: {names}")
        elif several:
            jobs.append(Job(path, several[0], output / path.name))
        elif path.stem in lama:
            jobs += [Job(path, m, output / (m.stem + path.suffix)) for m in lama[path.stem]]
        else:
            names = f"{path.stem}_mask*.*" if shared else f"{path.stem}.* or {path.stem}_mask*.*"
            failures.append(f"{path}: no mask named {names} in {folder}")
    return jobs, failures


def split_jobs(jobs: list[Job], overwrite: bool) -> tuple[list[Job], list[str]]:
    """The jobs whose output can be written, and errors for the others."""
    possible: dict[Path, Job] = {}
    failures = []
    for job in jobs:
        try:
            check_output(job, overwrite)
            if earlier := possible.get(job.output):
                raise UserError(
                    f"{job.mask}: its output {job.output} is also that of {earlier.mask}; rename "
                    "one of them"
                )
            possible[job.output] = job
        except UserError as error:
            failures.append(str(error))
    return list(possible.values()), failures


def check_output(job: Job, overwrite: bool) -> None:
    """Raises UserError if the output cannot be written, or would replace a file it must not."""
    image, mask, output = job
    output_format(output)
    with report_unwritable(output):  # its name may be too long
        if output.is_dir():
            raise UserError(f"{output} is a folder, must be a file; change --output")
        if output.exists():
            if any(path is not None and output.samefile(path) for path in (image, mask)):
                raise UserError(
                    f"{output} is an input, which is never overwritten; change --output"
                )
            if not overwrite:
                raise UserError(f"{output} exists; pass --overwrite or change --output")


def _files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)


def complete_file(completer: "Completer", job: Job, arguments: argparse.Namespace) -> None:
    """Raises UserError and writes nothing if the image, its mask or the output is unusable."""
    image, mask, output = job
    photo, hole = read_hole(read_photo(image), job, arguments)
    check_storable(photo, output)
    if doubt := describe_doubt(hole):
        advice = " If so, pass --invert-mask." if hole.any() and not arguments.invert_mask else ""
        print(f"warning: {mask or image}: {doubt}{advice}", file=sys.stderr)
    with report_unwritable(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    if not hole.any() and output.suffix.lower() == image.suffix.lower():
        write_bytes(output, image.read_bytes())
        return
    filled = photo.with_hole_filled(completer.fill([photo.rgb], [hole])[0], hole)
    write_photo(filled, output, arguments.quality)


def read_hole(photo: Photo, job: Job, arguments: argparse.Namespace) -> tuple[Photo, Hole]:
    """Returns the photo, without the alpha that is its mask, and the hole to fill."""
    width, height = photo.image.size
    if job.mask is not None:
        hole = read_mask(job.mask, photo.rgb)
    elif arguments.mask_from == "alpha":
        photo, hole = split_alpha(photo, job.image)
    else:
        hole = random_hole(job.image, height, width)
    flags = arguments.invert_mask, arguments.resize_mask
    try:
        return photo, adjust_hole(hole, (height, width), *flags, arguments.dilate_mask)
    except UserError as error:
        raise UserError(f"{job.image}, {job.mask}: {error}, or pass --resize-mask") from None


def random_hole(image: Path, height: int, width: int) -> Hole:
    """Brush strokes over 5 to 20 % of the image, always the same for a name."""
    rng = np.random.default_rng(zlib.crc32(image.name.encode()))
    config = MaskConfig(kind="free_form", min_area=0.05, max_area=0.2)
    try:
        return free_form_mask(rng, height, width, config)[..., 0] > 0
    except UserError:
        raise UserError(
            f"{image} is {width}x{height}, too small for --random-holes; pass --mask"
        ) from None
