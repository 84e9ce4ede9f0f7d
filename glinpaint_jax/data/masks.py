"""Random masks. Uses only numpy and OpenCV; all randomness comes from the generator passed in.

Boxes are (top, left, height, width) in int32; masks are uint8 [size, size, 1], 1 = hole.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from glinpaint_jax.config import FreeFormConfig, IrregularConfig, MaskConfig
from glinpaint_jax.errors import UserError

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


def random_bbox(rng: np.random.Generator, size: int, config: MaskConfig) -> Int32[np.ndarray, "4"]:
    """MMagic's random_bbox: places a box of `max_size` within `margin`, then shrinks it.

    The top left corner moves inward by 0 to max_delta // 2 pixels, drawn separately for rows and
    columns, or once for both if the kind is square.
    """
    top = rng.integers(config.margin, size - config.margin - config.max_size)
    left = rng.integers(config.margin, size - config.margin - config.max_size)
    delta_top = delta_left = rng.integers(0, config.max_delta // 2 + 1)
    if config.kind != "square":
        delta_left = rng.integers(0, config.max_delta // 2 + 1)
    height, width = config.max_size - delta_top, config.max_size - delta_left
    return np.array([top + delta_top, left + delta_left, height, width], np.int32)


def draw_boxes(boxes: Int32[np.ndarray, "n 4"], size: int) -> Mask:
    """1 inside any of the boxes, 0 outside."""
    mask = np.zeros((size, size, 1), np.uint8)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = 1
    return mask


def random_shape(rng: np.random.Generator, size: int, config: MaskConfig) -> Mask:
    """Strokes or one of LAMA_MASKS, drawn again until its area is allowed."""
    smallest, largest = config.min_area, config.max_area
    if config.kind == "irregular":
        draw = functools.partial(_zigzag_lines, config.irregular)
    elif config.kind == "free_form":
        draw = functools.partial(_brush_strokes, config.free_form)
    else:
        smallest, largest = 1 / size**2, LAMA_MAX_AREA
        kind = LAMA_MASKS[config.kind]
        if kind.boxes and rng.random() <= LAMA_BOX_SHARE:
            draw = functools.partial(_lama_boxes, kind)
        else:
            draw = functools.partial(_zigzag_lines, kind.lines, clip=True)
    for _ in range(MAX_DRAWS):
        mask = draw(rng, size)
        if smallest <= mask.mean() <= largest:
            return mask
    raise UserError(
        f"none of {MAX_DRAWS} {config.kind} masks covers between config.mask.min_area={smallest} "
        f"and config.mask.max_area={largest} of the image; widen them"
    )


def _lama_boxes(kind: LamaMasks, rng: np.random.Generator, size: int) -> Mask:
    unit = size / 256
    margin = round(kind.margin * unit)
    low, high = (max(1, round(side * unit)) for side in kind.sides)
    count = rng.integers(*kind.boxes, endpoint=True)
    sides = rng.integers(low, high, (count, 2), endpoint=True)
    corners = rng.integers(margin, size - margin - sides + 1)
    return draw_boxes(np.hstack([corners, sides]).astype(np.int32), size)


def _zigzag_lines(
    strokes: IrregularConfig, rng: np.random.Generator, size: int, clip: bool = False
) -> Mask:
    """A few zigzag lines of straight strokes (MMagic's 'irregular'), scaled to the image.

    With `clip`, they turn at the border (LaMa's).
    """
    mask, unit = np.zeros((size, size, 1), np.uint8), size / 256
    for line in range(rng.integers(*strokes.lines, endpoint=True)):
        point = rng.integers(size, size=2).astype(float)
        for _ in range(rng.integers(1, 6)):
            angle = (-1) ** line * (0.01 + rng.integers(4))
            length = rng.integers(*strokes.length, endpoint=True) * unit
            end = point + length * np.array([np.cos(angle), np.sin(angle)])
            end = np.clip(end, 0, size) if clip else end
            _stroke(mask, point, end, rng.integers(*strokes.width, endpoint=True) * unit)
            point = end
    return mask


def _brush_strokes(strokes: FreeFormConfig, rng: np.random.Generator, size: int) -> Mask:
    """Brush strokes that turn back and forth (DeepFill v2, algorithm 1; MMagic's 'ff')."""
    mask, unit = np.zeros((size, size, 1), np.uint8), size / 256
    shortest, longest = np.array(strokes.length) * np.hypot(size, size)
    for _ in range(rng.integers(*strokes.strokes, endpoint=True)):
        brush = rng.uniform(*strokes.width) * unit
        turn_range = rng.uniform(-1, 1, 2) * 2 * np.pi / 15 + 2 * np.pi / 5
        point = rng.uniform(0, size, 2)
        for vertex in range(rng.integers(*strokes.vertices, endpoint=True)):
            angle = rng.uniform(min(turn_range), max(turn_range))
            angle = 2 * np.pi - angle if vertex % 2 else angle
            length = rng.normal((shortest + longest) / 2, (longest - shortest) / 4)
            length = np.clip(length, shortest, longest)
            end = point + length * np.array([np.cos(angle), np.sin(angle)])
            end = np.clip(end, 0, size - 1)
            _stroke(mask, point, end, brush)
            point = end
    if rng.integers(2):
        mask = mask[::-1]
    if rng.integers(2):
        mask = mask[:, ::-1]
    return mask


def _stroke(mask: Mask, start: np.ndarray, end: np.ndarray, brush: float) -> None:
    thickness = max(1, round(brush))
    first, last = (tuple(int(v) for v in point) for point in (start, end))
    cv2.line(mask, first, last, 1, thickness)
    for point in (first, last):
        cv2.circle(mask, point, thickness // 2, 1, -1)
