"""Threads and processes that read ahead. No jax."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from glinpaint_jax.errors import UserError

MAX_THREADS = 4  # that read ahead if there are no worker processes
KEPT_BYTES = 2**25 - 2**16  # just below 32 MB: glibc's limit, see _keep_freed_memory
MAX_DEATHS = 3  # of workers in a row, without a batch in between
DEATH_MESSAGE = "Worker process was terminated unexpectedly"  # grain's
SHARED_MEMORY = "/dev/shm"
# Batches read ahead per worker: the first fills its queue, and again as many in this process.
BUFFER_SIZE = 2
# Both buffers, the batch that a worker is making and the one on its way between the two.
SHARED_BATCHES = 2 * BUFFER_SIZE + 2


def cores() -> int:
    """Number of CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_ahead() -> Any:
    """grain.ReadOptions for this process, at most a thread per core: 4 on one decode 20% slower."""
    import grain  # imports jax if it is installed, which `prepare` does not need

    _keep_freed_memory()
    return grain.ReadOptions(min(cores(), MAX_THREADS), prefetch_buffer_size=MAX_THREADS)


def check_shared_memory(workers: int, batch_bytes: int) -> None:
    """Raises UserError if the batches that workers read ahead do not fit into shared memory."""
    if not os.path.isdir(SHARED_MEMORY):  # not Linux
        return
    need, size = workers * SHARED_BATCHES * batch_bytes, shutil.disk_usage(SHARED_MEMORY).total
    if need > size:
        raise UserError(
            f"{workers} data workers need {need / 1e6:.0f} MB of shared memory, {SHARED_MEMORY} "
            f"has {size / 1e6:.0f} MB; start the container with "
            f"--shm-size={-(-need // 10**9)}g, or pass --config.data.num_workers=0 to read with "
            "threads"
        )


def restart_dead_workers(
    open_batches: Callable[..., Any],
    start: int,
    global_batch_size: int,
    log: Callable[[str], Any],
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches of `open_batches(start=start)`; reopens it whenever a worker dies.

    Opens it at once, so that missing masks or shared memory end a run at its start. Raises
    UserError after MAX_DEATHS in a row without a batch in between.
    """
    opened, deaths = open_batches(start=start), 0

    def batches() -> Iterator[dict[str, np.ndarray]]:
        nonlocal opened, deaths, start
        while True:
            with contextlib.closing(opened):
                try:
                    for batch in opened:
                        yield batch
                        start += global_batch_size
                        deaths = 0
                except RuntimeError as error:
                    if DEATH_MESSAGE not in str(error):
                        raise
                    deaths += 1
                    reason = str(error).removeprefix(DEATH_MESSAGE).partition(".")[0].strip()
            problem = f"a data worker died {reason} (-9 often means out of memory)"
            if deaths == MAX_DEATHS:
                raise UserError(
                    f"{problem}, {deaths} times in a row; free memory or lower "
                    "--config.data.num_workers"
                )
            log(f"{problem}; restarting the workers, no example is lost")
            opened = open_batches(start=start)

    return batches()


def start_worker(index: int, count: int) -> None:
    """Runs first in each of grain's worker processes."""
    cv2.setNumThreads(1)  # the workers share the cores
    _keep_freed_memory()
    # Ctrl-C, SLURM and a closed terminal signal every process, but workers must last until the run
    # has stopped.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()  # also if it was killed
    os._exit(1)


def _keep_freed_memory() -> None:
    """Makes decoded images reuse memory: fresh pages cost up to half of the decoding time.

    glibc keeps up to twice the size of the largest block (below 32 MB) it has seen freed, and
    returns the rest to the kernel. Has no effect on other allocators.
    """
    np.empty(KEPT_BYTES, np.uint8)
