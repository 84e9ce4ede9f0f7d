"""Each program of a training run is compiled once, the steps of all phases before the first."""

import dataclasses

import jax
import pytest

from glinpaint_jax.config import PhasesConfig
from glinpaint_jax.runs.progress import Progress
from glinpaint_jax.training import loop

COMPILED = "/jax/core/compile/backend_compile_duration"  # cache hits on disk too


@pytest.fixture
def compiled():
    """The names of the programs compiled so far, in any thread."""
    names = []

    def listen(event, duration, **details):
        if event == COMPILED:
            names.append(details["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_every_program_is_compiled_once(compiled, step_config, tmp_path, monkeypatch):
    config = dataclasses.replace(
        step_config,
        eval_every=2,
        checkpoint_every=2,
        # Steps 1 to 4: completion; 5, 6, 7 and 9: discriminator; 8 and 10: joint.
        phases=PhasesConfig(completion_end=3, discriminator_end=5, disc_step=2),
    )
    names_by_step = {}

    class CountingProgress(Progress):
        def add(self, step, phase, metrics):
            super().add(step, phase, metrics)
            names_by_step[step] = compiled.copy()
            compiled.clear()

    monkeypatch.setattr(loop, "Progress", CountingProgress)
    loop.train(config.validate(), tmp_path)

    assert len(names_by_step) == config.num_steps == 10
    assert compiled == []  # nothing since the last step: not by the last evaluation and save
    steps = [name for name in names_by_step.pop(1) if name.endswith("_step)")]
    assert sorted(steps) == [
        "jit(completion_step)",
        "jit(discriminator_step)",
        "jit(joint_step)",
    ]
    assert "jit(complete_pixels)" in names_by_step.pop(3)  # after the first evaluation
    assert not any(names_by_step.values()), names_by_step
