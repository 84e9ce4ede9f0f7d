"""Draws the pictures of docs/completing.md from photographs that come with scikit-image.

docs/completed.jpg: holes, and what fills them without a checkpoint.
docs/methods.jpg: the same holes filled by several methods.
"""

from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import skimage.data

from glinpaint_jax import Completer
from glinpaint_jax.inference.methods import METHODS

HEIGHT = 300  # pixels of a photograph in the picture
GAP = 6
PHOTOS = Path(skimage.data.__file__).parent


def towers(size: tuple[int, int]) -> np.ndarray:
    """The two lightning towers beside the rocket."""
    left = [(102, 118), (116, 118), (117, 190), (118, 330), (77, 330), (92, 190)]  # corners, (x, y)
    right = [(348, 118), (362, 118), (369, 190), (383, 330), (345, 330), (344, 190)]
    hole = np.zeros(size, np.uint8)
    return cv2.fillPoly(hole, [np.int32(left), np.int32(right)], 1) > 0


def badge(size: tuple[int, int]) -> np.ndarray:
    """The round badge on the astronaut's suit, with the cloth it is sewn on."""
    return cv2.circle(np.zeros(size, np.uint8), (170, 390), 47, 1, cv2.FILLED) > 0


def scratches(size: tuple[int, int], seed: int) -> np.ndarray:
    rng, hole = np.random.default_rng(seed), np.zeros(size, np.uint8)
    for _ in range(14):
        angle, points = rng.uniform(0, np.pi), [rng.uniform(0, 1, 2) * size[::-1]]
        for _ in range(rng.integers(6, 14)):
            angle += rng.normal(0, 0.25)
            step = rng.uniform(15, 40) * np.array([np.cos(angle), np.sin(angle)])
            points.append(points[-1] + step)
        cv2.polylines(hole, [np.array(points, np.int32)], False, 1, int(rng.integers(2, 5)))
    return hole > 0


def load(name: str) -> np.ndarray:
    photo = np.array(PIL.Image.open(PHOTOS / name).convert("RGB"))
    return photo[:330, 92:560] if name == "rocket.jpg" else photo  # without the lit ground


def paint(photo: np.ndarray, hole: np.ndarray) -> np.ndarray:
    return np.where(hole[..., None], np.uint8(255), photo)


def arrange(grid: list[list[np.ndarray]], path: str) -> None:
    """Writes rows of images; each row has images of one height, each column of one width."""
    gap = (0, GAP), (0, GAP), (0, 0)
    padded = [[np.pad(image, gap, constant_values=255) for image in row] for row in grid]
    picture = np.concatenate([np.concatenate(row, axis=1) for row in padded])[:-GAP, :-GAP]
    PIL.Image.fromarray(picture).save(path, quality=88)


def draw_photographs() -> None:
    completer = Completer()
    columns = []
    for name, draw in (
        ("rocket.jpg", towers),
        ("astronaut.png", badge),
        ("coffee.png", lambda size: scratches(size, seed=3)),
        ("chelsea.png", lambda size: scratches(size, seed=5)),
    ):
        photo = load(name)
        hole = draw(photo.shape[:2])
        size = round(photo.shape[1] * HEIGHT / photo.shape[0]), HEIGHT
        pair = [paint(photo, hole), completer(photo, hole)]
        columns.append([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in pair])
    arrange([list(row) for row in zip(*columns, strict=True)], "docs/completed.jpg")


def draw_methods() -> None:
    """Columns: the hole, then each method."""
    completers = [Completer(method=method) for method in METHODS]
    grid = []
    for name, draw, top, left in (  # photographs that the network was not trained on
        ("astronaut.png", lambda size: scratches(size, seed=11), 20, 220),
        ("astronaut.png", badge, 270, 50),
        ("coins.png", lambda size: scratches(size, seed=5), 20, 60),
    ):
        photo = load(name)
        hole = draw(photo.shape[:2])
        images = [paint(photo, hole), *(completer(photo, hole) for completer in completers)]
        grid.append([image[top : top + 240, left : left + 240] for image in images])
    arrange(grid, "docs/methods.jpg")


if __name__ == "__main__":
    draw_photographs()
    draw_methods()
