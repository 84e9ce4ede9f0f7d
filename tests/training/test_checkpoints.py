import dataclasses
import json

import jax
import numpy as np
import pytest

from glinpaint_jax.config import OptimizerConfig
from glinpaint_jax.errors import UserError
from glinpaint_jax.parallel import replicated
from glinpaint_jax.training.checkpoints import Checkpoints
from glinpaint_jax.weights import FOLDER


def numbered(state, step):
    return state.replace(step=np.asarray(step, np.int32))


def leaves(state):
    """As raw bits, for exact comparison, PRNG keys included."""
    state = state.replace(rng=jax.random.key_data(state.rng))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def save(checkpoints, state, config, mesh, step, l1=None):
    placed = jax.device_put(numbered(state, step), replicated(mesh))
    checkpoints.save(placed, config, step, l1)


@pytest.mark.parametrize("target", ["mesh8", "mesh1"])
def test_restored_state_is_bit_equal_on_any_number_of_devices(
    target, request, initial_state, step_config, mesh8, tmp_path
):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, initial_state, step_config, mesh8, 3)
    checkpoints.close()
    mesh = request.getfixturevalue(target)
    state, examples = Checkpoints(tmp_path).restore(step_config, mesh)
    assert examples == 3 * step_config.global_batch_size
    assert len(state.generator.params["encoder"]["enc1"]["conv"]["kernel"].devices()) == (
        mesh.devices.size
    )
    for a, b in zip(leaves(state), leaves(numbered(initial_state, 3)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_last_two_and_the_best_are_kept(initial_state, step_config, mesh1, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step, l1 in ((1, 9.0), (2, 5.0), (3, None), (4, 7.0), (5, None), (6, 8.0)):
        save(checkpoints, initial_state, step_config, mesh1, step, l1)
        if step == 3:  # a stopped run still knows its best step
            checkpoints.close()
            checkpoints = Checkpoints(tmp_path)
    checkpoints.close()
    kept = sorted(int(path.name) for path in (tmp_path / FOLDER).iterdir())
    assert kept == [2, 5, 6]
    parts = {path.name for path in (tmp_path / FOLDER / "2").iterdir() if path.is_dir()}
    assert {"state", "config", "data", "metrics"} <= parts
    assert json.loads((tmp_path / FOLDER / "2" / "metrics" / "metrics").read_text()) == {"l1": 5.0}


def test_changes_that_matter_are_refused_by_name(initial_state, step_config, mesh1, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, initial_state, step_config, mesh1, 1)
    changed = dataclasses.replace(step_config, log_every=7)
    checkpoints.restore(changed, mesh1)  # log_every may change
    changed.optimizer = OptimizerConfig(learning_rate=1.0)
    changed.global_batch_size = 16
    with pytest.raises(UserError) as error:
        checkpoints.restore(changed, mesh1)
    message = str(error.value)
    assert "global_batch_size (8 -> 16)" in message
    assert "optimizer.learning_rate (0.004 -> 1.0)" in message
    assert "log_every" not in message and "--workdir" in message
    checkpoints.close()


def test_more_steps_are_a_change_only_under_a_schedule(initial_state, step_config, mesh1, tmp_path):
    for schedule in ("constant", "cosine"):
        config = dataclasses.replace(step_config, optimizer=OptimizerConfig(schedule=schedule))
        checkpoints = Checkpoints(tmp_path / schedule)
        save(checkpoints, initial_state, config, mesh1, 1)
        config.num_steps += 10
        if schedule == "constant":
            checkpoints.restore(config, mesh1)
        else:
            with pytest.raises(UserError, match="num_steps"):
                checkpoints.restore(config, mesh1)
        checkpoints.close()
