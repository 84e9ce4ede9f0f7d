"""Tracks losses, speed and skipped updates without making devices wait; traces a few steps."""

import collections
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from glinpaint_jax.config import Config
from glinpaint_jax.errors import UserError
from glinpaint_jax.runs.report import Reporter

STEPS_IN_FLIGHT = 2  # how far the host may run ahead of the devices
WARM_UP = 3  # steps before a trace: the first ones are slower

Metrics = dict[str, Array]  # scalars on the devices; "skipped" is 1 if an update was skipped


class Progress:
    """Takes the metrics of each dispatched step; reports their means every config.log_every steps.

    A step's metrics are fetched once STEPS_IN_FLIGHT later steps have been dispatched, so the
    devices always have work. Skipped updates are left out of the means and reported with their
    images, which `describe_images` names; config.max_skipped_updates in a row end the run.
    """

    def __init__(self, reporter: Reporter, config: Config, describe_images: Callable[[int], str]):
        self._reporter, self._config = reporter, config
        self._describe_images = describe_images
        self._in_flight: collections.deque[tuple[int, str, Metrics]] = collections.deque()
        self._finished: list[tuple[int, str, Metrics]] = []  # since the last report
        self._skipped_in_a_row = 0
        self._start = time.perf_counter()

    def add(self, step: int, phase: str, metrics: Metrics) -> None:
        """Takes the metrics of the step just dispatched; `step` counts from 1."""
        self._in_flight.append((step, phase, metrics))
        self._fetch_all_but(STEPS_IN_FLIGHT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Waits for the steps in flight, and excludes what follows from the speed."""
        self._fetch_all_but(0)
        paused_at = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - paused_at

    def close(self) -> None:
        """Waits for the steps in flight and reports the metrics of a run that stops early."""
        self._fetch_all_but(0)
        if self._finished:
            self._report()

    def _fetch_all_but(self, newest: int) -> None:
        while len(self._in_flight) > newest:
            step, phase, metrics = self._in_flight.popleft()
            metrics = jax.device_get(metrics)
            self._finished.append((step, phase, metrics))
            if metrics["skipped"]:
                self._note_skipped(step, metrics)
            else:
                self._skipped_in_a_row = 0
            if step % self._config.log_every == 0 or step == self._config.num_steps:
                self._report()

    def _report(self) -> None:
        step, phase, _ = self._finished[-1]
        kept = [metrics for _, _, metrics in self._finished if not metrics["skipped"]]
        names = sorted({name for metrics in kept for name in metrics} - {"skipped"})
        means = {
            name: float(np.mean([metrics[name] for metrics in kept if name in metrics]))
            for name in names
        }
        if skipped := len(self._finished) - len(kept):
            means["skipped"] = float(skipped)
        now = time.perf_counter()
        seconds = (now - self._start) / len(self._finished)  # per step
        self._reporter.train(
            step,
            phase,
            means,
            images_per_second=self._config.global_batch_size / seconds,
            left=(self._config.num_steps - step) * seconds,
        )
        self._finished, self._start = [], now

    def _note_skipped(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        self._skipped_in_a_row += 1
        broken = [f"{name} {value}" for name, value in metrics.items() if not np.isfinite(value)]
        self._reporter.log(
            f"step {step}: update skipped, {self._skipped_in_a_row} in a row; not finite: "
            f"{', '.join(broken) or 'a gradient or statistic'}; {self._describe_images(step)}"
        )
        if self._skipped_in_a_row >= self._config.max_skipped_updates:
            raise UserError(
                f"{self._skipped_in_a_row} updates in a row were not finite, the last at step "
                f"{step} (config.max_skipped_updates); parameters and checkpoints are still "
                f"finite. Check the images named above, or {advise(self._config, step)}"
            )


def advise(config: Config, step: int) -> str:
    """How to go on with a lower learning rate: here, or in a new run in the same phase."""
    optimizer, phases = config.optimizer, config.phases
    lower = f"--config.optimizer.learning_rate={optimizer.learning_rate / 2:g}"
    if own_rate := optimizer.discriminator_learning_rate:
        lower += f" --config.optimizer.discriminator_learning_rate={own_rate / 2:g}"
    return (
        f"rerun the command with --accept-changed-config {lower}. A new run with "
        "--config.init_from would begin with the first phase; to begin here, it needs "
        f"--config.phases.completion_end={max(0, phases.completion_end - step)} "
        f"--config.phases.discriminator_end={max(0, phases.discriminator_end - step)}"
    )


def traced(batches: Iterator, workdir: Path, steps: int, log: Callable[[str], Any]) -> Iterator:
    """Yields `batches`; meanwhile traces `steps` steps, or all that are left.

    Perfetto and XProf read the trace, which is in the workdir's folder profile.
    """
    yield from islice(batches, WARM_UP)
    jax.profiler.start_trace(workdir / "profile", create_perfetto_trace=True)
    try:
        # When a batch is asked for, the step of STEPS_IN_FLIGHT + 1 batches ago has finished.
        yield from islice(batches, steps + STEPS_IN_FLIGHT)
    finally:
        jax.profiler.stop_trace()
        log(f"wrote a trace of {steps} steps to {workdir / 'profile'}")
    yield from batches
