"""The threads and processes that read ahead, and what becomes of a process that dies."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import grain
import numpy as np

from glinpaint_jax.errors import UserError

MAX_THREADS = 4  # that read ahead where there are no workers
KEPT_BYTES = 2**25 - 2**16  # glibc takes note of blocks below 32 MB only
MAX_DEATHS = 3  # of workers in a row, without a batch between
DEATH = "Worker process was terminated unexpectedly"  # grain's words


def read_ahead() -> grain.ReadOptions:
    """Threads of this process, no more than cores: four on one core decode a fifth slower."""
    _keep_freed_memory()
    return grain.ReadOptions(min(cores(), MAX_THREADS), prefetch_buffer_size=MAX_THREADS)


def start_worker(index: int, count: int) -> None:
    cv2.setNumThreads(1)  # the processes share the cores
    _keep_freed_memory()
    # Ctrl-C and SLURM signal all processes; workers end with the run, also with a killed one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_run, daemon=True).start()


def _end_with_the_run() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _keep_freed_memory() -> None:
    """Decoded images reuse one another's memory: fresh pages cost up to half the decoding time.

    glibc keeps freed memory up to twice the largest block that it has seen freed, else returns it
    to the kernel. Other allocators do not notice this.
    """
    np.empty(KEPT_BYTES, np.uint8)


def unbroken(
    open_batches: Callable[..., grain.DatasetIterator],
    start: int,
    global_batch_size: int,
    warn: Callable[[str], Any],
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of `open_batches(start=start)`, opened again where a worker dies.

    Raises UserError where MAX_DEATHS in a row leave no batch between them.
    """
    deaths = 0
    while True:
        with contextlib.closing(open_batches(start=start)) as batches:
            try:
                for batch in batches:
                    yield batch
                    start += global_batch_size
                    deaths = 0
            except RuntimeError as error:
                if DEATH not in str(error):
                    raise
                deaths += 1
                reason = str(error).removeprefix(DEATH).partition(".")[0].strip()
        problem = f"a data worker died {reason} (-9 is often: out of memory)"
        if deaths == MAX_DEATHS:
            raise UserError(
                f"{problem}, {deaths} times in a row; free memory or lower "
                "--config.data.num_workers"
            )
        warn(f"{problem}; the workers are started again, no example is lost")


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
