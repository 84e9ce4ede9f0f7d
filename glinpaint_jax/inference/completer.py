"""Fills the holes of photographs of any size, exactly and in bounded memory."""

import contextlib
import copy
import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, overload

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from jax import Array
from jaxtyping import Float

from glinpaint_jax.data.images import MAX_PIXELS
from glinpaint_jax.downloads import BUNDLED_FOLDER
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.blend import KINDS, blend
from glinpaint_jax.inference.boxes import group_holes, grow
from glinpaint_jax.inference.methods import CLASSICAL, METHODS
from glinpaint_jax.inference.patches import ATTEMPTS, Check, fill_with_patches
from glinpaint_jax.inference.photos import Hole, Image, PhotoInput, read_pair
from glinpaint_jax.inference.regions import cut, plan_regions
from glinpaint_jax.inference.scale import enlarge, hole_sizes, large_holes, shrink, trained_size
from glinpaint_jax.inference.smooth import fill_dots, smooth_fill_photo
from glinpaint_jax.models.generator import RECEPTIVE_RADIUS, STRIDE, Generator
from glinpaint_jax.models.inputs import bbox_mask, fill_hole, to_pixel_range, to_unit_range
from glinpaint_jax.models.networks import Variables, Weights, make_networks, predict
from glinpaint_jax.weights import load_weights

MIN_TILE = 16
# Fast marching (Telea 2004) and fluid dynamics (Bertalmio 2001), looking at RADIUS pixels.
OPENCV, RADIUS = {"telea": cv2.INPAINT_TELEA, "navier-stokes": cv2.INPAINT_NS}, 3
MUCH_LARGER = 2  # times the largest hole of the training: filled at a quarter of the size or less
CELL = 4 * STRIDE  # pixels: how finely distances between holes are measured
MaskInput = PhotoInput | np.ndarray | Array | None
load_bundled = functools.cache(lambda: load_weights(BUNDLED_FOLDER))  # several methods need it


class Completer:
    """Fills holes with a trained generator or by `method`, one of METHODS; without both, by "auto".

    A generator computes only crops around the holes: at most `tile` x `tile` pixels of hole plus
    the receptive radius. At scale 1, the result equals one pass over the whole image. A smaller
    tile needs less memory.

    `attempt` asks methods "auto" and "patches" for another result: 1 to 3 copy other patches, 4 is
    the network's.

    `blend` hides remaining seams: one of blend.KINDS, or "auto": the paper's telea-poisson; none
    for methods and for generators that correct a smooth fill, which leave no seam.

    `scale` is the size at which a generator fills holes: "auto" shrinks the surroundings of holes
    larger than those of the training until they fit; 1 never does; 0.5 halves everything.

    Files of more than `max_megapixels` are rejected.
    """

    _check: Check = bool  # does nothing

    def __init__(
        self,
        weights: Weights | None = None,
        tile: int = 512,
        blend: str = "auto",
        scale: int | float | str = "auto",
        method: str | None = None,
        attempt: int = 0,
        max_megapixels: int | float = MAX_PIXELS // 10**6,
    ):
        check_process()
        if not isinstance(tile, int) or tile < MIN_TILE:
            raise UserError(f"tile={tile!r} must be a whole number of at least {MIN_TILE} pixels")
        if not isinstance(max_megapixels, int | float) or not max_megapixels > 0:
            raise UserError(f"max_megapixels={max_megapixels!r} must be a number above 0")
        if weights is not None and method is not None:
            raise UserError(f"pass either weights or method={method!r}")
        if weights is None:
            method = method or "auto"
            if method not in METHODS:
                raise UserError(f"method={method!r} must be one of {', '.join(METHODS)}")
            if method not in CLASSICAL:
                weights = load_bundled()
        self._tile, self._method, self._max_pixels = tile, method, max_megapixels * 10**6
        self._set_options(blend, scale, attempt)
        self._generator = None
        if weights is not None:
            # As exports do, whatever the precision of the training.
            self._config = dataclasses.replace(weights.config, precision="float32")
            self._generator, _ = make_networks(self._config)
            self._variables = jax.device_put(weights.generator)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> "Completer":
        """Loads the weights that `path` stands for: anything that --checkpoint takes.

        `options` are those of `Completer`. Raises UserError if there are no weights.
        """
        return cls(load_weights(path), **options)

    def with_options(
        self, blend: str, scale: int | float | str, attempt: int = 0, check: Check = bool
    ) -> "Completer":
        """Returns a completer with other options that shares these weights."""
        other = copy.copy(self)
        other._set_options(blend, scale, attempt)
        other._check = check
        return other

    def _set_options(self, blend: str, scale: int | float | str, attempt: int) -> None:
        if blend not in ("auto", *KINDS):
            raise UserError(f"blend={blend!r} must be one of auto, {', '.join(KINDS)}")
        if attempt not in range(len(ATTEMPTS) + 1):
            raise UserError(f"attempt={attempt!r} must be in 0..{len(ATTEMPTS)}")
        if attempt and self._method not in ("auto", "patches"):
            raise UserError(f"attempt={attempt} needs method auto or patches")
        self._blend, self._scale, self._attempt = blend, parse_scale(scale), attempt

    @overload
    def __call__(self, image: PhotoInput, mask: MaskInput) -> PIL.Image.Image: ...

    @overload
    def __call__(self, image: np.ndarray | Array, mask: MaskInput) -> np.ndarray: ...

    def __call__(self, image: Any, mask: Any) -> Any:
        """Returns `image` with its hole filled; all other pixels are unchanged.

        For a uint8 array [h, w, 3], of numpy or jax, returns a numpy array; for a PIL image or a
        path, a PIL image (8-bit gray or RGB, with or without alpha). `mask` has the same size: a
        bool array [h, w], True = hole, or an image, path or uint8 array, white = hole; or None: the
        hole is what is transparent. Raises UserError for unsupported images or masks; warns of
        holes that are empty or cover most of the image.
        """
        photo, hole, doubt = read_pair(image, mask, max_pixels=self._max_pixels)
        if doubt:
            warnings.warn(doubt, stacklevel=2)
        result = photo.with_hole_filled(self.fill(photo.rgb, hole), hole).image
        return result if isinstance(image, PhotoInput) else np.array(result)

    @property
    def _uses_patches(self) -> bool:
        return self._method in ("auto", "patches") and self._attempt < len(ATTEMPTS)

    def advice(self, hole: Hole) -> str | None:
        """Returns one line if a network fills much larger holes than in training, or None."""
        if self._generator is None or self._uses_patches:
            return None
        size, largest = hole_sizes(hole)[1].max(initial=0), trained_size(self._config)
        if size <= MUCH_LARGER * largest:
            return None
        return (
            f"a hole is about {size} pixels wide, the network learned to fill up to {largest}: "
            "expect a soft smudge; smaller holes help, and the method auto keeps texture"
        )

    def fill(self, image: Image, hole: Hole) -> Image:
        """Returns a copy of `image` with its hole (True) filled and blended."""
        check_process()
        base = self._generator and self._generator.base
        if base == "smooth" and self._method != "patches":
            completed, left = fill_dots(image, hole)
        else:
            completed, left = image.copy(), hole
        if self._uses_patches:
            plain = self._method == "auto"
            completed, left = fill_with_patches(completed, left, self._attempt, plain, self._check)
        for crop in self._independent_crops(left):
            self._check()
            filled = self._fill_at_scale(completed[crop], left[crop])
            np.copyto(completed[crop], filled, where=left[crop][..., None])
        kind = self._blend
        if kind == "auto":
            kind = "telea-poisson" if base == "none" else "none"
        return blend(completed, hole, kind)

    def _independent_crops(self, hole: Hole) -> list[tuple[slice, slice]]:
        """Crops that hold all holes, and for each what its fill depends on: its surroundings."""
        if not hole.any():
            return []
        scales = [scale for scale, _ in self._groups_to_shrink(hole)]
        reach = math.ceil((RECEPTIVE_RADIUS + STRIDE) / min(scales, default=1))
        reach += -reach % STRIDE  # so that crops start at multiples of it
        return [grow(box, reach, hole.shape).slices for box in group_holes(hole, reach, CELL)]

    def _groups_to_shrink(self, hole: Hole) -> list[tuple[float, Hole]]:
        """The holes that are filled at a smaller scale, the smallest scale first."""
        if self._scale != "auto":
            return [(self._scale, hole)] if self._scale < 1 else []
        return large_holes(hole, trained_size(self._config)) if self._generator else []

    def _fill_at_scale(self, image: Image, hole: Hole) -> Image:
        """Fills the largest holes first, so that the others are filled with these completed."""
        for scale, group in self._groups_to_shrink(hole):
            small = self.fill_unscaled(*shrink(image, hole, scale))
            image, hole = enlarge(small, image, group), hole & ~group
        return self.fill_unscaled(image, hole)

    def fill_unscaled(self, image: Image, hole: Hole) -> Image:
        """Returns a copy of `image` with its hole filled at scale 1, without blending."""
        if self._method == "smooth":
            return np.rint(smooth_fill_photo(image, hole)).clip(0, 255).astype(np.uint8)
        if self._method in OPENCV:
            return cv2.inpaint(image, hole.astype(np.uint8), RADIUS, OPENCV[self._method])
        completed = image.copy()
        for kept, prediction in self.predictions(image, hole):
            here = hole[kept]
            completed[kept][here] = np.rint(prediction[here])
        valid = image[~hole]
        is_gray = len(valid) > 0 and (valid == valid[:, :1]).all()
        if hole.any() and is_gray:  # networks know only colors
            completed[hole] = cv2.cvtColor(completed[hole][None], cv2.COLOR_RGB2GRAY)[0, :, None]
        return completed

    def predictions(
        self, image: Image, hole: Hole
    ) -> Iterator[tuple[tuple[slice, slice], Float[np.ndarray, "kept_h kept_w 3"]]]:
        """Yields the parts of the image with holes, and the generator's output there in 0..255."""
        generator, fill = self._generator, self._config.mask.fill
        if generator.base == "smooth":
            image = smooth_fill_photo(image, hole)
        for crop, kept in plan_regions(hole, self._tile):
            self._check()
            (pixels, size), (mask, _) = cut(image, crop), cut(hole, crop)
            batch = pixels[None], mask[None], np.array([size])
            prediction = predict_pixels(generator, fill, self._variables, *batch)
            yield kept.slices, np.asarray(prediction)[0][kept.moved(-crop.top, -crop.left).slices]


@functools.cache
def first_process() -> int:
    """The process that called this first: a forked one inherits the answer."""
    return os.getpid()


def check_process() -> None:
    """Raises UserError in a process forked from one with a Completer: jax would hang."""
    if first_process() != os.getpid():
        raise UserError(
            "this process was forked from one that had made a Completer, and would hang; start it "
            "with multiprocessing.get_context('spawn')"
        )


@functools.partial(jax.jit, static_argnames=("generator", "fill"))
def predict_pixels(
    generator: Generator,
    fill: tuple[float, float, float],
    variables: Variables,
    pixels: Array,
    hole: Array,
    size: Array,
) -> Array:
    """Returns the generator's output, 0..255, for uint8 or float pixels.

    `size` [b, 2] is the height and width of the upper left part of each that is image.
    """
    image = to_unit_range(pixels.astype(jnp.float32))
    inside = bbox_mask(jnp.pad(size, ((0, 0), (2, 0))), *hole.shape[1:])
    mask = hole.astype(jnp.float32)[..., None]
    if generator.base != "smooth":  # else filled before, since a region may cut the hole
        image = fill_hole(image, mask, fill)
    return to_pixel_range(predict(generator, variables, image, mask, inside))


def parse_scale(scale: int | float | str) -> float | str:
    """Returns "auto" or a number above 0 and up to 1, also from text."""
    if scale == "auto":
        return scale
    with contextlib.suppress(TypeError, ValueError):
        if 0 < float(scale) <= 1:
            return float(scale)
    raise UserError(f"scale={scale!r} must be auto or a number above 0 and up to 1")
