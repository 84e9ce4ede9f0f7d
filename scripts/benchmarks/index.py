"""Startup time and memory of training on millions of images (Linux only).

    python scripts/benchmarks/index.py [--records 8000000] [--shards 64] [--folder DIR]

Measures two synthetic datasets: ArrayRecord shards of one-pixel images (1 GB, in a temporary folder
in DIR), and a folder with a list file as long as Places365-Challenge's. Each is opened as in
training and read from the middle of the second epoch, without workers and with two. As a baseline,
scikit-image's photographs, which need no index. Memory is the peak of the process and of its
largest worker.
"""

import argparse
import concurrent.futures
import itertools
import multiprocessing
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from absl import flags
from array_record.python.array_record_module import ArrayRecordWriter

from glinpaint_jax.config import Config
from glinpaint_jax.data.datasets import open_sources
from glinpaint_jax.data.pipeline import train_batches
from glinpaint_jax.data.shards import OPTIONS

LOCAL_BATCH = 12
CLASSES = 365


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=8_000_000)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="for the temporary files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        folder = Path(folder)
        started = time.perf_counter()
        write_shards(folder, arguments.records, arguments.shards)
        write_list(folder, arguments.records)
        print(
            f"{arguments.records} records in {arguments.shards} shards and as many lines written "
            f"in {time.perf_counter() - started:.0f} s\n"
            f"{'':24}{'workers':>8}{'opened, s':>11}{'first batch, s':>16}{'peak, MB':>10}"
            f"{'a worker, MB':>14}"
        )
        for name, spec in {
            "photos": "photos",
            "array_record:": f"array_record:{folder}/*.array_record",
            "folder: with a list": f"folder:{folder}:list.txt",
        }.items():
            for workers in (0, 2):
                # A fresh process each: a peak never goes down.
                with concurrent.futures.ProcessPoolExecutor(
                    1, multiprocessing.get_context("spawn")
                ) as fresh:
                    opened, first, peak, worker = fresh.submit(begin, spec, workers).result()
                print(
                    f"{name:24}{workers:8}{opened:11.2f}{first:16.2f}{peak:10.0f}{worker:14.0f}",
                    flush=True,
                )


def begin(spec: str, workers: int) -> tuple[float, float, float, float]:
    """Seconds to open the sources and to the first batch; peak MB here and in a worker."""
    flags.FLAGS.mark_as_parsed()  # grain's worker processes read them
    config = Config()
    config.data.num_workers = workers
    started = time.perf_counter()
    source, *_ = open_sources(spec, "", config.data.eval_images)
    opened = time.perf_counter() - started
    batches = train_batches(
        source,
        config,
        start=len(source) * 3 // 2,
        local_batch_size=LOCAL_BATCH,
        process=0,
        count=1,
    )
    next(batches)
    first = time.perf_counter() - started
    processes = [process.pid for process in multiprocessing.active_children()]
    peaks = [peak_memory(process) for process in processes]
    batches.close()
    return opened, first, peak_memory("self"), max(peaks, default=0)


def peak_memory(process: int | str) -> float:
    """Peak MB according to the kernel; getrusage would include the parent's peak."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


def write_shards(folder: Path, records: int, shards: int) -> None:
    with concurrent.futures.ProcessPoolExecutor() as pool:
        numbers = [k * records // shards for k in range(shards + 1)]
        spans = itertools.pairwise(numbers)
        list(pool.map(write_shard, [folder] * shards, range(shards), spans))


def write_shard(folder: Path, number: int, span: tuple[int, int]) -> None:
    image = cv2.imencode(".png", np.full((1, 1, 3), number, np.uint8))[1].tobytes()
    writer = ArrayRecordWriter(str(folder / f"{number:05d}.array_record"), OPTIONS)
    for _ in range(*span):
        writer.write(image)
    writer.close()


def write_list(folder: Path, lines: int) -> None:
    """Writes lines as long as Places365-Challenge's, all of which share a few files."""
    names = [f"category/name{k:03d}/00000001.png" for k in range(CLASSES)]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_bytes(cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes())
    with (folder / "list.txt").open("w") as file:
        for k in range(lines):
            file.write(f"/{names[k % CLASSES]} {k % CLASSES}\n")


if __name__ == "__main__":
    main()
