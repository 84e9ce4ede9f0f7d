"""Random masks. Uses only numpy and OpenCV; all randomness comes from the generator passed in.

Boxes are (top, left, height, width) in int32; masks are uint8 [h, w, 1], 1 = hole.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from glinpaint_jax.config import IrregularConfig, MaskConfig
from glinpaint_jax.errors import UserError

BBox = Int32[np.ndarray, "4"]
Mask = UInt8[np.ndarray, "h w 1"]


class LamaMasks(NamedTuple):
    """Zigzag lines or, in 3 of 13 masks, boxes: their number, sides and distance to the border."""

    lines: IrregularConfig
    boxes: tuple[int, int] | None = None
    sides: tuple[int, int] = (0, 0)
    margin: int = 0


# LaMa's masks for scoring (its configs/data_gen/random_*_256.yaml), in pixels at 256x256.
LAMA_MASKS = {
    "thin": LamaMasks(IrregularConfig((4, 51), (10, 49), (5, 14))),
    "medium": LamaMasks(IrregularConfig((4, 6), (10, 109), (5, 54)), (1, 5), (10, 50)),
    "thick": LamaMasks(IrregularConfig((1, 6), (10, 209), (5, 104)), (1, 3), (30, 150), 10),
}
LAMA_BOX_SHARE, LAMA_MAX_AREA = 3 / 13, 0.5
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
    height, width = config.max_size - delta_top, config.max_size - delta_left
    return np.array([top + delta_top, left + delta_left, height, width], np.int32)


def draw_boxes(boxes: Int32[np.ndarray, "n 4"], height: int, width: int) -> Mask:
    """1 inside any of the boxes, 0 outside."""
    mask = np.zeros((height, width, 1), np.uint8)
    for top, left, box_height, box_width in boxes:
        mask[top : top + box_height, left : left + box_width] = 1
    return mask


def lama_mask(rng: np.random.Generator, height: int, width: int, config: MaskConfig) -> Mask:
    """One of LAMA_MASKS, scaled to the image; at most half of it."""
    kind, unit = LAMA_MASKS[config.kind], min(height, width) / 256
    config = dataclasses.replace(
        config, irregular=kind.lines, min_area=1 / (height * width), max_area=LAMA_MAX_AREA
    )
    if kind.boxes is None or rng.random() > LAMA_BOX_SHARE:
        return irregular_mask(rng, height, width, config, clip=True)
    margin = round(kind.margin * unit)

    def draw() -> np.ndarray:
        count = rng.integers(*kind.boxes, endpoint=True)
        low, high = (max(1, round(side * unit)) for side in kind.sides)
        sizes = rng.integers(low, high, (count, 2), endpoint=True)
        places = rng.integers(margin, np.array([height, width]) - margin - sizes + 1)
        return draw_boxes(np.hstack([places, sizes]).astype(np.int32), height, width)[..., 0]

    return _draw_within(draw, config)


def irregular_mask(
    rng: np.random.Generator, height: int, width: int, config: MaskConfig, clip: bool = False
) -> Mask:
    """A few zigzag lines of straight strokes (MMagic's 'irregular'), scaled to the image.

    With `clip`, they turn at the border (LaMa's).
    """
    unit = min(height, width) / 256
    strokes = config.irregular

    def draw() -> np.ndarray:
        mask = np.zeros((height, width), np.uint8)
        for line in range(rng.integers(*strokes.lines, endpoint=True)):
            point = np.array([rng.integers(width), rng.integers(height)], float)
            for _ in range(rng.integers(1, 6)):
                angle = (-1) ** line * (0.01 + rng.integers(4))
                length = rng.integers(*strokes.length, endpoint=True) * unit
                end = point + length * np.array([np.cos(angle), np.sin(angle)])
                end = np.clip(end, 0, [width, height]) if clip else end
                brush = rng.integers(*strokes.width, endpoint=True) * unit
                _stroke(mask, point, end, brush)
                point = end
        return mask

    return _draw_within(draw, config)


def free_form_mask(rng: np.random.Generator, height: int, width: int, config: MaskConfig) -> Mask:
    """Brush strokes that turn back and forth (DeepFill v2, algorithm 1; MMagic's 'ff')."""
    unit = min(height, width) / 256
    strokes = config.free_form
    shortest, longest = np.array(strokes.length) * np.hypot(height, width)

    def draw() -> np.ndarray:
        mask = np.zeros((height, width), np.uint8)
        for _ in range(rng.integers(*strokes.strokes, endpoint=True)):
            brush = rng.uniform(*strokes.width) * unit
            turn_range = rng.uniform(-1, 1, 2) * 2 * np.pi / 15 + 2 * np.pi / 5
            point = np.array([rng.uniform(0, width), rng.uniform(0, height)])
            for vertex in range(rng.integers(*strokes.vertices, endpoint=True)):
                angle = rng.uniform(min(turn_range), max(turn_range))
                angle = 2 * np.pi - angle if vertex % 2 else angle
                length = rng.normal((shortest + longest) / 2, (longest - shortest) / 4)
                length = np.clip(length, shortest, longest)
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
