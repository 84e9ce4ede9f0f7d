"""Compares fills of photographs that were not trained on.

    python scripts/compare_fills.py [--checkpoint PATH] [--sheets FOLDER]    # docs/completing.md

Holes of ten kinds in each photograph that scripts/small_photos.py holds out, with 95 %
bootstrap intervals over photographs. No figure alone is a judge: l1 rewards blur.
- l1: mean absolute error in the hole, in percent.
- texture: mean gradient in the hole, divided by the original's. 1 is right, 0.3 is a smudge.
- patches: sliced Wasserstein distance between the 5x5 patches of the hole and of the original, in
  percent: whether it is made of the right things, wherever they are.
--sheets writes each hole with its fills in shuffled columns, for the eye; key.txt names them.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from jaxtyping import Bool, Float, UInt8

from glinpaint_jax import Completer
from glinpaint_jax.data.folders import FolderSource
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.methods import CLASSICAL

Image = UInt8[np.ndarray, "h w 3"]
Hole = Bool[np.ndarray, "h w"]
Fill = Callable[[Image, Hole], Image]

FOLDER = Path("data/small_photos/val")
SEED = 2017
RESAMPLES = 10_000
KINDS_OF_HOLES = (
    *("dots", "scratches", "text", "post"),
    *("box 24", "box 48", "box 96", "box 160", "blob 2", "blob 7"),  # pixels; percent of the image
)
PATCH, DIRECTIONS = 5, 128
SHEET_SIDE = 240


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="small", metavar="PATH", help="of the network")
    parser.add_argument("--sheets", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    try:
        compare(arguments.checkpoint, arguments.sheets)
    except UserError as error:
        sys.exit(f"error: {error}")


def compare(checkpoint: str, sheets: Path | None) -> None:
    if not FOLDER.is_dir():
        raise UserError(f"no folder {FOLDER}; scripts/small_photos.py fetches it")
    source = FolderSource(FOLDER)
    fills = {"network": Completer.load(checkpoint, blend="none").__call__}
    fills |= {name: Completer(method=name).__call__ for name in ("auto", "patches", *CLASSICAL)}
    print_row("holes", "fill", "l1", "texture", "patches")
    print_row(*["---"] * 5)
    for number, kind in enumerate(KINDS_OF_HOLES):
        scores: dict[str, list[tuple[float, ...]]] = {name: [] for name in fills}
        for photo in range(len(source)):
            rng, image = np.random.default_rng((SEED, number, photo)), source[photo]
            hole = draw_hole(kind, *image.shape[:2], rng)
            filled = {name: fill(image, hole) for name, fill in fills.items()}
            for name, result in filled.items():
                scores[name].append(
                    (
                        l1_error(result, image, hole),
                        gradient(result)[hole].mean() / max(gradient(image)[hole].mean(), 0.1),
                        patch_distance(result, image, hole),
                    )
                )
            if sheets:
                write_sheet(sheets, f"{kind} {photo:02}", image, hole, filled, rng)
        for name, each in scores.items():
            print_row(kind, name, *map(mean_and_interval, np.transpose(each)))


def draw_hole(kind: str, height: int, width: int, rng: np.random.Generator) -> Hole:
    hole = np.zeros((height, width), np.uint8)
    name, _, size = kind.partition(" ")
    if name == "dots":
        for x, y, radius in rng.integers((width, height, 2), size=(30, 3)).tolist():
            cv2.circle(hole, (x, y), radius, 1, cv2.FILLED)
    elif name == "scratches":
        for _ in range(3):
            turns = rng.uniform(0, np.pi) + np.cumsum(rng.normal(0, 0.3, 6))
            steps = rng.uniform(15, 40, (6, 1)) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
            points = rng.uniform(0.1, 0.9, 2) * (width, height) + np.cumsum(steps, axis=0)
            cv2.polylines(hole, [points.astype(np.int32)], False, 1, int(rng.integers(2, 5)))
    elif name == "text":
        start = int(rng.integers(5, width // 4)), int(rng.integers(height // 4, height))
        cv2.putText(hole, "Holiday 2026", start, cv2.FONT_HERSHEY_SIMPLEX, 1, 1, 3)
    elif name == "post":
        wide = int(rng.integers(12, 31))
        top, left = int(rng.integers(height // 3)), int(rng.integers(width - wide))
        hole[top : top + height * 3 // 5, left : left + wide] = 1
    elif name == "box":
        side = int(size)
        top, left = rng.integers(8, (height - side - 8, width - side - 8)).tolist()
        hole[top : top + side, left : left + side] = 1
    else:
        radius = np.sqrt(int(size) / 100 * height * width / np.pi)
        center = rng.uniform(radius, (width - radius, height - radius))
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        waves = (rng.normal(0, 0.1) * np.cos(n * angles + rng.uniform(0, 6)) for n in range(2, 6))
        around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        edge = center + radius * (1 + sum(waves))[:, None] * around
        cv2.fillPoly(hole, [edge.astype(np.int32)], 1)
    return hole > 0


def gradient(image: Image) -> Float[np.ndarray, "h w"]:
    return np.hypot(*np.gradient(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)))


def patch_distance(result: Image, image: Image, hole: Hole) -> float:
    """Sliced Wasserstein distance (Rabin et al. 2011) of the patches centered in the hole."""
    directions = np.random.default_rng(0).normal(size=(3 * PATCH**2, DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)

    def sorted_projections(pixels: Image) -> Float[np.ndarray, "n directions"]:
        padded = np.pad(pixels, ((PATCH // 2,) * 2, (PATCH // 2,) * 2, (0, 0)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (PATCH, PATCH), axis=(0, 1))
        return np.sort(windows[hole].reshape(-1, 3 * PATCH**2) @ directions, axis=0)

    return float(np.abs(sorted_projections(result) - sorted_projections(image)).mean() / 2.55)


def mean_and_interval(values: Float[np.ndarray, " n"]) -> str:
    """The mean and its 95 % percentile interval."""
    rng = np.random.default_rng(SEED)
    picked = rng.integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[picked].mean(axis=1), (2.5, 97.5))
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"


def write_sheet(
    folder: Path,
    name: str,
    image: Image,
    hole: Hole,
    filled: dict[str, Image],
    rng: np.random.Generator,
) -> None:
    """Writes the hole in white, then its fills in shuffled order."""
    folder.mkdir(parents=True, exist_ok=True)
    order = rng.permutation(list(filled)).tolist()
    left, top, width, height = cv2.boundingRect(hole.view(np.uint8))
    rows, columns = (
        slice(max(0, start + size // 2 - SHEET_SIDE // 2), start + size // 2 + SHEET_SIDE // 2)
        for start, size in ((top, height), (left, width))
    )
    shown = [np.where(hole[..., None], np.uint8(255), image), *(filled[name] for name in order)]
    PIL.Image.fromarray(np.hstack([part[rows, columns] for part in shown])).save(
        folder / f"{name}.png"
    )
    with (folder / "key.txt").open("a") as file:
        file.write(f"{name}: {', '.join(order)}\n")


def l1_error(completed: Image, image: Image, hole: Hole) -> float:
    """Mean absolute error in the hole, in percent of the value range."""
    return float(np.abs(completed[hole].astype(int) - image[hole]).mean() / 2.55)


def print_row(*cells: str | float) -> None:
    texts = (cell if isinstance(cell, str) else f"{cell:.2f}" for cell in cells)
    print(f"| {' | '.join(texts)} |", flush=True)


if __name__ == "__main__":
    main()
