"""Saving: what is written, kept and deleted, also if a save fails."""

import errno
import json
import shutil
import threading

import jax
import numpy as np
import pytest

from glinpaint_jax.errors import UserError
from glinpaint_jax.files import find_damage, write_manifest
from glinpaint_jax.parallel import replicated
from glinpaint_jax.runs import checkpoints as checkpoints_module
from glinpaint_jax.runs.checkpoints import NEWEST, Checkpoints
from glinpaint_jax.runs.resume import describe_source, recover_newest_step, restore
from glinpaint_jax.step_folders import FOLDER, steps_in
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import abstract_state
from tests.helpers.configs import make_small_config
from tests.helpers.programs import assert_same_state
from tests.helpers.sources import Numbered

IMAGES = 7


def fail(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def saving(tmp_path):
    """A function that saves a small state as a step, its `Checkpoints`, and their warnings."""
    warnings = []
    checkpoints = Checkpoints(tmp_path, make_small_config(max_failed_saves=3), warnings.append)

    def save(step, metrics=None):
        state = jax.device_put({"weights": np.arange(4.0)})
        checkpoints.save(state, step, {"images": IMAGES}, metrics)
        state["weights"].delete()  # as the next step does, which donates it

    yield save, checkpoints, warnings
    checkpoints.close()


def test_restored_state_is_bitwise_equal_on_any_number_of_devices(
    initial_state, step_config, mesh8, mesh1, tmp_path
):
    numbered = initial_state.replace(step=np.asarray(3, np.int32))
    metrics = {"phase": "completion", "l1": 5.0, "psnr": 20.0, "ssim": 0.5}
    placed = jax.device_put(numbered, replicated(mesh8))
    source = Numbered(IMAGES)
    checkpoints = Checkpoints(tmp_path, step_config, pytest.fail)
    saved = {"examples": 24, "changes": []} | describe_source(source)
    checkpoints.save(placed, 3, saved, metrics)
    checkpoints.finish()
    written = json.loads((tmp_path / FOLDER / "3" / "metrics" / "metrics").read_text())
    assert written == metrics

    for mesh in (mesh8, mesh1):
        abstract = abstract_state(step_config, mesh)
        state, data = restore(tmp_path, 3, step_config, source, abstract, pytest.fail)
        assert data == saved
        kernel = state.generator.params["encoder"]["enc1"]["conv"]["kernel"]
        assert len(kernel.devices()) == mesh.devices.size
        assert_same_state(state, numbered)


def test_training_goes_on_while_a_save_is_completed(saving, tmp_path, monkeypatch):
    save, checkpoints, _ = saving
    trained = threading.Event()

    def seal(folder):
        assert trained.wait(60)
        write_manifest(folder)

    monkeypatch.setattr(checkpoints_module, "write_manifest", seal)
    save(1)
    assert (tmp_path / NEWEST).read_text() == "0\n"
    trained.set()
    checkpoints.finish()
    assert recover_newest_step(tmp_path, pytest.fail) == 1


METRICS = {  # of each step that is evaluated
    1: {"phase": "completion", "l1": 2.0, "psnr": 30.0},
    2: {"phase": "completion", "l1": 1.0, "psnr": 40.0},
    4: {"phase": "joint", "l1": 6.0, "psnr": 21.0},
    5: {"phase": "joint", "l1": 4.0, "psnr": 22.0},
    6: {"phase": "joint", "l1": 5.0, "psnr": 23.0},
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
    last, best_by, keep_every, kept, saving, tmp_path, monkeypatch
):
    save, checkpoints, warnings = saving
    config = make_small_config(best_by=best_by, keep_every=keep_every)
    monkeypatch.setattr(checkpoints, "_config", config)
    for step in range(1, last + 1):
        save(step, METRICS.get(step))
    checkpoints.finish()
    assert warnings == [] and steps_in(tmp_path) == kept
    assert [find_damage(tmp_path / FOLDER / str(step)) for step in kept] == [None] * len(kept)
    assert (tmp_path / NEWEST).read_text() == f"{last}\n"


def test_phases_that_follow_each_other_are_in_alphabetical_order():
    """`Checkpoints` ranks steps by the names of their phases."""
    names = [phase.value for phase in Phase]
    assert names == sorted(names)


@pytest.mark.parametrize("failing", ["write_manifest", "open_manager"])
def test_failed_saves_leave_nothing_and_a_complete_step(failing, saving, tmp_path, monkeypatch):
    """A save that fails in the background causes a warning at the next one."""
    save, checkpoints, warnings = saving
    for step in (1, 2):
        save(step)
    checkpoints.wait()
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints_module, failing, fail)
        for step in (3, 4):
            save(step)
            assert len(warnings) == step - 3 + (failing == "open_manager")
        checkpoints.wait()
    for step, warning in zip((3, 4), warnings, strict=True):
        reason = "No space left on device; failed save"
        assert f"cannot save step {step} in {tmp_path / FOLDER}: {reason}" in warning
    assert recover_newest_step(tmp_path, pytest.fail) == 2
    save(5)  # a success in between
    checkpoints.wait()
    monkeypatch.setattr(checkpoints_module, failing, fail)
    with pytest.raises(UserError, match="failed save 3 in a row, of 3 allowed"):
        for step in (6, 7, 8):
            save(step)
        checkpoints.wait()
    assert len(warnings) == 4
    assert recover_newest_step(tmp_path, pytest.fail) == 5  # nothing had to be set aside
    assert (tmp_path / NEWEST).read_text() == "5\n"


def test_a_failed_save_keeps_a_step_of_that_number(saving, tmp_path):
    """Another run wrote it."""
    save, checkpoints, warnings = saving
    save(1)
    checkpoints.wait()
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


def test_closing_only_warns_of_a_failed_save(saving, tmp_path, monkeypatch):
    """test_many_hosts.py shows that `finish` raises."""
    save, checkpoints, warnings = saving
    monkeypatch.setattr(checkpoints_module, "write_manifest", fail)
    save(1)
    checkpoints.close()
    assert warnings == [f"cannot save step 1 in {tmp_path / FOLDER}: No space left on device"]
