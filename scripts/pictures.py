"""Draws docs/completed.jpg: four photographs that come with scikit-image, each with what should go
painted white, and completed below. Uses no checkpoint.

    python scripts/pictures.py
"""

from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import skimage.data

from glinpaint_jax import Completer

HEIGHT = 300  # pixels of a photograph in the picture
GAP = 6
PHOTOS = Path(skimage.data.__file__).parent


def polygons(size: tuple[int, int], *corners: list[tuple[int, int]]) -> np.ndarray:
    """A hole with these polygons, each a list of (x, y)."""
    hole = np.zeros(size, np.uint8)
    for polygon in corners:
        cv2.fillPoly(hole, [np.array(polygon, np.int32)], 1)
    return hole > 0


def towers(size: tuple[int, int]) -> np.ndarray:
    """The two lightning towers beside the rocket."""
    return polygons(
        size,
        [(194, 118), (208, 118), (209, 190), (211, 372), (164, 372), (184, 190)],
        [(440, 118), (454, 118), (461, 190), (481, 426), (444, 426), (438, 370), (436, 190)],
    )


def badge(size: tuple[int, int]) -> np.ndarray:
    """The round badge on the astronaut's suit."""
    hole = np.zeros(size, np.uint8)
    cv2.circle(hole, (171, 385), 45, 1, cv2.FILLED)
    return hole > 0


def scratches(size: tuple[int, int], seed: int) -> np.ndarray:
    rng, hole = np.random.default_rng(seed), np.zeros(size, np.uint8)
    for _ in range(14):
        angle, points = rng.uniform(0, np.pi), [rng.uniform(0, 1, 2) * size[::-1]]
        for _ in range(rng.integers(6, 14)):
            angle += rng.normal(0, 0.25)
            step = rng.uniform(15, 40) * np.array([np.cos(angle), np.sin(angle)])
            points.append(points[-1] + step)
        cv2.polylines(hole, [np.array(points, np.int32)], False, 1, int(rng.integers(2, 6)))
    return hole > 0


def main() -> None:
    completer = Completer()
    columns = []
    for name, draw in (
        ("rocket.jpg", towers),
        ("astronaut.png", badge),
        ("coffee.png", lambda size: scratches(size, seed=3)),
        ("chelsea.png", lambda size: scratches(size, seed=5)),
    ):
        photo = np.array(PIL.Image.open(PHOTOS / name).convert("RGB"))
        hole = draw(photo.shape[:2])
        painted = np.where(hole[..., None], np.uint8(255), photo)
        width = round(photo.shape[1] * HEIGHT / photo.shape[0])
        pair = [painted, completer(photo, hole)]
        small = [cv2.resize(image, (width, HEIGHT), interpolation=cv2.INTER_AREA) for image in pair]
        gap = np.full((GAP, width, 3), 255, np.uint8)
        columns.append(np.concatenate([small[0], gap, small[1]]))
    gap = np.full((2 * HEIGHT + GAP, GAP, 3), 255, np.uint8)
    spaced = [part for column in columns for part in (column, gap)][:-1]
    PIL.Image.fromarray(np.concatenate(spaced, axis=1)).save("docs/completed.jpg", quality=88)


if __name__ == "__main__":
    main()
