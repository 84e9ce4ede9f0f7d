import math

import jax.numpy as jnp
import pytest

from glinpaint_jax.errors import UserError
from glinpaint_jax.runs import progress as interval_module
from glinpaint_jax.runs.progress import STEPS_IN_FLIGHT, Interval, SkippedUpdates
from glinpaint_jax.runs.report import Reporter
from glinpaint_jax.training.phases import Phase
from tests.helpers.configs import make_small_config
from tests.helpers.sources import Numbered, numbers, take


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    times = {"now": 0.0}
    monkeypatch.setattr(interval_module.time, "perf_counter", lambda: times["now"])
    return times


@pytest.fixture
def records(monkeypatch):
    found = []
    monkeypatch.setattr(
        Reporter, "train", lambda self, *means, **speed: found.append((*means, speed))
    )
    return found


def losses(**values):
    return {name: jnp.asarray(value) for name, value in ({"skipped": 0.0} | values).items()}


def make_interval(tmp_path, log_every):
    config = make_small_config(log_every=log_every)
    return Interval(Reporter(tmp_path, 0, 10, active=False), config)


def test_means_and_speed_of_each_interval(tmp_path, clock, records):
    interval = make_interval(tmp_path, 2)
    for step, loss in enumerate([1.0, 3.0, 10.0, 20.0], start=1):
        clock["now"] = float(step)
        interval.add(step, Phase.COMPLETION, losses(l1=loss))
    assert [record[0] for record in records] == [2]  # 4 waits for a step after it
    interval.close()
    assert [(step, phase, means) for step, phase, means, _ in records] == [
        (2, "completion", {"l1": 2.0}),
        (4, "completion", {"l1": 15.0}),
    ]
    # Two steps of 8 images: fetched at 3 s, the rest at 4 s.
    assert [speed["images_per_second"] for *_, speed in records] == [16 / 3, 16 / 1]
    assert [speed["seconds_left"] for *_, speed in records] == [8 * 3 / 2, 6 * 1 / 2]


def test_pauses_do_not_count(tmp_path, clock, records):
    interval = make_interval(tmp_path, 1)
    interval.add(1, Phase.COMPLETION, losses())
    clock["now"] = 2.0
    with interval.paused():
        clock["now"] = 100.0
    interval.add(2, Phase.COMPLETION, losses())
    clock["now"] = 104.0
    interval.close()
    rates = [(record[0], record[-1]["images_per_second"]) for record in records]
    assert rates == [(1, 4.0), (2, 2.0)]


def test_losses_of_two_phases_are_averaged_apart(tmp_path, clock, records):
    interval = make_interval(tmp_path, 10)
    clock["now"] = 1.0
    interval.add(1, Phase.COMPLETION, losses(l1=4.0))
    interval.add(2, Phase.DISCRIMINATOR, losses(real=6.0))
    interval.close()
    assert records[0][:3] == (2, "discriminator", {"l1": 4.0, "real": 6.0})
    assert interval.phases == {Phase.COMPLETION, Phase.DISCRIMINATOR}


def test_skipped_updates_are_counted_and_not_averaged(tmp_path, clock, records):
    interval = make_interval(tmp_path, 3)
    clock["now"] = 1.0
    for step, (loss, skipped) in enumerate([(2.0, 0.0), (math.nan, 1.0), (4.0, 0.0)], start=1):
        interval.add(step, Phase.COMPLETION, losses(l1=loss, skipped=skipped))
    interval.close()
    assert records[0][:3] == (3, "completion", {"l1": 3.0, "skipped": 1.0})


FINE = {"l1_hole": jnp.asarray(0.5), "skipped": jnp.asarray(0.0)}
BROKEN = {"l1_hole": jnp.asarray(jnp.nan), "skipped": jnp.asarray(1.0)}


@pytest.fixture
def config():
    return make_small_config(global_batch_size=4, max_skipped_updates=3)


def test_a_skipped_update_is_named_with_its_images(config):
    source, said = Numbered(50), []
    skipped = SkippedUpdates(config, source, said.append)
    for step, metrics in enumerate([FINE, BROKEN, FINE, FINE], start=1):
        skipped.add(step, metrics)
    skipped.close()
    (line,) = said
    # The second batch, as the pipeline made it.
    fed = numbers(take(source, config, 2)[1:])
    assert (
        f"step 2: update skipped, 1 in a row; not finite: l1_hole nan; images: records {fed}"
        in (line)
    )
    assert line.endswith(f"the first image {fed[0]}")


def test_many_in_a_row_end_the_run_and_few_do_not(config):
    skipped = SkippedUpdates(config, Numbered(50), lambda _: None)
    for step, metrics in enumerate([BROKEN, BROKEN, FINE, BROKEN, BROKEN], start=1):
        skipped.add(step, metrics)
    skipped.add(6, BROKEN)
    with pytest.raises(UserError, match="3 updates in a row were not finite, the last at step 6"):
        for step in range(7, 7 + STEPS_IN_FLIGHT):
            skipped.add(step, FINE)


def test_the_last_ones_are_judged_too(config):
    skipped = SkippedUpdates(config, Numbered(50), lambda _: None)
    skipped.add(1, BROKEN)
    skipped.add(2, BROKEN)
    skipped.close()
    with pytest.raises(UserError, match="last at step 3"):
        skipped.add(3, BROKEN)
        skipped.close()
