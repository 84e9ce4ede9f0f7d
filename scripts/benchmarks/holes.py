"""Mean l1 error in filled holes, in percent: at scale auto and 1, and with every blend.

    python scripts/benchmarks/holes.py CHECKPOINT ... [--pictures DIR]

The photographs are the three that the demo holds out. First, resized to 1024x1024 with one square
hole at one of three places on the diagonal, and not blended. Then 36 crops of 160x160 of the
photographs as they are, with a hole in the middle, at scale auto. The pictures have a row for each
line of the first table.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import skimage.data

from glinpaint_jax import Completer
from glinpaint_jax.config import MaskConfig
from glinpaint_jax.data.datasets import HELD_OUT_PHOTOS
from glinpaint_jax.data.masks import free_form_mask
from glinpaint_jax.inference.blend import KINDS

SIDE, CROP = 1024, 160
SIZES = (16, 128, 300, 600)
PLACES = (0.25, 0.5, 0.75)
SMOOTH = "--method smooth"  # without a checkpoint
Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (image, hole) -> filled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*")
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    folder = Path(skimage.data.__file__).parent
    photos = [np.array(PIL.Image.open(folder / name).convert("RGB")) for name in HELD_OUT_PHOTOS]
    compare_scales(photos, arguments.checkpoints, arguments.pictures)
    compare_blends(photos, arguments.checkpoints)


def compare_scales(photos: list[np.ndarray], checkpoints: list[str], pictures: Path | None) -> None:
    print("|", *(f"| {size} pixels" for size in SIZES), "|\n|---" + "|---" * len(SIZES) + "|")
    photos = [np.array(PIL.Image.fromarray(photo).resize((SIDE, SIDE))) for photo in photos]
    rows = {size: [] for size in SIZES}
    for path in (None, *checkpoints):
        for scale in ("auto", 1) if path else (1,):
            fill = load(path, blend="none", scale=scale)
            errors = []
            for size in SIZES:
                cases = [(photo, box(SIDE, size, place)) for photo in photos for place in PLACES]
                filled = [fill(remove(*case), case[1]) for case in cases]
                errors.append(mean_error(filled, cases))
                views = [view(image, case[1]) for image, case in zip(filled, cases, strict=True)]
                rows[size].append(np.concatenate(views, axis=1))
            label = f"{path or SMOOTH}, {scale}"
            print(f"| {label}", *(f"| {error:.2f}" for error in errors), "|", flush=True)
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        for size, images in rows.items():
            PIL.Image.fromarray(np.concatenate(images)).save(pictures / f"{size}.png")


def compare_blends(photos: list[np.ndarray], checkpoints: list[str]) -> None:
    crops = []
    for photo in photos:
        bottom, right = np.subtract(photo.shape[:2], CROP)
        for y in np.linspace(0, bottom, 3, dtype=int):
            for x in np.linspace(0, right, 4, dtype=int):
                crops.append(photo[y : y + CROP, x : x + CROP])
    holes = {f"box of {size}": [box(CROP, size, 0.5)] * len(crops) for size in (16, 40, 100)}
    rng = np.random.default_rng(0)
    strokes = [free_form_mask(rng, CROP, CROP, MaskConfig(kind="free_form")) for _ in crops]
    holes["strokes"] = [mask[..., 0] > 0 for mask in strokes]
    print("\n| | |", *(f"{kind} |" for kind in KINDS), "\n|---|---" + "|---" * len(KINDS) + "|")
    for path in (None, *checkpoints):
        fills = [load(path, blend=kind) for kind in KINDS]
        for name, shapes in holes.items():
            cases = list(zip(crops, shapes, strict=True))
            errors = [mean_error([fill(remove(*c), c[1]) for c in cases], cases) for fill in fills]
            label = f"{path or SMOOTH} | {name}"
            print(f"| {label}", *(f"| {error:.2f}" for error in errors), "|", flush=True)


def load(path: str | None, **options: object) -> Fill:
    return Completer.load(path, **options) if path else Completer(method="smooth", **options)


def box(side: int, size: int, place: float) -> np.ndarray:
    """A square hole on the diagonal of an image, as near to `place` as it fits."""
    start = min(max(0, round(side * place) - size // 2), side - size)
    hole = np.zeros((side, side), bool)
    hole[start : start + size, start : start + size] = True
    return hole


def remove(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    return np.where(hole[..., None], np.uint8(0), image)


def mean_error(filled: list[np.ndarray], cases: list[tuple[np.ndarray, np.ndarray]]) -> float:
    errors = [
        np.abs(result.astype(float) - image)[hole].mean()
        for result, (image, hole) in zip(filled, cases, strict=True)
    ]
    return 100 / 255 * float(np.mean(errors))


def view(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The hole and half its size around it, 200x200."""
    edges = np.flatnonzero(hole.any(axis=0))[[0, -1]]
    margin = (edges[1] - edges[0]) // 2
    part = slice(max(0, edges[0] - margin), edges[1] + margin)
    return cv2.resize(image[part, part], (200, 200))


if __name__ == "__main__":
    main()
