"""Turns a source into batches: crop, resize, draw a hole. Runs in worker processes: no jax.

Each training example depends only on the seed and its number in the stream, not on the number of
workers, processes or devices. To resume after n examples, start at number n.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import grain
import numpy as np
from jaxtyping import UInt8

from glinpaint_jax.config import BBOX_MASK_KINDS, Config, DataConfig
from glinpaint_jax.data import holes, masks
from glinpaint_jax.data.mask_files import resize_hole
from glinpaint_jax.data.sources import Image, Source, UnusableFile
from glinpaint_jax.data.workers import BUFFER_SIZE, check_shared_memory, read_ahead, start_worker
from glinpaint_jax.errors import UserError

Example = dict[str, np.ndarray]
Batch = dict[str, np.ndarray]  # of stacked examples
Crop = tuple[slice, slice]  # rows and columns

EVAL_SEED = 2017
MAX_EXAMPLES = 2**48  # length of an "endless" stream
MIN_INDEX_SHUFFLE = 2**16  # for fewer, grain's index shuffle is slow: 5 ms per index for 7 records
MAX_ATTEMPTS = 4  # records to try per example until one can be used
MAX_CROPS = 1000  # random crops to try until one shows a part of a paired mask's hole
FAILED_BYTES = 1000  # that an example keeps of the names and reasons of unusable files
# More unusable files than both of these end the run.
MAX_FAILED, MAX_FAILED_SHARE = 10, 0.01  # the share is of the images read


def train_batches(
    source: Source, config: Config, *, start: int, local_batch_size: int, process: int, count: int
) -> grain.DatasetIterator:
    """Returns endless batches of this process's share of the stream, starting at example `start`.

    Each batch holds image uint8 [b, s, s, 3], bbox int32 [b, 4], mask uint8 [b, s, s, 1] unless
    each hole is a single box, and failed, bytes [b]: the images and masks that could not be used.
    """
    dataset = (
        record_numbers(len(source), config.seed)
        .random_map(MakeExample(source, config))[start:]
        .batch(local_batch_size)[process::count]  # so a global batch has the stream's order
    )
    if config.data.num_workers == 0:
        return iter(dataset.to_iter_dataset(read_ahead()))
    channels = 3 if config.mask.kind in BBOX_MASK_KINDS and config.mask.max_holes == 1 else 4
    example_bytes = channels * config.image_size**2 + FAILED_BYTES
    check_shared_memory(config.data.num_workers, local_batch_size * example_bytes)
    # One thread per worker: the processes share the work.
    batches = dataset.to_iter_dataset(grain.ReadOptions(1, 1)).mp_prefetch(
        grain.MultiprocessingOptions(config.data.num_workers, per_worker_buffer_size=BUFFER_SIZE),
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
    epoch, position = divmod(int(number), length)
    return int(_epoch_order(length, seed, epoch)[position])


@functools.lru_cache(maxsize=4)
def _epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(length)


def eval_batches(
    source: Source, config: Config, *, local_batch_size: int, process: int, count: int
) -> Iterator[Batch]:
    """Yields this process's share of the evaluation set.

    An image's crop and hole depend only on its record number, so all runs are comparable.
    Every process yields the same number of full batches; `valid` float32 [b] is 0 for padding.
    `record` int32 [b] is the number in the source, or -1 if another image replaces an unusable one.
    """
    images = min(config.data.eval_images, len(source))
    positions = -(-images // (local_batch_size * count)) * local_batch_size * count
    make_example = MakeExample(source, config, augment=False)

    def example(position: int) -> Example:
        record = position % images * len(source) // images
        made = make_example.random_map(record, np.random.default_rng((EVAL_SEED, record)))
        record = np.int32(-1 if made["failed"] else record)
        return made | {"valid": np.float32(position < images), "record": record}

    dataset = grain.MapDataset.range(positions)[process::count].map(example)
    yield from dataset.batch(local_batch_size).to_iter_dataset(read_ahead())


class MakeExample(grain.transforms.RandomMap):
    """Record number -> example. A record that cannot be used is replaced by a random one."""

    def __init__(self, source: Source, config: Config, *, augment: bool = True):
        self._source, self._size = source, config.image_size
        self._mask, self._data = config.mask, config.data
        self._flip = augment and config.data.horizontal_flip
        self._mask_folder = holes.paired_mask_folder(source, config.mask)
        self._mask_files = holes.open_mask_files(config.mask)

    def random_map(self, element: int, rng: np.random.Generator) -> Example:
        index, failed = int(element), []
        for _ in range(MAX_ATTEMPTS):
            try:
                example = self._make(index, rng)
            except UnusableFile as error:
                failed.append(str(error))
                others = max(len(self._source) - 1, 1)
                index = (index + 1 + int(rng.integers(others))) % len(self._source)
            else:
                text = "\n".join(failed).encode(errors="replace")
                return example | {"failed": np.array(text, f"S{FAILED_BYTES}")}
        raise UserError(
            f"{MAX_ATTEMPTS} images in a row cannot be decoded or have no usable mask, the "
            f"last: {failed[-1]}"
        )

    def _make(self, index: int, rng: np.random.Generator) -> Example:
        image, mask = self._crop(index, rng)
        if self._flip and rng.integers(2):
            image = image[:, ::-1]
            mask = mask if mask is None else mask[:, ::-1]
        if mask is None:
            return {"image": image} | holes.draw_hole(self._mask, self._size, self._mask_files, rng)
        return {"image": image} | holes.with_bbox(mask)

    def _crop(self, index: int, rng: np.random.Generator) -> tuple[Image, masks.Mask | None]:
        """Returns a crop of an image and, if masks are paired, the same crop of its mask.

        A part of the hole is in the crop.
        """
        image = self._source[index]
        if self._mask_folder is None:
            return crop_and_resize(image, self._size, self._data, rng), None
        path = holes.find_paired_mask(self._source, index, self._mask_folder)
        hole = holes.read_hole(path, image)
        for _ in range(MAX_CROPS):
            resized, crop = draw_crop(*image.shape[:2], self._size, self._data, rng)
            cut = resize_hole(hole, *resized)[crop]
            mask = resize_hole(cut, self._size, self._size)[..., None].astype(np.uint8)
            if mask.any():
                return take_crop(image, resized, crop, self._size), mask
        raise UnusableFile(f"{path}: none of {MAX_CROPS} random crops shows its hole")


def crop_and_resize(
    image: UInt8[np.ndarray, "h w 3"], size: int, config: DataConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """Takes a random crop as MMagic or the paper does; see `draw_crop`."""
    resized, crop = draw_crop(*image.shape[:2], size, config, rng)
    return take_crop(image, resized, crop, size)


def draw_crop(
    height: int, width: int, size: int, config: DataConfig, rng: np.random.Generator
) -> tuple[tuple[int, int], Crop]:
    """Returns the (height, width) that an image is resized to, and a crop of the resized image.

    crop_then_resize: min(crop_size, side) of each side, at random, resized to `size` (an image
    smaller than the crop loses its aspect, as in MMagic). resize_then_crop: the short side
    resized to a random length in [size, crop_size], then a random crop.
    """
    side = config.crop_size
    if config.crop == "resize_then_crop":
        scale = rng.integers(size, config.crop_size + 1) / min(height, width)
        height, width = max(size, round(height * scale)), max(size, round(width * scale))
        side = size
    crop_height, crop_width = min(side, height), min(side, width)
    top = rng.integers(height - crop_height + 1)
    left = rng.integers(width - crop_width + 1)
    return (height, width), (slice(top, top + crop_height), slice(left, left + crop_width))


def take_crop(
    image: UInt8[np.ndarray, "h w 3"], resized: tuple[int, int], crop: Crop, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Resizes an image, cuts the crop out of it and resizes that to `size`."""
    if image.shape[:2] != resized:
        image = cv2.resize(image, resized[::-1], interpolation=cv2.INTER_LINEAR)
    # Always copies, so that no example keeps a whole image in memory.
    return cv2.resize(image[crop], (size, size), interpolation=cv2.INTER_LINEAR)


class FailureLog:
    """Counts and reports unusable images and masks; stops the program if there are too many."""

    def __init__(self, log: Callable[[str], Any]):
        self._log = log
        self._read = 0
        self._failures: dict[str, None] = {}  # in the order in which they were found

    def take(self, batch: Batch) -> Batch:
        """Returns the batch without `failed`, whose lines are reported once each.

        Raises UserError if more than MAX_FAILED files, and more than MAX_FAILED_SHARE of those
        read, cannot be used.
        """
        batch = dict(batch)
        texts = batch.pop("failed").tolist()
        failures = [line for text in texts for line in text.decode(errors="replace").splitlines()]
        self._read += len(texts) + len(failures)
        for failure in failures:
            if failure not in self._failures:
                self._failures[failure] = None
                self._log(f"skipped, {failure} ({len(self._failures)} of {self._read} so far)")
        if len(self._failures) > max(MAX_FAILED, MAX_FAILED_SHARE * self._read):
            raise UserError(
                f"{len(self._failures)} of {self._read} images cannot be used: over "
                f"{MAX_FAILED_SHARE:.0%} and over {MAX_FAILED}; remove or replace them, such as "
                f"{'; '.join([*self._failures][:3])}"
            )
        return batch
