"""Writing and checking shards with many processes. No jax.

Each process has a connection of its own and makes whole shards. One that dies closes it, and so
does this one: neither waits for the other in vain.
"""

import concurrent.futures
import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path

import cv2
from tqdm import tqdm

from glinpaint_jax.data.shards import Entry, Plan, damage, finished, write_shard
from glinpaint_jax.data.sources import EncodedSource, FolderSource
from glinpaint_jax.errors import UserError

REPORT_EVERY = 0.2  # seconds
STOPPING = 3  # seconds that a process has for its last image; a network folder may never answer


def prepare(
    folder: Path,
    plan: Plan,
    source: EncodedSource,
    numbers: Sequence[int],
    workers: int,
    say: Callable[[str], None],
) -> list[Entry]:
    """Writes those of the shards `numbers` that are not finished; returns the entries of all.

    Raises UserError where the folder cannot be written or a process dies.
    """
    kept = [entry for number in numbers if (entry := finished(folder, plan, number))]
    files = {entry["file"] for entry in kept}
    todo = [number for number in numbers if plan.file(number) not in files]
    if kept:
        say(f"{len(kept)} of {len(numbers)} shards are finished and kept")
    images = sum(len(plan.span(number)) for number in todo)
    written = []
    with (
        tqdm(total=images, unit=" images", disable=None) as bar,
        contextlib.closing(_messages(folder, plan, source, todo, workers)) as messages,
    ):
        for message in messages:
            if isinstance(message, int):
                bar.update(message)
                continue
            written.append(message)
            if bar.disable:
                rejected = len(message["rejected"])
                say(f"{message['file']}: {message['count']} images, {rejected} rejected")
    return kept + written


def _messages(
    folder: Path, plan: Plan, source: EncodedSource, todo: list[int], workers: int
) -> Iterator[int | Entry]:
    """From all processes: entries of finished shards, and numbers of images seen since the last."""
    waiting = list(reversed(todo))
    processes = {}
    try:
        for _ in range(min(workers, len(todo))):
            process, connection = _start(folder, plan)
            processes[connection] = process
        while processes:
            for connection in wait(list(processes)):
                try:
                    message = connection.recv()
                    if isinstance(message, Exception):
                        raise message
                    if message is not None:
                        yield message
                    if isinstance(message, int):
                        continue
                    if waiting:
                        connection.send(shard_task(plan, source, waiting.pop()))
                        continue
                except (EOFError, OSError):
                    raise UserError(_death(processes[connection])) from None
                connection.close()
                processes.pop(connection).join()
    finally:
        for connection in processes:
            connection.close()  # tells them to stop
        deadline = time.monotonic() + STOPPING
        for process in processes.values():
            process.join(max(0, deadline - time.monotonic()))
            process.kill()


def _start(folder: Path, plan: Plan) -> tuple[multiprocessing.Process, Connection]:
    # Not forked: threads of ArrayRecord or TFDS may hold locks here.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, folder, plan), daemon=True)
    # A process inherits what is blocked: Ctrl-C is for this one alone.
    resource_tracker.ensure_running()  # else started below, which would unblock
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()
    return process, ours


def shard_task(plan: Plan, source: EncodedSource, number: int) -> tuple[int, EncodedSource]:
    """A shard's number, and a source with no more of a folder's millions of names than it needs."""
    if isinstance(source, FolderSource):
        span = plan.span(number)
        source = source.only(span.start, span.stop)
    return number, source


def _work(connection: Connection, folder: Path, plan: Plan) -> None:
    """A process's life: says None when it is ready, gets tasks until the other end is closed."""
    cv2.setNumThreads(1)
    images, reported = 0, time.monotonic()

    def advance() -> None:
        nonlocal images, reported
        if connection.poll():  # nothing is sent meanwhile: the other end is closed
            raise EOFError
        images += 1
        if time.monotonic() - reported > REPORT_EVERY:
            connection.send(images)
            images, reported = 0, time.monotonic()

    with contextlib.suppress(EOFError, ConnectionError):
        connection.send(None)
        while True:
            number, source = connection.recv()
            try:
                entry = write_shard(folder, plan, number, source, advance)
            except UserError as error:
                connection.send(error)
                return
            connection.send(images)
            images = 0
            connection.send(entry)


def _death(process: multiprocessing.Process) -> str:
    process.join()
    how = f"ended with status {process.exitcode}"
    if process.exitcode < 0:
        how = f"was killed by {signal.Signals(-process.exitcode).name}"
    return (
        f"a worker process {how}; if memory ran out, pass fewer --workers. Finished shards are "
        "kept: the same command goes on"
    )


def check(folder: Path, plan: Plan, numbers: Sequence[int], workers: int) -> Iterator[str]:
    """A line for each of the shards `numbers` that is not whole."""
    pool = concurrent.futures.ThreadPoolExecutor(workers)  # checksums need no interpreter
    try:
        found = pool.map(lambda number: damage(folder, plan, number), numbers)
        for number, problem in tqdm(
            zip(numbers, found, strict=True), total=len(numbers), unit=" shards", disable=None
        ):
            if problem:
                yield f"{plan.file(number)}: {problem}"
    finally:
        pool.shutdown(cancel_futures=True)
