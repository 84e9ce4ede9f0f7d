"""Images per second of the training input pipeline, compared with torch.utils.data.

    pip install -e '.[torch]'
    python scripts/benchmarks/input_pipeline.py [--workers 2] [--seconds 0.6]

Both use the same functions to read half-megapixel JPEGs from a folder, decode, crop 384x384, resize
to 256x256 and draw a hole, and deliver batches of 16: first in one process on one core, then from
worker processes. They take turns, so that noise affects both. Prints the medians (slowest-fastest).
Without torch, measures only ours. Linux only.
"""

import argparse
import functools
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags

from glinpaint_jax.config import Config, DataConfig
from glinpaint_jax.data.datasets import HELD_OUT_PHOTOS, TRAINING_PHOTOS
from glinpaint_jax.data.folders import FolderSource
from glinpaint_jax.data.pipeline import MakeExample, crop_and_resize, train_batches
from glinpaint_jax.data.sources import PhotoSource, Source

SIDE, GRAIN = 714, 2.8  # half a megapixel, about 110 kB
PHOTOGRAPHS, BATCH, ROUNDS = 160, 16, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.6, help="per turn")
    arguments = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # grain's worker processes read them
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder))
        source = FolderSource(Path(folder))
        cores, threads = os.sched_getaffinity(0), cv2.getNumThreads()
        os.sched_setaffinity(0, {max(cores)})  # this thread and those it starts
        cv2.setNumThreads(1)
        compare("one core", source, 0, arguments.seconds)
        os.sched_setaffinity(0, cores)
        cv2.setNumThreads(threads)
        compare(f"{arguments.workers} workers", source, arguments.workers, arguments.seconds)


def write_photographs(folder: Path) -> None:
    """Enlarged crops of scikit-image's photographs; noise makes them compress like real ones."""
    rng = np.random.default_rng(0)
    photos = PhotoSource(TRAINING_PHOTOS + HELD_OUT_PHOTOS, PHOTOGRAPHS)
    grain = rng.normal(0, GRAIN, (SIDE, SIDE, 1))
    for number in range(PHOTOGRAPHS):
        crop = crop_and_resize(photos[number], SIDE, DataConfig(crop_size=400), rng)
        crop = np.clip(crop + np.roll(grain, 7 * number), 0, 255).astype(np.uint8)
        cv2.imwrite(f"{folder}/{number:04d}.jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])


def compare(name: str, source: Source, workers: int, seconds: float) -> None:
    """Prints the images per second of both, timed in turns."""
    kinds = {"ours": our_batches(source, workers)}
    if importlib.util.find_spec("torch") is not None:
        kinds["torch.utils.data"] = torch_batches(source, workers)
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, batches in kinds.items():
            for _ in range(8):  # discard what was prefetched during the others' turns
                next(batches)
            images, started = 0, time.perf_counter()
            while (passed := time.perf_counter() - started) < seconds:
                images += len(next(batches)["image"])
            rates[kind].append(images / passed)
    kinds["ours"].close()
    for kind, each in rates.items():
        rate = f"{statistics.median(each):.0f} images/s ({min(each):.0f}-{max(each):.0f})"
        print(f"{name}, {kind}: {rate}", flush=True)


def our_batches(source: Source, workers: int) -> Iterator[Any]:
    config = Config(data=DataConfig(num_workers=workers))
    return train_batches(source, config, start=0, local_batch_size=BATCH, process=0, count=1)


def torch_batches(source: Source, workers: int) -> Iterator[Any]:
    from torch.utils.data import DataLoader, RandomSampler

    images = Images(source)
    options = {"sampler": RandomSampler(images, num_samples=10**9), "num_workers": workers}
    # Like grain: a process with threads must not fork.
    start = "spawn" if workers else None
    return iter(DataLoader(images, BATCH, multiprocessing_context=start, **options))


class Images:
    """A torch.utils.data dataset of the pipeline's own examples."""

    def __init__(self, source: Source):
        self._source, self._rng = source, np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        example = self._make_example.random_map(index, self._rng)
        return {name: example[name] for name in ("image", "bbox")}  # torch collates no bytes

    @functools.cached_property
    def _make_example(self) -> MakeExample:  # created in the worker: it cannot be pickled
        cv2.setNumThreads(1)
        return MakeExample(self._source, Config())


if __name__ == "__main__":
    main()
