"""Turns a source into batches: crop, resize, draw a hole. Runs in worker processes: no jax.

Each training example depends only on the seed and its number in the stream, not on the number of
workers, processes or devices. To resume after n examples, start at number n.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cv2
import grain
import numpy as np
from jaxtyping import UInt8

from glinpaint_jax.config import Config, DataConfig
from glinpaint_jax.data import masks
from glinpaint_jax.data.holes import (
    find_paired_mask,
    hole_drawer,
    paired_mask_folder,
    with_bbox,
)
from glinpaint_jax.data.sources import Source, UndecodableImage
from glinpaint_jax.data.workers import read_ahead, start_worker
from glinpaint_jax.errors import UserError

Example = dict[str, np.ndarray]

EVAL_SEED = 2017
MAX_EXAMPLES = 2**48  # length of an "endless" stream
MIN_INDEX_SHUFFLE = 2**16  # for fewer, grain's index shuffle is slow: 5 ms per index for 7 records
MAX_CROPS = 1000  # random crops to try until one shows a part of a paired mask's hole
MAX_ATTEMPTS = 4  # records to try per example until one can be decoded
MAX_FAILED_SHARE = 0.01  # of all images, before the run stops
MIN_READ = 1000  # images read before a sample is judged
CERTAINTY = 5  # standard deviations by which a sample must exceed that share


def train_batches(
    source: Source, config: Config, *, start: int, local_batch_size: int, process: int, count: int
) -> grain.DatasetIterator:
    """Returns endless batches of this process's share of the stream, starting at example `start`.

    Each batch holds image uint8 [b, s, s, 3], bbox int32 [b, 4], mask uint8 [b, s, s, 1] unless
    each hole is a single box, and failed int32 [b, MAX_ATTEMPTS]: numbers of undecodable records,
    or -1.
    """
    dataset = (
        record_numbers(len(source), config.seed)
        .random_map(MakeExample(source, config))[start:]
        .batch(local_batch_size)[process::count]  # so a global batch has the stream's order
    )
    if config.data.num_workers == 0:
        return iter(dataset.to_iter_dataset(read_ahead()))
    # One thread per worker: the processes share the work.
    batches = dataset.to_iter_dataset(grain.ReadOptions(1, 1)).mp_prefetch(
        grain.MultiprocessingOptions(config.data.num_workers, per_worker_buffer_size=2),
        worker_init_fn=start_worker,
    )
    return iter(batches)


def record_numbers(length: int, seed: int) -> grain.MapDataset:
    """0 .. length - 1, epoch after epoch, each in a new order."""
    if length >= MIN_INDEX_SHUFFLE:
        # Needs no memory. Endless by a number: with repeat() grain's batch(1) overflows.
        epochs = MAX_EXAMPLES // length + 1
        return grain.MapDataset.range(length).seed(seed).shuffle().repeat(epochs)
    numbers = grain.MapDataset.range(MAX_EXAMPLES).seed(seed)
    return numbers.map(functools.partial(_shuffled, length, seed))


def _shuffled(length: int, seed: int, number: int) -> int:
    epoch, place = divmod(int(number), length)
    return int(_epoch_order(length, seed, epoch)[place])


@functools.lru_cache(maxsize=4)
def _epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(length)


def eval_batches(
    source: Source, config: Config, *, local_batch_size: int, process: int, count: int
) -> Iterator[Example]:
    """Yields this process's share of the evaluation set.

    An image's crop and hole depend only on its record number, so all runs are comparable.
    Every process yields the same number of full batches; `valid` float32 [b] is 0 for padding.
    `record` int32 [b] is the number in the source.
    """
    images = min(config.data.eval_images, len(source))
    positions = -(-images // (local_batch_size * count)) * local_batch_size * count
    make_example = MakeExample(source, config, augment=False)

    def example(position: int) -> Example:
        record = position % images * len(source) // images
        made = make_example.random_map(record, np.random.default_rng((EVAL_SEED, record)))
        return made | {"valid": np.float32(position < images), "record": np.int32(record)}

    dataset = grain.MapDataset.range(positions)[process::count].map(example)
    yield from dataset.batch(local_batch_size).to_iter_dataset(read_ahead())


class MakeExample(grain.transforms.RandomMap):
    """Record number -> example. A record that cannot be decoded is replaced by a random one."""

    def __init__(self, source: Source, config: Config, *, augment: bool = True):
        self._source = source
        self._size = config.image_size
        self._data = config.data
        self._flip = augment and config.data.horizontal_flip
        self._mask_folder = paired_mask_folder(source, config.mask)
        self._draw_hole = None if self._mask_folder else hole_drawer(config.mask, config.image_size)

    def random_map(self, element: int, rng: np.random.Generator) -> Example:
        image, index, failed = self._read(int(element), rng)
        if self._mask_folder:
            image, mask = self._crop_with_mask(image, index, rng)
        else:
            image, mask = crop_and_resize(image, self._size, self._data, rng), None
        if self._flip and rng.integers(2):
            image = np.ascontiguousarray(image[:, ::-1])
            mask = mask if mask is None else np.ascontiguousarray(mask[:, ::-1])
        hole = self._draw_hole(rng) if mask is None else with_bbox(mask)
        return {"image": image, "failed": failed} | hole

    def _crop_with_mask(
        self, image: np.ndarray, index: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Crops the image and its mask alike, so that a part of the hole is in the crop."""
        path = find_paired_mask(self._source, index, self._mask_folder)
        mask = masks.read_mask(path, *image.shape[:2])[..., 0]
        for _ in range(MAX_CROPS):
            crop = draw_crop(*image.shape[:2], self._size, self._data, rng)
            cropped = take_crop(mask, crop, self._size, cv2.INTER_NEAREST)
            if cropped.any():
                return take_crop(image, crop, self._size), cropped[..., None]
        raise UserError(
            f"none of {MAX_CROPS} random crops shows the hole of mask {path}; enlarge the hole, or "
            "raise --config.data.crop_size"
        )

    def _read(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, int, np.ndarray]:
        """Returns an image, its number in the source and those of undecodable records."""
        failed = np.full(MAX_ATTEMPTS, -1, np.int32)
        for attempt in range(MAX_ATTEMPTS):
            try:
                return self._source[index], index, failed
            except UndecodableImage as error:
                failed[attempt], last = index, error
                others = max(len(self._source) - 1, 1)
                index = (index + 1 + int(rng.integers(others))) % len(self._source)
        raise UserError(f"{MAX_ATTEMPTS} images in a row cannot be decoded, the last: {last}")


def crop_and_resize(
    image: UInt8[np.ndarray, "h w 3"], size: int, config: DataConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """Takes a random crop as MMagic or the paper does; see `draw_crop`."""
    return take_crop(image, draw_crop(*image.shape[:2], size, config, rng), size)


class Crop(NamedTuple):
    """A rectangle of an image that was resized to `resized` (height, width)."""

    resized: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


def draw_crop(
    height: int, width: int, size: int, config: DataConfig, rng: np.random.Generator
) -> Crop:
    """Draws a crop of an image of this height and width.

    crop_then_resize: min(crop_size, side) of each side, at random, resized to `size` (an image
    smaller than the crop loses its aspect, as in MMagic). resize_then_crop: the short side
    resized to a random length in [size, crop_size], then a random crop.
    """
    if config.crop == "resize_then_crop":
        scale = rng.integers(size, config.crop_size + 1) / min(height, width)
        height, width = max(size, round(height * scale)), max(size, round(width * scale))
    crop = size if config.crop == "resize_then_crop" else config.crop_size
    crop_height, crop_width = min(crop, height), min(crop, width)
    top = rng.integers(height - crop_height + 1)
    left = rng.integers(width - crop_width + 1)
    return Crop((height, width), top, left, crop_height, crop_width)


def take_crop(
    image: UInt8[np.ndarray, "h w *c"], crop: Crop, size: int, interpolation: int = cv2.INTER_LINEAR
) -> UInt8[np.ndarray, "size size *c"]:
    """Cuts the crop out of an image and resizes it to `size`."""
    if image.shape[:2] != crop.resized:
        image = cv2.resize(image, crop.resized[::-1], interpolation=interpolation)
    image = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if image.shape[:2] != (size, size):
        return cv2.resize(image, (size, size), interpolation=interpolation)
    return np.ascontiguousarray(image)


class FailureLog:
    """Counts and reports undecodable images; stops the program if there are too many.

    One log serves all sources, which hold `images` images together.
    """

    def __init__(self, images: int, warn: Callable[[str], Any]):
        self._images = images
        self._warn = warn
        self._read = 0
        self._broken: dict[str, None] = {}  # names, in the order in which they were found

    def take(self, batch: Example, source: Source) -> Example:
        """Returns the source's batch without `failed`, whose images are reported once each.

        Raises UserError once it is clear that over MAX_FAILED_SHARE of all images are broken.
        """
        batch = dict(batch)
        failed = batch.pop("failed")
        numbers = failed[failed >= 0].tolist()
        self._read += failed.shape[0] + len(numbers)
        for name in map(source.name, sorted(set(numbers))):
            if name not in self._broken:
                self._broken[name] = None
                self._warn(f"skipped, cannot be decoded: {name}")
        if len(self._broken) > self._limit():
            names = ", ".join([*self._broken][:3])
            raise UserError(
                f"{len(self._broken)} images cannot be decoded, after reading {self._read} of "
                f"{self._images}: over {MAX_FAILED_SHARE:.0%}; remove or replace them, among them "
                f"{names}"
            )
        return batch

    def _limit(self) -> float:
        """The largest number of broken images that allows less than MAX_FAILED_SHARE of all."""
        limit = MAX_FAILED_SHARE * self._images
        if self._read < MIN_READ:
            return limit
        expected = MAX_FAILED_SHARE * self._read
        return min(limit, expected + CERTAINTY * expected**0.5)
