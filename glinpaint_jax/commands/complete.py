"""Fills holes in photographs: one image and its mask, or folders with matching names.

A mask is an image of the same size; white pixels are filled. All other pixels of the photograph
stay exactly the same; its EXIF orientation is applied, its color profile and metadata are kept.
PNG, TIFF and BMP are lossless; JPEG is re-encoded.
"""

import argparse
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool
from tqdm import tqdm

from glinpaint_jax.commands import cli
from glinpaint_jax.config import MaskConfig
from glinpaint_jax.data.masks import free_form_mask
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.blend import KINDS
from glinpaint_jax.inference.photos import (
    FORMATS,
    output_format,
    read_mask,
    read_photo,
    write_bytes,
    write_photo,
)

if TYPE_CHECKING:
    from glinpaint_jax.inference.completer import Completer


class Job(NamedTuple):
    image: Path
    mask: Path | None  # None: a random hole
    output: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    cli.add_checkpoint_argument(parser)
    add("--image", type=Path, required=True, metavar="PATH", help="a file or a folder")
    add("--mask", type=Path, metavar="PATH", help="a file, or a folder with the images' names")
    add("--random-holes", action="store_true", help="fill random brush strokes instead of a mask")
    add("--output", type=Path, required=True, metavar="PATH", help="a file or a folder")
    add("--overwrite", action="store_true", help="replace existing outputs; inputs never")
    add("--resize-mask", action="store_true", help="resize masks to the image's size (nearest)")
    add("--quality", type=int, default=95, metavar="N", help="of JPEG and WebP, 1..100 [95]")
    add(
        "--blend",
        choices=KINDS,
        default=KINDS[0],
        help="how to hide seams; telea-poisson is the paper's [none]",
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
    from glinpaint_jax.inference.completer import Completer

    if (arguments.mask is None) != arguments.random_holes:
        raise UserError("pass either --mask or --random-holes")
    if arguments.quality not in range(1, 101):
        raise UserError(f"--quality={arguments.quality} must be in 1..100")
    jobs, failures = find_jobs(arguments.image, arguments.mask, arguments.output)
    images = len(jobs) + len(failures)
    start()
    completer = Completer.load(
        arguments.checkpoint, arguments.tile, arguments.blend, arguments.scale
    )
    if arguments.image.is_dir():
        make_folder(arguments.output)
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
    """The jobs, and errors for images without a usable mask. Raises UserError if no job is left."""
    for path in (image, mask):
        if path is not None and not path.exists():
            raise UserError(f"no file or folder {path}")
    if not image.is_dir():
        if mask is not None and mask.is_dir():
            raise UserError(f"--image is a file, --mask={mask} is a folder; both must be the same")
        return [Job(image, mask, output / image.name if output.is_dir() else output)], []

    images = _images_in(image)
    if not images:
        raise UserError(f"no images in {image}; supported: {', '.join(FORMATS)}")
    if mask is None or not mask.is_dir():  # random holes, or one mask for all
        return [Job(path, mask, output / path.name) for path in images], []
    masks: dict[str, list[Path]] = {}
    for path in _images_in(mask):
        masks.setdefault(path.stem, []).append(path)
    jobs, failures = [], []
    for path in images:
        match masks.get(path.stem, []):
            case [only]:
                jobs.append(Job(path, only, output / path.name))
            case []:
                failures.append(f"{path}: no mask named {path.stem}.* in {mask}")
            case several:
                names = ", ".join(found.name for found in several)
                failures.append(f"{path}: several masks in {mask}: {names}")
    return jobs, failures


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create folder {folder}: {error.strerror}") from None


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in FORMATS)


def complete_file(completer: "Completer", job: Job, arguments: argparse.Namespace) -> None:
    """Raises UserError and writes nothing if the image, its mask or the output is unusable."""
    from glinpaint_jax.inference.completer import check_same_size

    image, mask, output = job
    output_format(output)
    if output.exists():
        if any(path is not None and output.samefile(path) for path in (image, mask)):
            raise UserError(f"{output} is an input, which is never overwritten; change --output")
        if not arguments.overwrite:
            raise UserError(f"{output} exists; pass --overwrite or change --output")
    photo = read_photo(image)
    width, height = photo.image.size
    hole = random_hole(image.name, height, width) if mask is None else read_mask(mask)
    if arguments.resize_mask:
        size = (width, height)
        hole = cv2.resize(hole.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    try:
        check_same_size((height, width), hole.shape)
    except UserError as error:
        raise UserError(f"{image}, {mask}: {error}, or pass --resize-mask") from None
    if hole.all():
        print(
            f"{mask}: the mask covers the whole image; no context is left",
            file=sys.stderr,
        )
    if not hole.any() and output.suffix.lower() == image.suffix.lower():
        write_bytes(output, image.read_bytes())
        return
    filled = photo.with_hole_filled(completer.fill([photo.rgb], [hole])[0], hole)
    write_photo(filled, output, arguments.quality)


def random_hole(name: str, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """Brush strokes over 5 to 20 % of the image, always the same for a name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    config = MaskConfig(kind="free_form", min_area=0.05, max_area=0.2)
    return free_form_mask(rng, height, width, config)[..., 0] > 0
