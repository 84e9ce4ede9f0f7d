import pytest

from glinpaint_jax.config import PhasesConfig
from glinpaint_jax.training.phases import Phase, phase_at, phases_between, stage_at


def mmagic_updates(completion_end, discriminator_end, disc_step, steps):
    """The networks that GLInpaintor.train_step updates in each step, using its own counters."""
    count, updates = 0, []
    for step in range(steps):
        updated = set()
        if step > completion_end:
            updated.add("discriminator")
            count = (count + 1) % disc_step
            if count != 0 or step <= discriminator_end:
                updates.append(updated)
                continue
        updated.add("generator")
        updates.append(updated)
    return updates


@pytest.mark.parametrize("disc_step", [1, 2, 3])
def test_phases_update_what_mmagic_updates(disc_step):
    phases = PhasesConfig(completion_end=4, discriminator_end=7, disc_step=disc_step)
    networks = {
        Phase.COMPLETION: {"generator"},
        Phase.DISCRIMINATOR: {"discriminator"},
        Phase.JOINT: {"generator", "discriminator"},
    }
    got = [networks[phase_at(step, phases)] for step in range(20)]
    assert got == mmagic_updates(4, 7, disc_step, 20)


def test_stages_do_not_alternate_and_phases_are_listed_once():
    phases = PhasesConfig(completion_end=1, discriminator_end=3, disc_step=3)
    assert [phase_at(step, phases).value[0] for step in range(12)] == list("ccddjddjddjd")
    assert [stage_at(step, phases).value[0] for step in range(12)] == list("ccddjjjjjjjj")
    assert phases_between(0, 12, phases) == list(Phase)
    assert phases_between(5, 7, phases) == [Phase.DISCRIMINATOR]
