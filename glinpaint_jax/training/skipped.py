"""Updates that were skipped because they were not finite."""

import collections
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

from glinpaint_jax.config import Config
from glinpaint_jax.data.pipeline import record_numbers
from glinpaint_jax.data.sources import Source
from glinpaint_jax.errors import UserError
from glinpaint_jax.runs.progress import STEPS_IN_FLIGHT


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
