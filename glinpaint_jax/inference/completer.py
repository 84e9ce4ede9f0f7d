"""Filling the holes of photographs: exact, of any size, in bounded memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, UInt8

from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.photos import read_mask, read_photo
from glinpaint_jax.inference.regions import Region, plan_regions
from glinpaint_jax.models.generator import STRIDE
from glinpaint_jax.models.masking import fill_hole, to_pixel_range, to_unit_range
from glinpaint_jax.models.networks import Variables, Weights, make_networks
from glinpaint_jax.weights import load_weights

Image = UInt8[np.ndarray, "h w 3"]
Hole = Bool[np.ndarray, "h w"]


class Completer:
    """Fills holes with a trained generator.

    Only the holes' neighbourhoods are computed, in crops of at most `tile` pixels of hole and the
    receptive radius around; the result is that of the whole image in one pass. A smaller tile needs
    less memory and more time.
    """

    def __init__(self, weights: Weights, tile: int = 512):
        generator, _ = make_networks(weights.config)
        fill = weights.config.mask.fill

        def predict(variables: Variables, pixels: Array, hole: Array) -> Array:
            image = to_unit_range(pixels.astype(jnp.float32))[None]
            mask = hole.astype(jnp.float32)[None, ..., None]
            masked_image = fill_hole(image, mask, fill)
            return to_pixel_range(generator.apply(variables, masked_image, mask, train=False))[0]

        self._tile = tile
        self._variables = jax.device_put(weights.generator)
        self._predict = jax.jit(predict)

    @classmethod
    def load(cls, path: str | Path, tile: int = 512) -> "Completer":
        """From a workdir, a step directory, or a weight file of MMagic's.

        Raises UserError where there are no weights.
        """
        return cls(load_weights(Path(path)), tile)

    def __call__(self, image: Any, mask: Any) -> Any:
        """`image` with the hole that `mask` shows filled; all other pixels are as they were.

        A uint8 array [h, w, 3] gives an array, a PIL image or a path gives a PIL image (8-bit grey,
        RGB, with or without alpha). The mask is a bool array [h, w], True = fill, or an image or
        path of the same size, white = fill. Raises UserError for what cannot be filled.
        """
        hole = mask if isinstance(mask, np.ndarray) else read_mask(mask)
        photo = None if isinstance(image, np.ndarray) else read_photo(image)
        pixels = image if photo is None else photo.rgb
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise UserError(f"the image is {pixels.dtype} {pixels.shape}, must be uint8 [h, w, 3]")
        if hole.dtype != bool:
            raise UserError(f"the mask is {hole.dtype}, must be bool; pass mask > 127, for example")
        refuse_other_size(pixels.shape[:2], hole.shape)
        completed = self.fill(pixels, hole)
        return completed if photo is None else photo.with_hole_filled(completed, hole).image

    def fill(self, image: Image, hole: Hole) -> Image:
        """A copy of `image` whose pixels in the hole (True) are filled."""
        completed = image.copy()
        for region, prediction in self.predictions(image, hole):
            part = region.kept.slices
            inside = hole[part]
            # Beyond the image's border, where its sides are no multiples of the stride, is no hole.
            rounded = np.rint(prediction[: inside.shape[0], : inside.shape[1]]).astype(np.uint8)
            completed[part][inside] = rounded[inside]
        return completed

    def predictions(
        self, image: Image, hole: Hole
    ) -> Iterator[tuple[Region, Float[np.ndarray, "kept_h kept_w 3"]]]:
        """The generator's output, 0..255, for the `kept` part of each region."""
        image, hole = pad_to_stride(image), pad_to_stride(hole)
        for region in plan_regions(hole, self._tile):
            crop = region.crop.slices
            prediction = self._predict(self._variables, image[crop], hole[crop])
            top, left = region.kept.top - region.crop.top, region.kept.left - region.crop.left
            height = region.kept.bottom - region.kept.top
            width = region.kept.right - region.kept.left
            yield region, np.asarray(prediction)[top : top + height, left : left + width]


def refuse_other_size(image: tuple[int, int], mask: tuple[int, int]) -> None:
    """Raises UserError where the (height, width) of an image and its mask differ."""
    if image != mask:
        sizes = [f"{width}x{height}" for height, width in (image, mask)]
        raise UserError(f"the image is {sizes[0]}, its mask {sizes[1]}; make them the same size")


def pad_to_stride(array: np.ndarray) -> np.ndarray:
    """Rows and columns repeated at the lower and right end, up to multiples of STRIDE."""
    missing = [(0, -size % STRIDE) for size in array.shape[:2]]
    if not any(after for _, after in missing):
        return array
    return np.pad(array, missing + [(0, 0)] * (array.ndim - 2), mode="edge")
