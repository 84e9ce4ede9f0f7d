"""Losses and speed between two log lines, without making the devices wait."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax import Array

from glinpaint_jax.config import Config
from glinpaint_jax.runs.report import Reporter
from glinpaint_jax.training.phases import Phase

STEPS_IN_FLIGHT = 2  # the host runs ahead of the devices by at most so many steps


class Interval:
    """Gathers the metrics of steps, still on the devices, and reports their means.

    A finished interval is fetched only after the next step has been dispatched, so the devices
    have work meanwhile. Means are of the updates that were made; `skipped` counts the others.
    """

    def __init__(self, reporter: Reporter, config: Config):
        self.phases: set[Phase] = set()  # all those seen
        self._reporter = reporter
        self._log_every = config.log_every
        self._batch_size = config.global_batch_size
        self._num_steps = config.num_steps
        self._metrics: list[dict[str, Array]] = []
        self._last: tuple[int, Phase] | None = None
        self._start = time.perf_counter()

    def add(self, step: int, phase: Phase, metrics: dict[str, Array]) -> None:
        """Takes the metrics of the step that was just dispatched; `step` counts from 1."""
        if self._is_due():
            self._report()
        self._metrics.append(metrics)
        self._last = (step, phase)
        self.phases.add(phase)
        if len(self._metrics) > STEPS_IN_FLIGHT:
            jax.block_until_ready(self._metrics[-1 - STEPS_IN_FLIGHT])
        self._reporter.advance(step)

    @contextmanager
    def paused(self, *, when: bool = True) -> Iterator[None]:
        """Does not count the time within: compiling, evaluating, saving."""
        if not when:
            yield
            return
        if self._is_due():
            self._report()
        jax.block_until_ready(self._metrics[-1:])
        paused_at = time.perf_counter()
        yield
        self._start += time.perf_counter() - paused_at

    def close(self) -> None:
        """Reports what is left."""
        if self._metrics:
            self._report()

    def _is_due(self) -> bool:
        return bool(self._metrics) and self._last[0] % self._log_every == 0

    def _report(self) -> None:
        fetched = jax.device_get(self._metrics)
        now = time.perf_counter()
        seconds_per_step = (now - self._start) / len(fetched)
        kept = [metrics for metrics in fetched if not metrics["skipped"]]
        names = sorted({name for metrics in kept for name in metrics} - {"skipped"})
        means = {
            name: float(np.mean([metrics[name] for metrics in kept if name in metrics]))
            for name in names
        }
        if len(kept) < len(fetched):
            means["skipped"] = float(len(fetched) - len(kept))
        step, phase = self._last
        self._reporter.train(
            step,
            phase.value,
            means,
            images_per_second=self._batch_size / seconds_per_step,
            seconds_left=(self._num_steps - step) * seconds_per_step,
        )
        self._metrics = []
        self._start = now
