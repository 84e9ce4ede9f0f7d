"""Images per second of the training input pipeline, compared with torch.utils.data.

    pip install -e '.[torch]'
    python scripts/benchmarks/input_pipeline.py [--workers 2] [--seconds 0.6] [--json FILE]

Both use the same functions to read half-megapixel JPEGs from a folder, decode, crop 384x384, resize
to 256x256 and draw a hole, and deliver batches of 16: first in one process on one core, where a
bare loop is the upper bound, then from worker processes. They take turns so noise affects both.
Reported are the median, slowest and fastest rates, and images per second of CPU time, which other
programs disturb less. Our workers avoid an allocator cost that torch's may pay
(workers._keep_freed_memory). Linux only.
"""

import argparse
import functools
import importlib.util
import itertools
import json
import multiprocessing
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
from glinpaint_jax.data.pipeline import MakeExample, crop_and_resize, train_batches
from glinpaint_jax.data.sources import FolderSource, PhotoSource, Source, decode

SIDE, GRAIN = 714, 2.8  # half a megapixel, about 110 kB
BATCH, ROUNDS = 16, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.6, help="per turn")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = input_rows(arguments.workers, arguments.seconds)
    for row in rows:
        print_row(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def print_row(row: dict[str, Any]) -> None:
    ratio = row.get("jax_over_torch")
    print(
        f"input, {row['name']}" + (f": {ratio:.2f} times torch.utils.data's rate" if ratio else "")
    )
    for kind, (median, least, most, per_second) in row["rates"].items():
        print(
            f"  {kind:5} {median} images/s ({least}-{most}), {per_second} per second of CPU time",
            flush=True,
        )


def input_rows(workers: int = 2, seconds: float = 0.6) -> list[dict[str, Any]]:
    """Rows from `compare`: in this process on one core, and from `workers` processes.

    Without torch, only our own pipeline's.
    """
    flags.FLAGS.mark_as_parsed()  # grain's worker processes read them
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), 160)
        source = FolderSource(Path(folder))
        cores, threads = os.sched_getaffinity(0), cv2.getNumThreads()
        os.sched_setaffinity(0, {max(cores)})  # this thread and those it starts
        cv2.setNumThreads(1)
        rows = [compare("one core", both(source, 0) | {"bare": bare_loop(source)}, seconds)]
        os.sched_setaffinity(0, cores)
        cv2.setNumThreads(threads)
        rows.append(compare(f"{workers} worker(s)", both(source, workers), seconds))
    return rows


def write_photographs(folder: Path, count: int) -> None:
    """Enlarged crops of scikit-image's photographs; noise makes them compress like real ones."""
    rng = np.random.default_rng(0)
    photos = PhotoSource(TRAINING_PHOTOS + HELD_OUT_PHOTOS)
    grain = rng.normal(0, GRAIN, (SIDE, SIDE, 1))
    for number in range(count):
        part = crop_and_resize(photos[number], SIDE, DataConfig(crop_size=400), rng)
        part = np.clip(part + np.roll(grain, 7 * number), 0, 255).astype(np.uint8)
        cv2.imwrite(f"{folder}/{number:04d}.jpg", part[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])


def both(source: Source, workers: int) -> dict[str, Any]:
    config = Config(data=DataConfig(num_workers=workers))
    ours = train_batches(source, config, start=0, local_batch_size=BATCH, process=0, count=1)
    if importlib.util.find_spec("torch") is None:
        return {"jax": ours}
    from torch.utils.data import DataLoader, RandomSampler

    images = Images(source)
    endless = RandomSampler(images, num_samples=10**9)
    start = "spawn" if workers else None  # like grain: a process with threads must not fork
    theirs = DataLoader(
        images, BATCH, sampler=endless, num_workers=workers, multiprocessing_context=start
    )
    return {"jax": ours, "torch": iter(theirs)}


class Images:
    """A torch.utils.data dataset of the pipeline's own examples."""

    def __init__(self, source: Source):
        self._source, self._rng = source, np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self._make_example.random_map(index, self._rng)

    @functools.cached_property
    def _make_example(self) -> MakeExample:  # created in the worker: it cannot be pickled
        cv2.setNumThreads(1)
        return MakeExample(self._source, Config())


def bare_loop(source: FolderSource) -> Iterator[Any]:
    config, rng = Config(), np.random.default_rng(0)
    encoded = [Path(source.name(number)).read_bytes() for number in range(len(source))]
    for data in itertools.cycle(encoded):
        yield {"image": [crop_and_resize(decode(data, ""), config.image_size, config.data, rng)]}


def compare(name: str, kinds: dict[str, Iterator[Any]], seconds: float) -> dict[str, Any]:
    """Each kind's images/s, timed in turns: median, least, most, and per second of CPU time."""
    turns: dict[str, list] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, batches in kinds.items():
            for _ in range(8):  # discard what was prefetched during the others' turns
                next(batches)
            images, started, worked = 0, time.perf_counter(), processor_seconds()
            while (passed := time.perf_counter() - started) < seconds:
                images += len(next(batches)["image"])
            turns[kind].append((images / passed, images / (processor_seconds() - worked)))
    kinds["jax"].close()
    rates = {}
    for kind, measured in turns.items():
        each, per_second = zip(*measured, strict=True)
        values = (statistics.median(each), min(each), max(each), statistics.median(per_second))
        rates[kind] = [round(value) for value in values]
    row = {"name": name, "rates": rates}
    if "torch" in rates:
        row["jax_over_torch"] = round(rates["jax"][0] / rates["torch"][0], 2)
    return row


def processor_seconds() -> float:
    """CPU time of this process and its workers."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    return sum(time.clock_gettime(~process << 3 | 2) for process in processes)  # Linux's clock ids


if __name__ == "__main__":
    main()
