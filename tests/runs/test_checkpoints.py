"""Saving: what is written, kept and deleted, also if a save fails."""

import errno
import json
import shutil

import jax
import numpy as np
import pytest

from glinpaint_jax.errors import UserError
from glinpaint_jax.files import find_damage
from glinpaint_jax.parallel import replicated
from glinpaint_jax.runs import checkpoints as checkpoints_module
from glinpaint_jax.runs.checkpoints import NEWEST, Checkpoints
from glinpaint_jax.runs.resume import recover_newest_step, restore
from glinpaint_jax.step_folders import FOLDER, steps_in
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import abstract_state
from tests.helpers.configs import make_small_config
from tests.helpers.sources import Numbered

IMAGES = 7


def fail(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def saving(tmp_path):
    """A function that saves a small state as a step, its `Checkpoints`, and their warnings."""
    warnings = []
    checkpoints = Checkpoints(tmp_path, warnings.append, max_failed_saves=3)

    def save(step, wait=True):
        state = jax.device_put({"weights": np.arange(4.0)})
        checkpoints.save(state, make_small_config(), step, IMAGES, "completion")
        checkpoints.check_last_save(wait=wait)

    yield save, checkpoints, warnings
    checkpoints.close()


def leaves(state):
    """All leaves as arrays, with PRNG keys as raw bits."""
    state = state.replace(rng=jax.random.key_data(state.rng))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize("target", ["mesh8", "mesh1"])
def test_restored_state_is_bitwise_equal_on_any_number_of_devices(
    target, request, initial_state, step_config, mesh8, tmp_path
):
    checkpoints = Checkpoints(tmp_path, pytest.fail)
    numbered = initial_state.replace(step=np.asarray(3, np.int32))
    scores = {"l1": 5.0, "psnr": 20.0, "ssim": 0.5}
    placed = jax.device_put(numbered, replicated(mesh8))
    checkpoints.save(placed, step_config, 3, IMAGES, "completion", scores)
    checkpoints.close()
    parts = {path.name for path in (tmp_path / FOLDER / "3").iterdir() if path.is_dir()}
    assert {"state", "config", "data", "metrics"} <= parts
    written = json.loads((tmp_path / FOLDER / "3" / "metrics" / "metrics").read_text())
    assert written == {"phase": "completion"} | scores

    mesh = request.getfixturevalue(target)
    abstract = abstract_state(step_config, mesh)
    state, examples = restore(tmp_path, 3, step_config, Numbered(IMAGES), abstract, pytest.fail)
    assert examples == 3 * step_config.global_batch_size
    assert len(state.generator.params["encoder"]["enc1"]["conv"]["kernel"].devices()) == (
        mesh.devices.size
    )
    for a, b in zip(leaves(state), leaves(numbered), strict=True):
        np.testing.assert_array_equal(a, b)


SCORES = {  # of each step: phase, l1, psnr; or not evaluated
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


@pytest.mark.parametrize(
    ("last", "best_by", "keep_every", "kept"),
    [
        (3, "l1", 0, [2, 3]),
        (4, "l1", 0, [3, 4]),
        # The reconstruction phase has the lowest l1, but step 5 is the best of the joint phase.
        (9, "l1", 0, [5, 8, 9]),
        (9, "psnr", 0, [6, 8, 9]),
        (9, "l1", 3, [3, 5, 6, 8, 9]),
    ],
)
def test_the_last_two_the_best_of_the_last_phase_and_milestones_are_kept(
    last, best_by, keep_every, kept, tmp_path
):
    config = make_small_config(best_by=best_by, keep_every=keep_every)
    state = jax.device_put({"weights": np.arange(4.0)})
    checkpoints = Checkpoints(tmp_path, pytest.fail)
    for step in range(1, last + 1):
        phase, *values = SCORES[step] or ("joint",)
        scores = dict(zip(("l1", "psnr"), values, strict=True)) if values else None
        checkpoints.save(state, config, step, IMAGES, phase, scores)
        if step == 6:  # a resumed run still knows its best step
            checkpoints.close()
            checkpoints = Checkpoints(tmp_path, pytest.fail)
    checkpoints.close()
    assert steps_in(tmp_path) == kept
    assert [find_damage(tmp_path / FOLDER / str(step)) for step in kept] == [None] * len(kept)
    assert (tmp_path / NEWEST).read_text() == f"{last}\n"


def test_phases_that_follow_each_other_are_in_alphabetical_order():
    """`Checkpoints` ranks steps by the names of their phases."""
    names = [phase.value for phase in Phase]
    assert names == sorted(names)


def test_the_best_of_an_earlier_version_stays_until_the_next_evaluation(tmp_path):
    """Those versions wrote no phase."""
    state = jax.device_put({"weights": np.arange(4.0)})
    for step, l1 in ((1, 3.0), (2, None), (3, None), (4, 9.0)):
        checkpoints = Checkpoints(tmp_path, pytest.fail)
        scores = None if l1 is None else {"l1": l1}
        checkpoints.save(state, make_small_config(), step, IMAGES, "joint", scores)
        checkpoints.close()
        if step == 1:
            (tmp_path / FOLDER / "1" / "metrics" / "metrics").write_text('{"l1": 3.0}')
        if step == 3:
            assert steps_in(tmp_path) == [1, 2, 3]
    assert steps_in(tmp_path) == [3, 4]


def test_a_step_is_complete_soon_after_it_is_written(saving, tmp_path):
    save, checkpoints, _ = saving
    save(1, wait=False)
    checkpoints._manager.wait_until_finished()
    checkpoints.check_last_save()
    assert find_damage(tmp_path / FOLDER / "1") is None


@pytest.mark.parametrize("failing", ["write_manifest", "require_space"])
def test_failed_saves_leave_nothing_and_a_complete_step(failing, saving, tmp_path, monkeypatch):
    save, _, warnings = saving
    for step in (1, 2):
        save(step)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints_module, failing, fail)
        for step in (3, 4):
            save(step)
        for step, warning in zip((3, 4), warnings, strict=True):
            reason = "No space left on device; failed save"
            assert f"cannot save step {step} in {tmp_path / FOLDER}: {reason}" in warning
        assert recover_newest_step(tmp_path, pytest.fail) == 2
    save(5)  # a success in between
    monkeypatch.setattr(checkpoints_module, failing, fail)
    with pytest.raises(UserError, match="failed save 3 in a row, of 3 allowed"):
        for step in (6, 7, 8):
            save(step)
    assert len(warnings) == 4
    assert recover_newest_step(tmp_path, pytest.fail) == 5  # nothing had to be set aside
    assert (tmp_path / NEWEST).read_text() == "5\n"


def test_a_failed_save_keeps_a_step_of_that_number(saving, tmp_path):
    """Another run wrote it."""
    save, _, warnings = saving
    save(1)
    path = tmp_path / FOLDER / "2"
    shutil.copytree(tmp_path / FOLDER / "1", path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    save(2)
    assert f"cannot save step 2 in {tmp_path / FOLDER}: it exists" in warnings[0]
    assert {file: file.read_bytes() for file in before} == before


def test_a_step_is_complete_even_if_old_ones_cannot_be_deleted(saving, tmp_path, monkeypatch):
    save, checkpoints, warnings = saving
    monkeypatch.setattr(shutil, "rmtree", fail)
    for step in (1, 2, 3):
        save(step)
    checkpoints.finish()
    assert warnings == [f"cannot delete old steps in {tmp_path / FOLDER}: No space left on device"]
    assert recover_newest_step(tmp_path, pytest.fail) == 3


def test_the_last_save_must_succeed(saving, tmp_path):
    save, checkpoints, warnings = saving
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    save(1)
    with pytest.raises(UserError, match="the last step could not be saved"):
        checkpoints.finish()
    assert f"cannot save step 1 in {tmp_path / FOLDER}: File exists" in warnings[0]
