"""Traces a few steps of a run, for Perfetto and XProf."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import jax

from glinpaint_jax.runs.progress import STEPS_IN_FLIGHT

FOLDER = "profile"  # in a workdir
WARM_UP = 3  # steps before the trace: the first ones are slower


def traced(batches: Iterator, workdir: Path, steps: int, log: Callable[[str], Any]) -> Iterator:
    """Yields `batches`; meanwhile traces `steps` steps into `workdir`, or all that are left."""
    yield from islice(batches, WARM_UP)
    jax.profiler.start_trace(workdir / FOLDER, create_perfetto_trace=True)
    try:
        # When a batch is asked for, the step of STEPS_IN_FLIGHT + 1 batches ago has finished.
        yield from islice(batches, steps + STEPS_IN_FLIGHT)
    finally:
        jax.profiler.stop_trace()
        log(f"wrote a trace of {steps} steps to {workdir / FOLDER}")
    yield from batches
