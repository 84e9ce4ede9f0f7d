"""Losses and speed between two log lines, without making the devices wait."""

import collections
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax import Array

from glinpaint_jax.config import Config
from glinpaint_jax.data.pipeline import record_numbers
from glinpaint_jax.data.sources import Source
from glinpaint_jax.errors import UserError
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


class SkippedUpdates:
    """Names them, and ends a run that has skipped config.max_skipped_updates in a row."""

    def __init__(self, config: Config, source: Source, warn: Callable[[str], Any]):
        self._config = config
        self._source = source
        self._warn = warn
        self._in_flight: collections.deque[tuple[int, dict[str, Array]]] = collections.deque()
        self._in_a_row = 0

    def add(self, step: int, metrics: dict[str, Array]) -> None:
        """Takes the metrics of the step just dispatched, counted from 1; judges an older one.

        Raises UserError for the last of too many.
        """
        self._in_flight.append((step, metrics))
        if len(self._in_flight) > STEPS_IN_FLIGHT:
            self._judge(*self._in_flight.popleft())

    def close(self) -> None:
        """Judges what is left."""
        while self._in_flight:
            self._judge(*self._in_flight.popleft())

    def _judge(self, step: int, metrics: dict[str, Array]) -> None:
        if not jax.device_get(metrics["skipped"]):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        losses = jax.device_get(metrics)
        broken = [f"{name} {value}" for name, value in losses.items() if not np.isfinite(value)]
        size = self._config.global_batch_size
        order = record_numbers(len(self._source), self._config.seed)
        records = [int(order[number]) for number in range((step - 1) * size, step * size)]
        self._warn(
            f"step {step}: update skipped, {self._in_a_row} in a row; not finite: "
            f"{', '.join(broken) or 'a gradient or statistic'}; images: records {records}, the "
            f"first {self._source.name(records[0])}"
        )
        if self._in_a_row >= self._config.max_skipped_updates:
            raise UserError(
                f"{self._in_a_row} updates in a row were not finite, the last at step {step} "
                "(config.max_skipped_updates); parameters and checkpoints are finite still. Look "
                "at the images named above, or go on from a checkpoint with a lower "
                "--config.optimizer.learning_rate: --config.init_from=THIS_WORKDIR --workdir=NEW"
            )
