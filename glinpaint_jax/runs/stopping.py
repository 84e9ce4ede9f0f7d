"""Stopping a run early: SIGTERM (also of a preemption notice), SIGINT, SIGHUP (closed terminal)."""

import collections
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from glinpaint_jax.parallel import batch_sharding, replicated, to_global
from glinpaint_jax.runs.progress import STEPS_IN_FLIGHT

SAME_REQUEST = 1.0  # seconds: `timeout` and some launchers send the same request twice


class EvaluationStopped(Exception):  # noqa: N818
    """Cuts an evaluation short when the run has been asked to stop."""


class Stop:
    """Whether the run has been asked to stop; all processes agree on the step."""

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._asked_at: float | None = None  # time.monotonic()
        self._any = jax.jit(
            jnp.max, in_shardings=batch_sharding(mesh), out_shardings=replicated(mesh)
        )
        self._answers: collections.deque[jax.Array] = collections.deque()

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the first signal asks to stop, a later one exits at once."""
        if self._asked_at is not None:
            if time.monotonic() - self._asked_at > SAME_REQUEST:
                os._exit(128 + number)
            return
        self._asked_at = time.monotonic()
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):  # print is not reentrant
            os.write(2, f"{name}: finishing the step and saving; repeat to exit at once\n".encode())

    def is_agreed(self) -> bool:
        """Whether to stop now. All processes must call this equally often and get the same answer.

        With several processes the answer is STEPS_IN_FLIGHT calls old, so no device waits for it.
        """
        is_asked = self._asked_at is not None
        if jax.process_count() == 1:
            return is_asked
        mine = np.full(self._mesh.local_mesh.devices.size, is_asked, np.int32)
        self._answers.append(self._any(to_global({"asked": mine}, self._mesh)["asked"]))
        return len(self._answers) > STEPS_IN_FLIGHT and bool(self._answers.popleft())

    def interrupting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, but a call raises EvaluationStopped once the run is to stop."""

        def unless_stopped(*arguments: Any) -> Any:
            if self.is_agreed():
                raise EvaluationStopped
            return function(*arguments)

        return unless_stopped


@contextlib.contextmanager
def stop_on_signals(mesh: Mesh) -> Iterator[Stop]:
    """Handles SIGTERM, SIGINT and SIGHUP as requests to stop while the context is active.

    An ignored SIGHUP stays ignored, as `nohup` wants.
    """
    stop = Stop(mesh)
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop.receive) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
