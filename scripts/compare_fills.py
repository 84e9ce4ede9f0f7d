"""Compares fills of photographs that were not trained on: mean l1 error in the hole, in percent.

    python scripts/compare_fills.py --checkpoint small                # the table of docs/small.md
    python scripts/compare_fills.py scales --checkpoint PATH ...      # those of docs/completing.md
    python scripts/compare_fills.py blends --checkpoint PATH ...

methods: a network and fills that need no training, on 8 crops of 128x128 of each photograph that
scripts/small_photos.py holds out, with holes as in configs/small.py. Shows the differences to the
network with 95 % bootstrap intervals. Photographs are resampled, not crops: crops of one photograph
are alike.

scales, blends: on the three photographs that the demo holds out. scales: resized to 1024x1024, one
square hole at each of three places on the diagonal, at scale auto and 1, without blending. blends:
36 crops of 160x160 of the photographs as they are, with a hole in the middle, at scale auto.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float, UInt8

from glinpaint_jax import Completer
from glinpaint_jax.config import DataConfig, FreeFormConfig, IrregularConfig, MaskConfig
from glinpaint_jax.data.datasets import HELD_OUT_PHOTOS
from glinpaint_jax.data.folders import FolderSource
from glinpaint_jax.data.holes import hole_drawer
from glinpaint_jax.data.masks import draw_boxes, free_form_mask
from glinpaint_jax.data.pipeline import crop_and_resize
from glinpaint_jax.data.sources import PhotoSource, Source
from glinpaint_jax.errors import UserError
from glinpaint_jax.evaluation.baselines import BASELINES
from glinpaint_jax.inference.blend import KINDS

Image = UInt8[np.ndarray, "h w 3"]
Hole = Bool[np.ndarray, "h w"]
Fill = Callable[[Image, Hole], Image]

FOLDER = Path("data/small_photos/val")
SEED = 2017
CROPS, SIZE = 8, 128
LARGEST_SIDE = 320  # the short side of a photograph before it is cropped: SIZE to this
RESAMPLES = 10_000
NETWORK = "network"
# In pixels, the holes of configs/small.py. Stroke widths are given for 256x256, hence halved here.
HOLES = {
    "boxes": MaskConfig(kind="rectangle", max_size=32, max_delta=40, margin=4),
    "strokes": MaskConfig(
        kind="mixed",
        mixed="free_form:0.33,irregular:0.25",
        min_area=0.02,
        max_area=0.4,
        irregular=IrregularConfig(lines=(1, 6), length=(20, 120), width=(2, 12)),
        free_form=FreeFormConfig(width=(4.0, 20.0)),
    ),
}
LARGE_SIDE, LARGE_HOLES, PLACES = 1024, (16, 128, 300, 600), (0.25, 0.5, 0.75)
BLEND_SIDE, BLEND_HOLES = 160, (16, 40, 100)
SMOOTH = "--method smooth"  # without a checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tables = {"methods": compare_methods, "scales": compare_scales, "blends": compare_blends}
    parser.add_argument("table", nargs="?", choices=tables, default="methods")
    parser.add_argument("--checkpoint", nargs="+", required=True, metavar="PATH")
    arguments = parser.parse_args()
    try:
        tables[arguments.table](arguments.checkpoint)
    except UserError as error:
        sys.exit(f"error: {error}")


def compare_methods(checkpoints: list[str]) -> None:
    if not FOLDER.is_dir():
        raise UserError(f"no folder {FOLDER}; scripts/small_photos.py fetches it")
    source = FolderSource(FOLDER)
    fills = {NETWORK: load(checkpoints[0], blend="none")}
    for name, fill in BASELINES.items():
        fills[name] = lambda image, hole, fill=fill: fill(image, hole[..., None].astype(np.uint8))
    for kind, config in HOLES.items():
        errors = measure(fills, source, config, CROPS)
        print(f"{kind}: {len(source)} photographs, {CROPS} crops of each")
        for name, each in errors.items():
            differences = errors[NETWORK] - each
            low, high = bootstrap_interval(differences)
            versus = f"  network - {name}: {differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
            print(f"  {name:<14} l1 {each.mean():.3f}{versus if name != NETWORK else ''}")


def measure(
    fills: dict[str, Fill], source: Source, config: MaskConfig, crops: int
) -> dict[str, Float[np.ndarray, " photos"]]:
    """Each method's mean l1 error in percent on each photograph; all fill the same holes."""
    draw_hole = hole_drawer(config, SIZE)
    data = DataConfig(crop="resize_then_crop", crop_size=LARGEST_SIDE)
    errors = {name: np.zeros(len(source)) for name in fills}
    for photo in range(len(source)):
        for crop in range(crops):
            rng = np.random.default_rng((SEED, photo, crop))
            image = crop_and_resize(source[photo], SIZE, data, rng)
            drawn = draw_hole(rng)
            hole = drawn.get("mask", draw_boxes(drawn["bbox"][None], SIZE, SIZE))[..., 0] > 0
            for name, fill in fills.items():
                errors[name][photo] += l1_error(fill(image, hole), image, hole) / crops
    return errors


def bootstrap_interval(differences: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of paired differences."""
    rng = np.random.default_rng(SEED)
    picked = rng.integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(differences[picked].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def compare_scales(checkpoints: list[str]) -> None:
    print_row("", *(f"{size} pixels" for size in LARGE_HOLES))
    print_row(*["---"] * (1 + len(LARGE_HOLES)))
    side = LARGE_SIDE, LARGE_SIDE
    photos = [np.array(PIL.Image.fromarray(photo).resize(side)) for photo in held_out_photos()]
    for path, scale in [(None, 1), *itertools.product(checkpoints, ("auto", 1))]:
        fill = load(path, blend="none", scale=scale)
        errors = []
        for size in LARGE_HOLES:
            holes = [square(LARGE_SIDE, size, place) for place in PLACES]
            errors.append(mean_error(fill, itertools.product(photos, holes)))
        print_row(f"{path or SMOOTH}, {scale}", *errors)


def compare_blends(checkpoints: list[str]) -> None:
    crops = []
    for photo in held_out_photos():
        bottom, right = np.subtract(photo.shape[:2], BLEND_SIDE)
        for y in np.linspace(0, bottom, 3, dtype=int):
            for x in np.linspace(0, right, 4, dtype=int):
                crops.append(photo[y : y + BLEND_SIDE, x : x + BLEND_SIDE])
    holes = {f"box of {n}": [square(BLEND_SIDE, n, 0.5)] * len(crops) for n in BLEND_HOLES}
    rng, config = np.random.default_rng(0), MaskConfig(kind="free_form")
    strokes = (free_form_mask(rng, BLEND_SIDE, BLEND_SIDE, config) for _ in crops)
    holes["strokes"] = [mask[..., 0] > 0 for mask in strokes]
    print_row("", "", *KINDS)
    print_row(*["---"] * (2 + len(KINDS)))
    for path in (None, *checkpoints):
        fills = [load(path, blend=kind) for kind in KINDS]
        for name, shapes in holes.items():
            errors = (mean_error(fill, zip(crops, shapes, strict=True)) for fill in fills)
            print_row(path or SMOOTH, name, *errors)


def load(path: str | None, **options: object) -> Fill:
    return Completer.load(path, **options) if path else Completer(method="smooth", **options)


def held_out_photos() -> list[Image]:
    source = PhotoSource(HELD_OUT_PHOTOS)
    return [source[number] for number in range(len(source))]


def square(side: int, size: int, place: float) -> Hole:
    """A square hole on the diagonal of an image, as near to `place` as it fits."""
    start = min(max(0, round(side * place) - size // 2), side - size)
    hole = np.zeros((side, side), bool)
    hole[start : start + size, start : start + size] = True
    return hole


def mean_error(fill: Fill, cases: Iterable[tuple[Image, Hole]]) -> float:
    return float(np.mean([l1_error(fill(*case), *case) for case in cases]))


def l1_error(completed: Image, image: Image, hole: Hole) -> float:
    """Mean absolute error in the hole, in percent of the value range."""
    return float(np.abs(completed[hole].astype(int) - image[hole]).mean() / 2.55)


def print_row(*cells: str | float) -> None:
    texts = (cell if isinstance(cell, str) else f"{cell:.2f}" for cell in cells)
    print(f"| {' | '.join(texts)} |", flush=True)


if __name__ == "__main__":
    main()
