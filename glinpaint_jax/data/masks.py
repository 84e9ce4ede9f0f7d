"""Random holes. Uses only numpy and OpenCV; all randomness comes from the generator passed in.

Boxes are (top, left, height, width) in int32; masks are uint8 [h, w, 1], 1 = hole.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from glinpaint_jax.config import MaskConfig
from glinpaint_jax.errors import UserError

BBox = Int32[np.ndarray, "4"]
Mask = UInt8[np.ndarray, "h w 1"]

MAX_DRAWS = 1000  # attempts at a random shape before its area limits are reported as impossible


def random_bbox(
    rng: np.random.Generator, height: int, width: int, config: MaskConfig, *, square: bool
) -> BBox:
    """MMagic's random_bbox: places a box of `max_size` within `margin`, then shrinks it.

    The top left corner moves inward by 0 to max_delta // 2 pixels, drawn separately for rows and
    columns, or once for both with `square`.
    """
    top = rng.integers(config.margin, height - config.margin - config.max_size)
    left = rng.integers(config.margin, width - config.margin - config.max_size)
    delta_top = rng.integers(0, config.max_delta // 2 + 1)
    delta_left = delta_top if square else rng.integers(0, config.max_delta // 2 + 1)
    return np.array(
        [
            top + delta_top,
            left + delta_left,
            config.max_size - delta_top,
            config.max_size - delta_left,
        ],
        np.int32,
    )


def irregular_mask(rng: np.random.Generator, height: int, width: int, config: MaskConfig) -> Mask:
    """A few zigzag lines of straight strokes (MMagic's 'irregular'), scaled to the image."""
    unit = min(height, width) / 256

    def draw() -> np.ndarray:
        mask = np.zeros((height, width), np.uint8)
        for line in range(rng.integers(4, 9)):
            point = np.array([rng.integers(width), rng.integers(height)], float)
            for _ in range(rng.integers(1, 6)):
                angle = (-1) ** line * (0.01 + rng.integers(4))
                length = rng.integers(10, 100) * unit
                end = point + length * np.array([np.cos(angle), np.sin(angle)])
                _stroke(mask, point, end, rng.integers(10, 40) * unit)
                point = end
        return mask

    return _draw_within(draw, config)


def free_form_mask(rng: np.random.Generator, height: int, width: int, config: MaskConfig) -> Mask:
    """Brush strokes that turn back and forth (DeepFill v2, algorithm 1; MMagic's 'ff')."""
    diagonal = np.hypot(height, width)
    unit = min(height, width) / 256

    def draw() -> np.ndarray:
        mask = np.zeros((height, width), np.uint8)
        for _ in range(rng.integers(1, 5)):
            brush = rng.uniform(12, 40) * unit
            turn_range = rng.uniform(-1, 1, 2) * 2 * np.pi / 15 + 2 * np.pi / 5
            point = np.array([rng.uniform(0, width), rng.uniform(0, height)])
            for vertex in range(rng.integers(4, 13)):
                angle = rng.uniform(min(turn_range), max(turn_range))
                angle = 2 * np.pi - angle if vertex % 2 else angle
                length = np.clip(rng.normal(diagonal / 8, diagonal / 16), 0, diagonal / 4)
                end = point + length * np.array([np.cos(angle), np.sin(angle)])
                end = np.clip(end, 0, [width - 1, height - 1])
                _stroke(mask, point, end, brush)
                point = end
        if rng.integers(2):
            mask = mask[::-1]
        if rng.integers(2):
            mask = mask[:, ::-1]
        return mask

    return _draw_within(draw, config)


def file_mask(rng: np.random.Generator, height: int, width: int, files: list[Path]) -> Mask:
    """Reads a random mask file (> 127 = hole), resized without interpolation."""
    path = files[rng.integers(len(files))]
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise UserError(f"mask {path} cannot be decoded as an image; replace or remove it")
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST)
    mask = (pixels > 127).astype(np.uint8)[..., None]
    if not mask.any():
        raise UserError(
            f"mask {path} has no hole (no pixel above 127) at {height}x{width}; "
            "white marks the hole; replace or remove it"
        )
    return mask


def bounding_box(mask: Mask) -> BBox:
    """The smallest box around the hole."""
    rows = np.flatnonzero(mask.any(axis=(1, 2)))
    columns = np.flatnonzero(mask.any(axis=(0, 2)))
    return np.array(
        [rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1], np.int32
    )


def _stroke(mask: np.ndarray, start: np.ndarray, end: np.ndarray, brush: float) -> None:
    thickness = max(1, round(brush))
    first, last = (tuple(int(v) for v in point) for point in (start, end))
    cv2.line(mask, first, last, 1, thickness)
    for point in (first, last):
        cv2.circle(mask, point, thickness // 2, 1, -1)


def _draw_within(draw: Callable[[], np.ndarray], config: MaskConfig) -> Mask:
    for _ in range(MAX_DRAWS):
        mask = draw()
        if config.min_area <= mask.mean() <= config.max_area:
            return np.ascontiguousarray(mask)[..., None]
    raise UserError(
        f"none of {MAX_DRAWS} {config.kind} masks covers between config.mask.min_area="
        f"{config.min_area} and config.mask.max_area={config.max_area} of the image; widen them"
    )
