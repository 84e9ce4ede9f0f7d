import math

import jax.numpy as jnp
import pytest

from glinpaint_jax.errors import UserError
from glinpaint_jax.runs import progress as progress_module
from glinpaint_jax.runs.progress import STEPS_IN_FLIGHT, Progress
from glinpaint_jax.runs.report import Reporter
from tests.helpers.configs import make_small_config


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, in seconds."""
    times = {"now": 0.0}
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: times["now"])
    return times


@pytest.fixture
def records(monkeypatch):
    found = []
    monkeypatch.setattr(
        Reporter, "train", lambda self, *means, **speed: found.append((*means, speed))
    )
    return found


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(Reporter, "log", lambda self, line: lines.append(line))
    return lines


def losses(**values):
    return {name: jnp.asarray(value) for name, value in ({"skipped": 0.0} | values).items()}


def make_progress(tmp_path, **changes):
    reporter = Reporter(tmp_path, 0, 10, active=False)
    return Progress(reporter, make_small_config(**changes), lambda step: f"images of {step}")


def test_means_and_speed_of_each_interval(tmp_path, clock, records):
    progress = make_progress(tmp_path, log_every=2)
    for step, loss in enumerate([1.0, 3.0, 10.0, 20.0], start=1):
        clock["now"] = float(step)
        progress.add(step, "completion", losses(l1=loss))
    assert [record[0] for record in records] == [2]  # step 4 is still in flight
    clock["now"] = 5.0
    progress.close()
    assert [(step, phase, means) for step, phase, means, _ in records] == [
        (2, "completion", {"l1": 2.0}),
        (4, "completion", {"l1": 15.0}),
    ]
    # Two steps of 8 images each; step 2 was fetched at 4 s, step 4 at 5 s.
    assert [speed["images_per_second"] for *_, speed in records] == [16 / 4, 16 / 1]
    assert [speed["left"] for *_, speed in records] == [8 * 4 / 2, 6 * 1 / 2]


def test_pauses_are_excluded_from_the_speed(tmp_path, clock, records):
    progress = make_progress(tmp_path, log_every=1)
    clock["now"] = 2.0
    progress.add(1, "completion", losses())
    with progress.paused():
        assert len(records) == 1  # steps before the pause are reported before it
        clock["now"] = 100.0
    progress.add(2, "completion", losses())
    clock["now"] = 104.0
    progress.close()
    rates = [(record[0], record[-1]["images_per_second"]) for record in records]
    assert rates == [(1, 4.0), (2, 2.0)]


def test_losses_are_averaged_over_their_steps_without_skipped_ones(tmp_path, clock, records):
    progress = make_progress(tmp_path, log_every=4)
    clock["now"] = 1.0
    for step, (loss, skipped) in enumerate([(2.0, 0.0), (math.nan, 1.0), (4.0, 0.0)], start=1):
        progress.add(step, "completion", losses(l1=loss, skipped=skipped))
    progress.add(4, "discriminator", losses(real=6.0))
    progress.close()
    assert records[0][:3] == (4, "discriminator", {"l1": 3.0, "real": 6.0, "skipped": 1.0})


FINITE = {"l1_hole": jnp.asarray(0.5), "skipped": jnp.asarray(0.0)}
BROKEN = {"l1_hole": jnp.asarray(jnp.nan), "skipped": jnp.asarray(1.0)}
SKIPPING = {"global_batch_size": 4, "max_skipped_updates": 3, "log_every": 100}


def add_all(progress, metrics, start=1):
    for step, values in enumerate(metrics, start=start):
        progress.add(step, "completion", values)


def test_skipped_updates_are_reported_with_their_images(tmp_path, said):
    progress = make_progress(tmp_path, **SKIPPING)
    add_all(progress, [FINITE, BROKEN, FINITE, FINITE])
    progress.close()
    line, means = said
    assert line == "step 2: update skipped, 1 in a row; not finite: l1_hole nan; images of 2"
    assert means.endswith("l1_hole 0.5000  skipped 1.0000")


@pytest.mark.parametrize("ending", [False, True])
def test_too_many_skipped_updates_in_a_row_end_the_run(ending, tmp_path):
    progress = make_progress(tmp_path, **SKIPPING)
    add_all(progress, [BROKEN, BROKEN, FINITE, BROKEN, BROKEN, BROKEN])
    with pytest.raises(UserError, match="3 updates in a row were not finite, the last at step 6"):
        if ending:
            progress.close()
        else:
            add_all(progress, [FINITE] * STEPS_IN_FLIGHT, start=7)
