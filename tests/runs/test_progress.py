import math
import re

import jax.numpy as jnp
import pytest

from glinpaint_jax.config import PhasesConfig
from glinpaint_jax.errors import UserError
from glinpaint_jax.runs import progress as progress_module
from glinpaint_jax.runs.progress import STEPS_IN_FLIGHT, Progress, advise
from glinpaint_jax.runs.report import Reporter
from tests.helpers.configs import make_small_config


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, in seconds."""
    times = {"now": 0.0}
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: times["now"])
    return times


class Recorder(Reporter):
    """Keeps what it gets: the means of each interval and lines."""

    def __init__(self):
        self.records, self.lines = [], []

    def train(self, *means, **speed):
        self.records.append((*means, speed))

    def log(self, line):
        self.lines.append(line)


def losses(**values):
    return {name: jnp.asarray(value) for name, value in ({"skipped": 0.0} | values).items()}


def make_progress(**changes):
    recorder = Recorder()
    progress = Progress(recorder, make_small_config(**changes), lambda step: f"images of {step}")
    return progress, recorder


def test_means_and_speed_of_each_interval(clock):
    progress, recorder = make_progress(log_every=2)
    for step, loss in enumerate([1.0, 3.0, 10.0, 20.0], start=1):
        clock["now"] = float(step)
        progress.add(step, "completion", losses(l1=loss))
    assert [record[0] for record in recorder.records] == [2]  # step 4 is still in flight
    clock["now"] = 5.0
    progress.close()
    # Two steps of 8 images each; step 2 was fetched at 4 s, step 4 at 5 s.
    assert recorder.records == [
        (2, "completion", {"l1": 2.0}, {"images_per_second": 16 / 4, "left": 8 * 4 / 2}),
        (4, "completion", {"l1": 15.0}, {"images_per_second": 16 / 1, "left": 6 * 1 / 2}),
    ]


def test_pauses_are_excluded_from_the_speed(clock):
    progress, recorder = make_progress(log_every=1)
    clock["now"] = 2.0
    progress.add(1, "completion", losses())
    with pytest.raises(InterruptedError), progress.paused():
        assert len(recorder.records) == 1  # steps before the pause are reported before it
        clock["now"] = 100.0
        raise InterruptedError  # still excluded
    progress.add(2, "completion", losses())
    clock["now"] = 104.0
    progress.close()
    assert [record[-1]["images_per_second"] for record in recorder.records] == [4.0, 2.0]


def test_losses_are_averaged_over_their_steps_without_skipped_ones(clock):
    progress, recorder = make_progress(log_every=100, num_steps=4)
    clock["now"] = 1.0
    for step, (loss, skipped) in enumerate([(2.0, 0.0), (math.nan, 1.0), (4.0, 0.0)], start=1):
        progress.add(step, "completion", losses(l1=loss, skipped=skipped))
    progress.add(4, "discriminator", losses(real=6.0))
    with progress.paused():  # the last losses come before the last evaluation
        means = {"l1": 3.0, "real": 6.0, "skipped": 1.0}
        assert recorder.records[0][:3] == (4, "discriminator", means)
    expected = "step 2: update skipped, 1 in a row; not finite: l1 nan; images of 2"
    assert recorder.lines == [expected]


@pytest.mark.parametrize(
    ("step", "own_rate", "advice"),
    [
        (40, 0.0, "rate=0.0002. A new run .*completion_end=60 .*discriminator_end=160"),
        (150, 0.0, "completion_end=0 --config.phases.discriminator_end=50"),
        (900, 1e-5, "rate=0.0002 .*discriminator_learning_rate=5e-06. .*end=0 .*end=0"),
    ],
)
def test_advice_fits_the_phase(step, own_rate, advice):
    config = make_small_config(phases=PhasesConfig(100, 200))
    config.optimizer.discriminator_learning_rate = own_rate
    found = advise(config, step)
    assert found.startswith("rerun the command with --accept-changed-config --config.optimizer.")
    assert re.search(advice, found)


FINITE, BROKEN = losses(l1=0.5), losses(l1=math.nan, skipped=1.0)


@pytest.mark.parametrize("ending", [False, True])
def test_too_many_skipped_updates_in_a_row_end_the_run(ending):
    progress, _ = make_progress(max_skipped_updates=3, log_every=100)
    following = [] if ending else [FINITE] * STEPS_IN_FLIGHT
    with pytest.raises(UserError, match="3 updates in a row were not finite, the last at step 6"):
        for step, metrics in enumerate([*[BROKEN] * 2, FINITE, *[BROKEN] * 3, *following], 1):
            progress.add(step, "completion", metrics)
        assert ending
        progress.close()
