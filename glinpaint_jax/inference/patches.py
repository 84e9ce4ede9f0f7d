"""Fills holes with patches of the photograph itself: PatchMatch (Barnes et al., SIGGRAPH 2009).

It continues texture, which a small network blurs, but knows no objects: it may copy an eye or a
logo. On plain surroundings, such as a sky, it leaves a spot of another color. There, a smooth fill
with the photograph's own grain is better.
"""

import functools
import threading
import warnings
from collections.abc import Callable
from types import ModuleType

import cv2
import numpy as np
from jaxtyping import UInt8

from glinpaint_jax.inference.boxes import grow, label_holes, split_box
from glinpaint_jax.inference.photos import Hole, Image
from glinpaint_jax.inference.scale import enlarge, hole_sizes, large_holes, shrink
from glinpaint_jax.inference.smooth import smooth_fill_photo

RADIUS = 3  # of the compared patches
# Patches come from this far around a hole, in sides of the hole, but at least so many pixels: from
# afar come the windows of a facade, but also a face. Small holes need no more than MANY sides.
FAR, NEAR, MANY = (2.0, 256), (0.5, 48), 16
ATTEMPTS = ((0, FAR), (0, NEAR), (1, FAR), (1, NEAR))  # with the seed of the search
MIN_PATCHES = 1000  # without any hole, in the context
GAP = 32  # holes at most this many pixels apart are filled together
TILE = 512  # side of the largest part of a hole that is filled at once
MAX_SIZE = 600  # side of the largest hole that is filled at full size
RING = 12  # pixels around a hole that tell whether its surroundings are plain
PLAIN = 5  # gray levels by which they may differ from a quadratic gradient
GRAIN_SIGMA = 2.0  # what a blur of this many pixels removes is grain
SEEDING = threading.Lock()  # PatchMatch has one seed for all threads
Check = Callable[[], object]  # what it raises ends the fill


def fill_with_patches(
    image: Image, hole: Hole, attempt: int = 0, plain: bool = True, check: Check = bool
) -> tuple[Image, Hole]:
    """Returns the image with its holes filled, and the holes with too few patches around them.

    `attempt` is the number of one of ATTEMPTS. With `plain`, holes in plain surroundings are filled
    smoothly, with grain. Equal inputs give equal results. `check` is called before each tile.
    """
    if load_patchmatch() is None:
        return image, hole
    for scale, group in large_holes(hole, MAX_SIZE):
        small, left = _fill_tiles(*shrink(image, hole, scale), attempt, plain, check)
        if not left.any():
            image, hole = enlarge(small, image, group), hole & ~group
    return _fill_tiles(image, hole, attempt, plain, check)


@functools.cache
def load_patchmatch() -> ModuleType | None:
    """Returns PyPatchMatch; warns once and returns None where it has no library."""
    import patchmatch

    if patchmatch.patchmatch_available:
        return patchmatch
    warnings.warn("PyPatchMatch does not work here; the small network fills holes", stacklevel=4)
    return None


def _fill_tiles(
    image: Image, hole: Hole, attempt: int, plain: bool, check: Check
) -> tuple[Image, Hole]:
    seed, (sides, pixels) = ATTEMPTS[attempt]
    image, left = image.copy(), hole.copy()
    for tile in [tile for box in label_holes(hole, GAP)[1] for tile in split_box(box, TILE, hole)]:
        check()
        size = int(hole_sizes(np.pad(hole[tile.slices], 1))[1].max())  # a long scratch is thin
        reach = max(min(pixels, MANY * size), NEAR[1], round(sides * size))
        context = grow(tile, reach, hole.shape)
        crop = context.slices
        known, here = ~left[crop], np.zeros(context.size, bool)
        here[tile.moved(-context.top, -context.left).slices] = hole[tile.slices]
        if cv2.countNonZero(_erode(known, RADIUS)) < MIN_PATCHES:
            continue
        if plain and is_plain(image[crop], known, here):
            filled = fill_plain(image[crop], known, here)
        else:
            others = ~known & ~here  # neither filled nor copied
            with SEEDING:
                load_patchmatch().set_random_seed(seed)
                filled = load_patchmatch().inpaint(
                    image[crop], here, global_mask=others, patch_size=RADIUS
                )
        image[crop][here] = filled[here]
        left[crop][here] = False
    return image, left


def is_plain(image: Image, known: Hole, hole: Hole) -> bool:
    """Whether the known colors around the hole are a quadratic gradient, apart from grain."""
    near = cv2.dilate(hole.view(np.uint8), np.ones((2 * RING + 1,) * 2, np.uint8)) > 0
    y, x = np.nonzero(near & known)
    colors = image[y, x].astype(np.float32)
    y, x = y / hole.shape[0], x / hole.shape[1]
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1).astype(np.float32)
    gradient = terms @ np.linalg.lstsq(terms, colors)[0]
    return len(colors) > 0 and float(np.percentile(abs(colors - gradient), 95)) <= PLAIN


def fill_plain(image: Image, known: Hole, hole: Hole) -> Image:
    """Fills the hole smoothly, and moves the grain beside it into it, where it is known.

    From the side where most is known or, of several, from the one with the least contrast: behind
    the plain surroundings of a hole there may be a horizon.
    """
    grain = image - cv2.GaussianBlur(image.astype(np.float32), (0, 0), GRAIN_SIGMA)
    reach = round(2 * GRAIN_SIGMA)
    usable = _erode(known, reach)  # where no hole was blurred in
    _, _, width, height = cv2.boundingRect(hole.view(np.uint8))
    down, right = height + 2 * reach + 1, width + 2 * reach + 1
    moves = [(down, 0), (-down, 0), (0, right), (0, -right)]

    def usable_share(move: tuple[int, int]) -> tuple[float, float]:
        contrast = float(abs(_move(grain, move)[hole]).mean())
        return round(float(_move(usable, move)[hole].mean()), 2), -contrast

    best = max(moves, key=usable_share)
    moved = _move(grain, best) * _move(usable, best)[..., None]
    return np.rint(smooth_fill_photo(image, ~known) + moved).clip(0, 255).astype(np.uint8)


def _erode(known: Hole, radius: int) -> UInt8[np.ndarray, "h w"]:
    """1 where all pixels in the square of that radius are known."""
    square = np.ones((2 * radius + 1,) * 2, np.uint8)
    return cv2.erode(known.view(np.uint8), square, borderValue=0)


def _move(array: np.ndarray, by: tuple[int, int]) -> np.ndarray:
    """Moves rows and columns; what would enter from the other side is 0."""
    transform = np.float32([[1, 0, by[1]], [0, 1, by[0]]])
    return cv2.warpAffine(array, transform, array.shape[1::-1], flags=cv2.INTER_NEAREST)
