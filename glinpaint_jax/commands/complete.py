"""Fills holes in photographs: one image and its mask, or folders of them matched by name.

Masks are images of the same size, white = fill. Only the holes change: all other pixels are those
of the input, its orientation applied, profile and metadata kept. PNG, TIFF and BMP are lossless.
"""

import argparse
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool
from tqdm import tqdm

from glinpaint_jax.commands import cli
from glinpaint_jax.config import MaskConfig
from glinpaint_jax.data.masks import free_form_mask
from glinpaint_jax.distributed import keep_compiled_programs
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.blend import KINDS
from glinpaint_jax.inference.completer import Completer, check_same_size
from glinpaint_jax.inference.photos import (
    FORMATS,
    output_format,
    read_mask,
    read_photo,
    write_bytes,
    write_photo,
)


class Job(NamedTuple):
    image: Path
    mask: Path | None  # None: a random one
    output: Path


def main(arguments: argparse.Namespace) -> None:
    if (arguments.mask is None) != arguments.random_holes:
        raise UserError("pass either --mask or --random-holes")
    if arguments.quality not in range(1, 101):
        raise UserError(f"--quality={arguments.quality} must be in 1..100")
    jobs, failures = find_jobs(arguments.image, arguments.mask, arguments.output)
    images = len(jobs) + len(failures)
    keep_compiled_programs()
    completer = Completer.load(arguments.checkpoint, arguments.tile, arguments.blend)
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
    """What is to be done, and why some of it cannot be. Raises UserError where nothing can."""
    for path in (image, mask):
        if path is not None and not path.exists():
            raise UserError(f"no file or folder {path}")
    if not image.is_dir():
        if mask is not None and mask.is_dir():
            raise UserError(f"--image is a file, --mask={mask} a folder; both must be the same")
        return [Job(image, mask, output / image.name if output.is_dir() else output)], []

    images = _images_in(image)
    if not images:
        raise UserError(f"no images in {image}; known are {', '.join(FORMATS)}")
    if mask is None or not mask.is_dir():  # random ones, or one for all
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
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in FORMATS)


def complete_file(completer: Completer, job: Job, arguments: argparse.Namespace) -> None:
    """Raises UserError, leaving no file, where the image, its mask or the output will not do."""
    image, mask, output = job
    output_format(output)
    if output.exists():
        if any(path is not None and output.samefile(path) for path in (image, mask)):
            raise UserError(f"{output} is an input and is never overwritten; change --output")
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
        print(f"{mask}: the mask covers everything; nothing is left to go by", file=sys.stderr)
    if not hole.any() and output.suffix.lower() == image.suffix.lower():
        write_bytes(output, image.read_bytes())
        return
    filled = photo.with_hole_filled(completer.fill([photo.rgb], [hole])[0], hole)
    write_photo(filled, output, arguments.quality)


def random_hole(name: str, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """Brush strokes over 5 to 20 % of the image, for one name always the same."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    config = MaskConfig(kind="free_form", min_area=0.05, max_area=0.2)
    return free_form_mask(rng, height, width, config)[..., 0] > 0


if __name__ == "__main__":
    parser = cli.ArgumentParser("complete", __doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="a workdir, a step, or a .pth file")
    add("--image", type=Path, required=True, help="a file or a folder")
    add("--mask", type=Path, help="a file, or a folder of masks with the images' names")
    add("--random-holes", action="store_true", help="to try out: brush strokes instead of a mask")
    add("--output", type=Path, required=True, help="a file or a folder")
    add("--overwrite", action="store_true", help="replace existing outputs (inputs never)")
    add("--resize-mask", action="store_true", help="stretch masks of another size (nearest)")
    add("--quality", type=int, default=95, help="of JPEG and WebP, 1..100 [95]")
    add("--blend", choices=KINDS, default="none", help="hide seams; telea-poisson is the paper's")
    add("--tile", type=int, default=512, help="largest hole computed at once, pixels [512]")
    cli.run_command(main, parser)
