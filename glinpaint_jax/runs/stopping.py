"""Ending a run before its time: SIGTERM, SIGINT and the notices of pre-emption that are SIGTERM."""

import collections
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from glinpaint_jax.distributed import batch_sharding, replicated, to_global
from glinpaint_jax.runs.progress import STEPS_IN_FLIGHT

ONE_WISH = 1.0  # seconds: `timeout` and some launchers send one wish twice


class StopEvaluation(Exception):  # noqa: N818
    """It would take longer than a run that is to end has."""


class Stop:
    """Whether the run shall end, for all processes at the same step."""

    def __init__(self, mesh: Mesh):
        self.signal: signal.Signals | None = None
        self._received = 0.0
        self._is_agreed = False
        self._mesh = mesh
        self._any = jax.jit(
            jnp.max, in_shardings=batch_sharding(mesh), out_shardings=replicated(mesh)
        )
        self._answers: collections.deque[jax.Array] = collections.deque()

    def receive(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: the first signal is a wish, a later one an order."""
        if self.signal is not None:
            if time.monotonic() - self._received > ONE_WISH:
                os._exit(128 + number)
            return
        self.signal, self._received = signal.Signals(number), time.monotonic()
        message = f"{self.signal.name}: finishing the step and saving; once more to exit at once\n"
        with contextlib.suppress(OSError):
            os.write(2, message.encode())  # print may be interrupted by itself

    def agreed(self) -> bool:
        """Asked by every process equally often; the answer is the same for all.

        That of several processes is as old as the steps in flight, so that no device waits.
        """
        wish = self.signal is not None
        if jax.process_count() == 1 or self._is_agreed:
            return wish or self._is_agreed
        wishes = np.full(self._mesh.local_mesh.devices.size, wish, np.int32)
        self._answers.append(self._any(to_global({"wish": wishes}, self._mesh)["wish"]))
        if len(self._answers) > STEPS_IN_FLIGHT:
            self._is_agreed = bool(self._answers.popleft())
        return self._is_agreed


@contextlib.contextmanager
def stopping(mesh: Mesh) -> Iterator[Stop]:
    """Takes SIGTERM and SIGINT as wishes to stop, as long as it lasts."""
    stop = Stop(mesh)
    # Only the main thread of a program can handle signals.
    numbers = (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        numbers = ()
    before = {number: signal.signal(number, stop.receive) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
