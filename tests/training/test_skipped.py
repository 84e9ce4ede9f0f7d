import jax.numpy as jnp
import pytest

from glinpaint_jax.errors import UserError
from glinpaint_jax.runs.progress import STEPS_IN_FLIGHT
from glinpaint_jax.training.skipped import SkippedUpdates
from tests.conftest import make_small_config
from tests.data.test_pipeline import Numbered, numbers, take

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
