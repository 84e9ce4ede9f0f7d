"""Tracks the losses, speed and skipped updates of a run without making devices wait."""

import collections
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax import Array

from glinpaint_jax.config import Config
from glinpaint_jax.data.pipeline import record_numbers
from glinpaint_jax.data.sources import Source
from glinpaint_jax.errors import UserError
from glinpaint_jax.runs.report import Reporter

STEPS_IN_FLIGHT = 2  # how far the host may run ahead of the devices

Metrics = dict[str, Array]  # scalars on the devices; "skipped" is 1 if an update was skipped


class Progress:
    """Takes the metrics of each dispatched step and reports their means every `log_every` steps.

    A step's metrics are fetched once STEPS_IN_FLIGHT later steps have been dispatched, so the
    devices always have work. Skipped updates are left out of the means and reported with their
    images; config.max_skipped_updates in a row end the run.
    """

    def __init__(self, reporter: Reporter, config: Config, source: Source):
        self._reporter = reporter
        self._config = config
        self._source = source
        self._in_flight: collections.deque[tuple[int, str, Metrics]] = collections.deque()
        self._finished: list[Metrics] = []  # since the last report
        self._last: tuple[int, str] = (0, "")  # step and phase of the newest finished step
        self._skipped_in_a_row = 0
        self._start = time.perf_counter()

    def add(self, step: int, phase: str, metrics: Metrics) -> None:
        """Takes the metrics of the step just dispatched; `step` counts from 1.

        Raises UserError if too many updates in a row have been skipped.
        """
        self._in_flight.append((step, phase, metrics))
        self._reporter.advance(step)
        if len(self._in_flight) > STEPS_IN_FLIGHT:
            self._finish_oldest()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Waits for the steps in flight, and excludes what follows from the speed."""
        self._finish_all()
        paused_at = time.perf_counter()
        yield
        self._start += time.perf_counter() - paused_at

    def close(self) -> None:
        """Waits for the steps in flight and reports the remaining metrics."""
        self._finish_all()
        if self._finished:
            self._report()

    def _finish_all(self) -> None:
        while self._in_flight:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        step, phase, metrics = self._in_flight.popleft()
        if jax.device_get(metrics["skipped"]):
            self._note_skipped(step, metrics)
        else:
            self._skipped_in_a_row = 0
        self._finished.append(metrics)
        self._last = (step, phase)
        if step % self._config.log_every == 0:
            self._report()

    def _report(self) -> None:
        finished = jax.device_get(self._finished)
        now = time.perf_counter()
        seconds_per_step = (now - self._start) / len(finished)
        kept = [metrics for metrics in finished if not metrics["skipped"]]
        names = sorted({name for metrics in kept for name in metrics} - {"skipped"})
        means = {
            name: float(np.mean([metrics[name] for metrics in kept if name in metrics]))
            for name in names
        }
        if len(kept) < len(finished):
            means["skipped"] = float(len(finished) - len(kept))
        step, phase = self._last
        self._reporter.train(
            step,
            phase,
            means,
            images_per_second=self._config.global_batch_size / seconds_per_step,
            seconds_left=(self._config.num_steps - step) * seconds_per_step,
        )
        self._finished = []
        self._start = now

    def _note_skipped(self, step: int, metrics: Metrics) -> None:
        self._skipped_in_a_row += 1
        losses = jax.device_get(metrics)
        broken = [f"{name} {value}" for name, value in losses.items() if not np.isfinite(value)]
        size = self._config.global_batch_size
        order = record_numbers(len(self._source), self._config.seed)
        records = [int(order[number]) for number in range((step - 1) * size, step * size)]
        self._reporter.say(
            f"step {step}: update skipped, {self._skipped_in_a_row} in a row; not finite: "
            f"{', '.join(broken) or 'a gradient or statistic'}; images: records {records}, the "
            f"first {self._source.name(records[0])}"
        )
        if self._skipped_in_a_row >= self._config.max_skipped_updates:
            raise UserError(
                f"{self._skipped_in_a_row} updates in a row were not finite, the last at step "
                f"{step} (config.max_skipped_updates); parameters and checkpoints are still "
                "finite. Check the images named above, or continue from a checkpoint with a lower "
                "--config.optimizer.learning_rate: --config.init_from=THIS_WORKDIR --workdir=NEW"
            )
