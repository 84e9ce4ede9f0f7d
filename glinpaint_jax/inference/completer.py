"""Fills the holes of photographs of any size, exactly and in bounded memory."""

import contextlib
import copy
import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, overload

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from jax import Array
from jaxtyping import Bool, Float

from glinpaint_jax.data.images import MAX_PIXELS
from glinpaint_jax.downloads import BUNDLED_FOLDER
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.blend import KINDS, blend
from glinpaint_jax.inference.boxes import group_holes, grow
from glinpaint_jax.inference.methods import CLASSICAL, METHODS, fill_without_weights
from glinpaint_jax.inference.patches import ATTEMPTS, Check, fill_with_patches
from glinpaint_jax.inference.photos import Hole, Image, PhotoInput, read_pair
from glinpaint_jax.inference.regions import cut, plan_regions
from glinpaint_jax.inference.scale import describe_size, enlarge, large_holes, shrink, trained_size
from glinpaint_jax.inference.smooth import fill_dots, smooth_fill_photo
from glinpaint_jax.models.generator import RECEPTIVE_RADIUS, STRIDE, Generator
from glinpaint_jax.models.inputs import bbox_mask, fill_hole, to_pixel_range, to_unit_range
from glinpaint_jax.models.networks import Variables, Weights, make_networks, predict
from glinpaint_jax.weights import load_weights

MIN_TILE = 16
CELL = 4 * STRIDE  # pixels: how finely distances between holes are measured
MaskInput = PhotoInput | np.ndarray | Array | None


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
        max_megapixels: int = MAX_PIXELS // 10**6,
    ):
        check_process()
        if not isinstance(tile, int) or tile < MIN_TILE:
            raise UserError(f"tile={tile!r} must be a whole number of at least {MIN_TILE} pixels")
        if weights is not None and method is not None:
            raise UserError(f"pass either weights or method={method!r}")
        if weights is None:
            method = method or "auto"
            if method not in METHODS:
                raise UserError(f"method={method!r} must be one of {', '.join(METHODS)}")
            if method not in CLASSICAL:
                weights = bundled_weights()
        self._tile, self._method = tile, method
        self._trained_size, self._is_smooth = None, False
        self._attempt, self._max_pixels = self._check_attempt(attempt), max_megapixels * 10**6
        has_seam = weights is not None and weights.config.model.base == "none"
        self.default_blend = "telea-poisson" if has_seam else "none"
        self._blend, self._scale = check_blend(blend), check_scale(scale)
        if weights is not None:
            self._prepare_generator(weights)
            self._trained_size = trained_size(weights.config)

    def _prepare_generator(self, weights: Weights) -> None:
        # As exports do, whatever the precision of the training.
        generator, _ = make_networks(dataclasses.replace(weights.config, precision="float32"))
        self._is_smooth = generator.base == "smooth"
        self._variables = jax.device_put(weights.generator)
        self._generator, self._fill_color = generator, weights.config.mask.fill

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> "Completer":
        """Loads the weights that `path` stands for: anything that --checkpoint takes.

        `options` are those of `Completer`. Raises UserError if there are no weights.
        """
        return cls(load_weights(path), **options)

    def _check_attempt(self, attempt: int) -> int:
        if attempt not in range(len(ATTEMPTS) + 1):
            raise UserError(f"attempt={attempt!r} must be in 0..{len(ATTEMPTS)}")
        if attempt and self._method not in ("auto", "patches"):
            raise UserError(f"attempt={attempt} needs method auto or patches")
        return attempt

    def with_options(
        self,
        blend: str,
        scale: int | float | str,
        attempt: int = 0,
        check: Check = bool,
    ) -> "Completer":
        """Returns a completer with other options that shares these weights."""
        other = copy.copy(self)
        other._blend, other._scale = check_blend(blend), check_scale(scale)
        other._attempt, other._check = self._check_attempt(attempt), check
        return other

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
        if self._trained_size is None or self._uses_patches:
            return None
        return describe_size(hole, self._trained_size)

    def fill(self, image: Image, hole: Hole) -> Image:
        """Returns a copy of `image` with its hole (True) filled and blended."""
        check_process()
        completed, left = self._fill_with_patches(*self._fill_dots(image, hole))
        for crop in self._independent_crops(left):
            self._check()
            filled = self.fill_unscaled(*self._fill_large(completed[crop], left[crop]))
            np.copyto(completed[crop], filled, where=left[crop][..., None])
        return blend(completed, hole, self.default_blend if self._blend == "auto" else self._blend)

    def _fill_dots(self, image: Image, hole: Hole) -> tuple[Image, Hole]:
        """Fills dots, if the generator corrects a smooth fill; returns the holes that are left."""
        if self._is_smooth and self._method != "patches":
            return fill_dots(image, hole)
        return image.copy(), hole

    def _fill_with_patches(self, image: Image, hole: Hole) -> tuple[Image, Hole]:
        """Fills what patches can, if the method uses them; returns the holes that are left."""
        if not self._uses_patches:
            return image, hole
        plain = self._method == "auto"
        return fill_with_patches(image, hole, self._attempt, plain, self._check)

    def _independent_crops(self, hole: Hole) -> list[tuple[slice, slice]]:
        """Crops that hold all holes, and for each what its fill depends on: its surroundings."""
        if not hole.any():
            return []
        scales = [scale for scale, _ in self._large(hole)]
        reach = math.ceil((RECEPTIVE_RADIUS + STRIDE) / min(scales, default=1))
        reach += -reach % STRIDE  # so that crops start at multiples of it
        return [grow(box, reach, hole.shape).slices for box in group_holes(hole, reach, CELL)]

    def _large(self, hole: Hole) -> list[tuple[float, Hole]]:
        """The holes that are filled at a smaller scale, the smallest first."""
        if self._scale != "auto":
            return [(self._scale, hole)] if self._scale < 1 else []
        return large_holes(hole, self._trained_size) if self._trained_size else []

    def _fill_large(self, image: Image, hole: Hole) -> tuple[Image, Hole]:
        """Fills holes that are too large at their working scale; returns the holes that are left.

        The largest come first, so that the others are filled with these completed.
        """
        for scale, group in self._large(hole):
            small_image, small_hole = shrink(image, hole, scale)
            small = self.fill_unscaled(small_image, small_hole)
            image = enlarge(small, image, group)
            hole = hole & ~group
        return image, hole

    def fill_unscaled(self, image: Image, hole: Hole) -> Image:
        """Returns a copy of `image` with its hole filled at scale 1, without blending."""
        if self._method in CLASSICAL:
            return fill_without_weights(image, hole, self._method)
        completed = image.copy()
        for kept, prediction in self.predictions(image, hole):
            np.copyto(
                completed[kept], np.rint(prediction), where=hole[kept][..., None], casting="unsafe"
            )
        if hole.any() and is_gray(image, ~hole):
            completed[hole] = cv2.cvtColor(completed[hole][None], cv2.COLOR_RGB2GRAY)[0, :, None]
        return completed

    def predictions(
        self, image: Image, hole: Hole
    ) -> Iterator[tuple[tuple[slice, slice], Float[np.ndarray, "kept_h kept_w 3"]]]:
        """Yields the parts of the image with holes, and the generator's output there in 0..255."""
        if self._is_smooth:
            image = smooth_fill_photo(image, hole)
        predict_pixels = make_predict(self._generator, self._fill_color)
        for region in plan_regions(hole, self._tile):
            self._check()
            (pixels, size), (mask, _) = cut(image, region.crop), cut(hole, region.crop)
            batch = pixels[None], mask[None], np.array([size])
            prediction = np.asarray(predict_pixels(self._variables, *batch))[0]
            yield region.kept.slices, prediction[region.kept_in_crop]


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


@functools.cache
def bundled_weights() -> Weights:
    """The small network; cached, since several methods need it."""
    return load_weights(BUNDLED_FOLDER)


@functools.lru_cache
def make_predict(
    generator: Generator, fill: tuple[float, float, float]
) -> Callable[[Variables, Array, Array, Array], Array]:
    """Makes a jitted function: variables, uint8 or float pixels, hole, size -> output in 0..255.

    `size` [b, 2] is the height and width of the upper left part of each that is image.

    Cached, so that completers with the same architecture share their compiled programs.
    """

    def predict_pixels(variables: Variables, pixels: Array, hole: Array, size: Array) -> Array:
        image = to_unit_range(pixels.astype(jnp.float32))
        inside = bbox_mask(jnp.pad(size, ((0, 0), (2, 0))), *hole.shape[1:])
        mask = hole.astype(jnp.float32)[..., None]
        if generator.base != "smooth":  # else filled before, since a region may cut the hole
            image = fill_hole(image, mask, fill)
        return to_pixel_range(predict(generator, variables, image, mask, inside))

    return jax.jit(predict_pixels)


def check_blend(kind: str) -> str:
    if kind not in ("auto", *KINDS):
        raise UserError(f"blend={kind!r} must be one of auto, {', '.join(KINDS)}")
    return kind


def check_scale(scale: int | float | str) -> int | float | str:
    """Returns "auto" or a number, also from text; raises UserError unless above 0 and up to 1."""
    with contextlib.suppress(TypeError, ValueError):
        number = scale if scale == "auto" else float(scale)
        if number == "auto" or 0 < number <= 1:
            return number
    raise UserError(f"scale={scale!r} must be auto or a number above 0 and up to 1")


def is_gray(image: Image, where: Bool[np.ndarray, "h w"]) -> bool:
    """Whether some pixels are there, and all of them are gray: networks know only colors."""
    red, green, blue = cv2.split(image)
    colored = (red != green) | (green != blue)
    return bool(where.any() and not (colored & where).any())
