import dataclasses
import errno
import json

import jax
import numpy as np
import pytest

from glinpaint_jax.config import OptimizerConfig
from glinpaint_jax.errors import UserError
from glinpaint_jax.parallel import replicated
from glinpaint_jax.runs import checkpoints as checkpoints_module
from glinpaint_jax.runs.checkpoints import Checkpoints, delete_superseded
from glinpaint_jax.runs.resume import recover_newest_step, restore
from glinpaint_jax.step_folders import FOLDER, steps_in
from glinpaint_jax.training.state import abstract_state
from tests.helpers.sources import Numbered

IMAGES = 7


def numbered(state, step):
    return state.replace(step=np.asarray(step, np.int32))


def leaves(state):
    """All leaves as arrays, with PRNG keys as raw bits."""
    state = state.replace(rng=jax.random.key_data(state.rng))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def save(checkpoints, state, config, mesh, step, scores=None, phase="completion"):
    placed = jax.device_put(numbered(state, step), replicated(mesh))
    checkpoints.save(placed, config, step, IMAGES, phase, scores)


def restore_step(workdir, config, mesh, step=1, images=IMAGES, say=pytest.fail):
    return restore(workdir, step, config, Numbered(images), abstract_state(config, mesh), say)


def open_checkpoints(workdir, max_failed_saves=1):
    """Returns the checkpoints and the list of their warnings."""
    warnings = []
    return Checkpoints(workdir, warnings.append, max_failed_saves), warnings


@pytest.mark.parametrize("target", ["mesh8", "mesh1"])
def test_restored_state_is_bitwise_equal_on_any_number_of_devices(
    target, request, initial_state, step_config, mesh8, tmp_path
):
    checkpoints, _ = open_checkpoints(tmp_path)
    save(checkpoints, initial_state, step_config, mesh8, 3)
    checkpoints.close()
    mesh = request.getfixturevalue(target)
    state, examples = restore_step(tmp_path, step_config, mesh, 3)
    assert examples == 3 * step_config.global_batch_size
    assert len(state.generator.params["encoder"]["enc1"]["conv"]["kernel"].devices()) == (
        mesh.devices.size
    )
    for a, b in zip(leaves(state), leaves(numbered(initial_state, 3)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_last_two_and_the_best_are_kept(initial_state, step_config, mesh1, tmp_path):
    checkpoints, _ = open_checkpoints(tmp_path)
    for step, l1 in ((1, 9.0), (2, 5.0), (3, None), (4, 7.0), (5, None), (6, 8.0)):
        scores = None if l1 is None else {"l1": l1, "psnr": 20.0, "ssim": 0.5}
        save(checkpoints, initial_state, step_config, mesh1, step, scores)
        if step == 3:  # a resumed run still knows its best step
            checkpoints.close()
            checkpoints, _ = open_checkpoints(tmp_path)
    checkpoints.close()
    assert steps_in(tmp_path) == [2, 5, 6]
    parts = {path.name for path in (tmp_path / FOLDER / "2").iterdir() if path.is_dir()}
    assert {"state", "config", "data", "metrics"} <= parts
    written = json.loads((tmp_path / FOLDER / "2" / "metrics" / "metrics").read_text())
    assert written == {"phase": "completion", "l1": 5.0, "psnr": 20.0, "ssim": 0.5}


def write_steps(workdir, scores):
    """Steps with only their metrics: {step: (phase, l1, psnr)}, or None if not evaluated."""
    for step, values in scores.items():
        metrics = workdir / FOLDER / str(step) / "metrics"
        metrics.mkdir(parents=True)
        if values is not None:
            content = dict(zip(("phase", "l1", "psnr"), values, strict=True))
            (metrics / "metrics").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("best_by", "keep_every", "kept"),
    [
        # The reconstruction phase has the lowest l1, but step 5 is the best of the joint phase.
        ("l1", 0, [5, 8, 9]),
        ("psnr", 0, [6, 8, 9]),
        ("ssim", 0, [8, 9]),  # never written
        ("l1", 3, [3, 5, 6, 8, 9]),
    ],
)
def test_the_best_of_the_last_phase_and_milestones_are_kept(best_by, keep_every, kept, tmp_path):
    scores = {
        1: ("completion", 2.0, 30.0),
        2: ("completion", 1.0, 40.0),
        3: None,
        4: ("joint", 6.0, 21.0),
        5: ("joint", 4.0, 22.0),
        6: ("joint", 5.0, 23.0),
        7: None,
        8: None,
        9: None,
    }
    write_steps(tmp_path, scores)
    delete_superseded(tmp_path, keep_every, best_by)
    assert steps_in(tmp_path) == kept


def test_the_best_stays_until_the_next_phase_is_evaluated(tmp_path):
    """Also in a run of a version that did not write phases."""
    write_steps(tmp_path, {1: (None, 3.0, 0.0), 2: (None, 9.0, 0.0), 3: None, 4: None})
    delete_superseded(tmp_path, 0, "l1")
    assert steps_in(tmp_path) == [1, 3, 4]
    write_steps(tmp_path, {5: ("joint", 7.0, 0.0)})
    delete_superseded(tmp_path, 0, "l1")
    assert steps_in(tmp_path) == [4, 5]


def test_config_changes_that_affect_the_result_are_rejected(
    initial_state, step_config, mesh1, tmp_path
):
    checkpoints, _ = open_checkpoints(tmp_path)
    save(checkpoints, initial_state, step_config, mesh1, 1)
    checkpoints.settle()
    changed = dataclasses.replace(step_config, log_every=7)
    restore_step(tmp_path, changed, mesh1)  # log_every may change
    changed.optimizer = OptimizerConfig(learning_rate=1.0)
    changed.global_batch_size = 16
    with pytest.raises(UserError) as error:
        restore_step(tmp_path, changed, mesh1)
    message = str(error.value)
    assert "global_batch_size (8 -> 16)" in message
    assert "optimizer.learning_rate (0.004 -> 1.0)" in message
    assert "log_every" not in message and "--workdir" in message
    checkpoints.close()


def test_num_steps_may_change_only_without_a_schedule(initial_state, step_config, mesh1, tmp_path):
    for schedule in ("constant", "cosine"):
        config = dataclasses.replace(step_config, optimizer=OptimizerConfig(schedule=schedule))
        (tmp_path / schedule).mkdir()
        checkpoints, _ = open_checkpoints(tmp_path / schedule)
        save(checkpoints, initial_state, config, mesh1, 1)
        checkpoints.close()
        config.num_steps += 10
        if schedule == "constant":
            restore_step(tmp_path / schedule, config, mesh1)
        else:
            with pytest.raises(UserError, match="num_steps"):
                restore_step(tmp_path / schedule, config, mesh1)


def test_a_source_may_move_but_not_grow(initial_state, step_config, mesh1, tmp_path):
    checkpoints, warnings = open_checkpoints(tmp_path)
    save(checkpoints, initial_state, step_config, mesh1, 1)
    checkpoints.close()
    elsewhere = dataclasses.replace(step_config.data, source="folder:/elsewhere")
    moved = dataclasses.replace(step_config, data=elsewhere)
    restore_step(tmp_path, moved, mesh1, say=warnings.append)
    assert "was photos, is folder:/elsewhere" in warnings[0]
    with pytest.raises(UserError, match=f"has {IMAGES + 1} training images, .* with {IMAGES}"):
        restore_step(tmp_path, moved, mesh1, images=IMAGES + 1)


@pytest.mark.parametrize("failing", ["write_manifest", "require_space"])
def test_failed_saves_leave_nothing_and_keep_complete_steps(
    failing, initial_state, step_config, mesh1, tmp_path, monkeypatch
):
    checkpoints, warnings = open_checkpoints(tmp_path, max_failed_saves=3)
    for step in (1, 2):
        save(checkpoints, initial_state, step_config, mesh1, step)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        checkpoints.settle()
        patched.setattr(checkpoints_module, failing, fail)
        for step in (3, 4):
            save(checkpoints, initial_state, step_config, mesh1, step)
        checkpoints.settle()
        assert [
            f"cannot save step {n} in {tmp_path / FOLDER}: No space" in w
            for n, w in zip((3, 4), warnings, strict=True)
        ] == [True, True]
        assert {path.name for path in (tmp_path / FOLDER).iterdir()} == {"1", "2"}
    save(checkpoints, initial_state, step_config, mesh1, 5)  # a success in between
    checkpoints.settle()
    monkeypatch.setattr(checkpoints_module, failing, fail)
    with pytest.raises(UserError, match="failed save 3 in a row, of 3 allowed"):
        for step in (6, 7, 8):
            save(checkpoints, initial_state, step_config, mesh1, step)
        checkpoints.settle()
    checkpoints.close()
    assert len(warnings) == 4
    assert {path.name for path in (tmp_path / FOLDER).iterdir()} == {"2", "5"}
    assert recover_newest_step(tmp_path, warnings.append) == 5


def test_a_step_stays_complete_if_cleaning_up_fails(
    initial_state, step_config, mesh1, tmp_path, monkeypatch
):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    checkpoints, warnings = open_checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints_module, "delete_superseded", fail)
    for step in (1, 2, 3):
        save(checkpoints, initial_state, step_config, mesh1, step)
    checkpoints.finish()
    checkpoints.close()
    assert all("Input/output error" in warning for warning in warnings) and len(warnings) == 3
    assert recover_newest_step(tmp_path, pytest.fail) == 3


def test_the_last_save_must_succeed(initial_state, step_config, mesh1, tmp_path, monkeypatch):
    checkpoints, warnings = open_checkpoints(tmp_path, max_failed_saves=3)
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    save(checkpoints, initial_state, step_config, mesh1, 1)
    with pytest.raises(UserError, match="the last step could not be saved"):
        checkpoints.finish()
    assert f"cannot save step 1 in {tmp_path / FOLDER}: File exists" in warnings[0]
    checkpoints.close()
