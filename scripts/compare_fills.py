"""Compares a network with fills that need no training, on photographs it was not trained on.

    python scripts/compare_fills.py --checkpoint runs/small [--folder data/small_photos/val]
        [--crops 8] [--blend none] [--json FILE]

Cuts crops of 128x128 from each photograph, fills the same boxes and strokes with each method, and
prints the mean l1 error in the hole (percent) and the differences to the network, with 95 %
bootstrap intervals. Photographs are resampled, not crops: crops of one photograph are alike.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from glinpaint_jax import Completer
from glinpaint_jax.config import DataConfig, FreeFormConfig, IrregularConfig, MaskConfig
from glinpaint_jax.data.holes import hole_drawer
from glinpaint_jax.data.masks import draw_boxes
from glinpaint_jax.data.pipeline import crop_and_resize
from glinpaint_jax.data.sources import FolderSource, Source
from glinpaint_jax.errors import UserError
from glinpaint_jax.evaluation.baselines import BASELINES
from glinpaint_jax.files import write_atomically
from glinpaint_jax.inference.blend import KINDS

Image = UInt8[np.ndarray, "h w 3"]
Mask = UInt8[np.ndarray, "h w 1"]
Fill = Callable[[Image, Mask], Image]

SEED = 2017
SIZE = 128
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--folder", type=Path, default=Path("data/small_photos/val"))
    parser.add_argument("--crops", type=int, default=8, help="of each photograph")
    parser.add_argument("--blend", choices=KINDS, default="none", help="of the network's fills")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        parser.error(f"no folder {arguments.folder}; scripts/small_photos.py fetches it")
    source = FolderSource(arguments.folder)
    try:
        completer = Completer.load(arguments.checkpoint, blend=arguments.blend)
    except UserError as error:
        sys.exit(f"error: {error}")
    fills = {NETWORK: lambda image, mask: completer(image, mask[..., 0] > 0)} | BASELINES
    results = {}
    for kind, config in HOLES.items():
        errors = measure(fills, source, config, arguments.crops)
        results[kind] = summarize(errors)
        print(f"{kind}: {len(source)} photographs, {arguments.crops} crops of each")
        for name, row in results[kind].items():
            versus = ""
            if name != NETWORK:
                versus = "  network - {}: {:+.3f} [{:+.3f}, {:+.3f}]".format(
                    name, row["difference"], *row["interval"]
                )
            print(f"  {name:<14} l1 {row['l1']:.3f}{versus}", flush=True)
    if arguments.json:
        write_atomically(arguments.json, (json.dumps(results, indent=2) + "\n").encode())


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
            hole = draw_hole(rng)
            mask = hole.get("mask", draw_boxes(hole["bbox"][None], SIZE, SIZE))
            for name, fill in fills.items():
                errors[name][photo] += l1_error(fill(image, mask), image, mask) / crops
    return errors


def l1_error(completed: Image, image: Image, mask: Mask) -> float:
    """Mean absolute error in the hole, in percent of the value range."""
    hole = mask[..., 0] > 0
    return float(np.abs(completed[hole].astype(int) - image[hole]).mean() / 2.55)


def summarize(errors: dict[str, Float[np.ndarray, " photos"]]) -> dict[str, dict]:
    """The mean of each method, and the network's difference to it with its interval."""
    rows = {}
    for name, each in errors.items():
        difference = errors[NETWORK] - each
        rows[name] = {
            "l1": float(each.mean()),
            "difference": float(difference.mean()),
            "interval": bootstrap_interval(difference),
        }
    return rows


def bootstrap_interval(differences: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of paired differences."""
    rng = np.random.default_rng(SEED)
    picked = rng.integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(differences[picked].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


if __name__ == "__main__":
    main()
