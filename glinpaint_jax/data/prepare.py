"""Writes and checks shards in parallel. No jax."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
from tqdm import tqdm

from glinpaint_jax.data.shards import (
    Entry,
    Plan,
    find_shard_damage,
    read_finished_entry,
    remove_half_written,
    write_shard,
)
from glinpaint_jax.data.sources import EncodedSource, FolderSource
from glinpaint_jax.errors import UserError


def prepare(
    folder: Path,
    plan: Plan,
    source: EncodedSource,
    numbers: Sequence[int],
    workers: int,
    say: Callable[[str], None],
) -> list[Entry]:
    """Writes the shards `numbers` that are not finished yet; returns the entries of all `numbers`.

    Raises UserError if the folder cannot be written or a worker dies.
    """
    kept = [entry for number in numbers if (entry := read_finished_entry(folder, plan, number))]
    files = {entry["file"] for entry in kept}
    todo = [number for number in numbers if plan.file(number) not in files]
    if kept:
        say(f"{len(kept)} of {len(numbers)} shards are finished and kept")
    written = []
    images = sum(len(plan.span(number)) for number in todo)
    with (
        tqdm(total=images, unit=" images", disable=None) as bar,
        contextlib.closing(_write_shards(folder, plan, source, todo, workers)) as entries,
    ):
        for entry in entries:
            written.append(entry)
            rejected = len(entry["rejected"])
            bar.update(entry["count"] + rejected)
            if bar.disable:
                say(f"{entry['file']}: {entry['count']} images, {rejected} rejected")
    return kept + written


def _write_shards(
    folder: Path, plan: Plan, source: EncodedSource, todo: list[int], workers: int
) -> Iterator[Entry]:
    """Yields the entry of each shard when it is finished."""

    def submit(count: int) -> set[Future]:
        """No more tasks at a time than workers: each carries the names of its images."""
        tasks = (shard_task(plan, source, number) for number in itertools.islice(waiting, count))
        return {pool.submit(write_shard, folder, plan, *task) for task in tasks}

    waiting = iter(todo)
    with _open_pool(folder, plan, todo, workers) as pool:
        with _block_ctrl_c():
            pending = submit(workers)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                entry = future.result()
                pending |= submit(1)
                yield entry


def shard_task(plan: Plan, source: EncodedSource, number: int) -> tuple[int, EncodedSource]:
    """The shard's number, and its source with no more of a folder's names than the shard needs."""
    if isinstance(source, FolderSource):
        span = plan.span(number)
        source = source.only(span.start, span.stop)
    return number, source


@contextlib.contextmanager
def _open_pool(
    folder: Path, plan: Plan, todo: list[int], workers: int
) -> Iterator[ProcessPoolExecutor]:
    """A process pool. If anything fails, its workers are killed and their half files removed."""
    pool = ProcessPoolExecutor(
        max(1, min(workers, len(todo))),
        multiprocessing.get_context("spawn"),  # threads of ArrayRecord or TFDS may hold locks
        _start_worker,
        (folder, plan, todo),
    )
    processes: list[BaseProcess] = []
    try:
        yield pool
    except BaseException as error:
        processes = list(pool._processes.values())
        if not isinstance(error, BrokenProcessPool):  # which ends the other workers itself
            for process in processes:
                process.kill()
        pool.shutdown()
        for process in processes:
            remove_half_written(folder, plan, todo, process.pid)
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                f"a worker process {_describe_death(processes)}; if memory ran out, pass fewer "
                "--workers. Finished shards are kept; rerun the command to continue"
            ) from None
        raise
    pool.shutdown()


@contextlib.contextmanager
def _block_ctrl_c() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C, not even while they import; this one does."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _start_worker(folder: Path, plan: Plan, todo: list[int]) -> None:
    cv2.setNumThreads(1)  # the workers share the cores

    def exit_with_parent() -> None:  # even if it was killed
        multiprocessing.parent_process().join()
        try:
            remove_half_written(folder, plan, todo, os.getpid())
        finally:
            os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def _describe_death(processes: list[BaseProcess]) -> str:
    # The pool ended the other workers with SIGTERM.
    codes = {process.exitcode for process in processes} - {-signal.SIGTERM}
    code = min(codes, default=-signal.SIGTERM)
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with status {code}"


def check(folder: Path, plan: Plan, numbers: Sequence[int], workers: int) -> Iterator[str]:
    """Yields a line for each of the shards `numbers` that is missing or damaged."""
    pool = ThreadPoolExecutor(workers)  # hashlib releases the GIL
    try:
        problems = pool.map(lambda number: find_shard_damage(folder, plan, number), numbers)
        for number, problem in tqdm(
            zip(numbers, problems, strict=True), total=len(numbers), unit=" shards", disable=None
        ):
            if problem:
                yield f"{plan.file(number)}: {problem}"
    finally:
        pool.shutdown(cancel_futures=True)
