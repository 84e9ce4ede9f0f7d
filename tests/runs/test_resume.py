"""Every kind of damage to a checkpoint, and every change between two starts of a run."""

import copy
import dataclasses
import re
import shutil

import jax
import pytest

from glinpaint_jax.config import get_value, set_value
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import MANIFEST_NAME
from glinpaint_jax.parallel import replicated
from glinpaint_jax.runs import resume as resume_module
from glinpaint_jax.runs.checkpoints import NEWEST, Checkpoints
from glinpaint_jax.runs.resume import check_config_changes, describe_source, recover_newest_step
from glinpaint_jax.step_folders import FOLDER
from glinpaint_jax.training.state import abstract_state
from glinpaint_jax.weights import load_weights
from tests.helpers.configs import make_small_config
from tests.helpers.sources import Numbered


@pytest.fixture(scope="module")
def saved(initial_state, step_config, mesh1, tmp_path_factory):
    """A workdir with steps 3 and 5, as a run leaves it."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(workdir, step_config, print)
    for step in (3, 5):
        state = jax.device_put(initial_state, replicated(mesh1))
        data = {"examples": 8 * step} | describe_source(Numbered(7))
        checkpoints.save(state, step, data, {"phase": "joint", "l1": float(step)})
    checkpoints.finish()
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def files(step_path):
    return sorted(path for path in step_path.rglob("*") if path.is_file())


def damaged_in(workdir):
    return sorted((workdir / FOLDER).glob("damaged-*"))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def test_a_step_with_one_damaged_file_is_set_aside_and_the_previous_one_used(workdir):
    newest = workdir / FOLDER / "5"
    names = [path.relative_to(newest) for path in files(newest) if path.stat().st_size]
    assert len(names) > 10
    for name in names:
        original = (newest / name).read_bytes()
        flip(newest / name)
        said = []
        assert recover_newest_step(workdir, said.append) == 3, name
        (aside,) = damaged_in(workdir)
        assert len(said) == 1 and "checkpoint 5 is damaged" in said[0] and str(aside) in said[0]
        if name.name != MANIFEST_NAME:
            assert str(name) in said[0]
        # Nothing was deleted: with the file restored, the step is complete again.
        aside.rename(newest)
        (newest / name).write_bytes(original)
        before = files(workdir)
        assert recover_newest_step(workdir, pytest.fail) == 5
        assert files(workdir) == before


def test_a_damaged_older_step_is_set_aside_so_that_saves_succeed(workdir):
    """Orbax reads the scores of all steps before it saves."""
    (workdir / FOLDER / "3" / "metrics" / "metrics").write_text("{")
    assert recover_newest_step(workdir, (said := []).append) == 5
    assert len(said) == 1 and "checkpoint 3 is damaged: metrics/metrics" in said[0]
    checkpoints = Checkpoints(workdir, make_small_config(), pytest.fail)
    checkpoints.save({"weights": jax.numpy.zeros(4)}, 8, {})
    checkpoints.finish()
    assert recover_newest_step(workdir, pytest.fail) == 8


def test_an_interrupted_save_and_a_step_without_manifest_are_set_aside(workdir):
    temporary = workdir / FOLDER / "8.orbax-checkpoint-tmp"
    shutil.copytree(workdir / FOLDER / "3", temporary)
    (workdir / FOLDER / "5" / MANIFEST_NAME).unlink()  # killed between orbax's last write and ours
    said = []
    assert recover_newest_step(workdir, said.append) == 3
    assert "its save was interrupted" in said[1] and "written last" in said[0]
    five, eight = damaged_in(workdir)
    assert five.name.startswith("damaged-5-") and eight.name.startswith("damaged-8-")
    assert recover_newest_step(workdir, pytest.fail) == 3  # nothing more to do
    checkpoints = Checkpoints(workdir, make_small_config(), pytest.fail)
    checkpoints.save({"weights": jax.numpy.zeros(4)}, 8, {})
    checkpoints.finish()
    assert recover_newest_step(workdir, pytest.fail) == 8
    assert damaged_in(workdir) == [five, eight]


@pytest.mark.parametrize("how", ["all damaged", "emptied", "no folder"])
def test_a_run_without_a_complete_step_is_not_restarted(how, workdir):
    damages = "it is empty"
    if how == "all damaged":
        damages = "5: state/manifest.ocdbt .*; 3: state/manifest.ocdbt "
        for step in ("3", "5"):
            flip(workdir / FOLDER / step / "state" / "manifest.ocdbt")
    else:
        shutil.rmtree(workdir / FOLDER)
        if how == "emptied":
            (workdir / FOLDER).mkdir()
    before = files(workdir)
    with pytest.raises(UserError, match=rf"no checkpoint in .* is complete \({damages}"):
        recover_newest_step(workdir, pytest.fail)
    assert files(workdir) == before  # nothing is touched, so the run can be repaired


@pytest.mark.parametrize("moment", ["writing", "before the manifest"])
def test_a_run_killed_in_its_first_save_starts_again(moment, workdir):
    (workdir / NEWEST).write_text("0\n")
    shutil.rmtree(workdir / FOLDER / "3")
    if moment == "writing":
        (workdir / FOLDER / "5").rename(workdir / FOLDER / "5.orbax-checkpoint-tmp")
    else:
        (workdir / FOLDER / "5" / MANIFEST_NAME).unlink()
    assert recover_newest_step(workdir, (said := []).append) is None
    assert len(said) == 1


def test_a_wrong_record_of_the_newest_step_is_corrected_or_named(workdir):
    for content in (b"0\n", b"\xff"):  # the first: killed after the first manifest
        (workdir / NEWEST).write_bytes(content)
        assert recover_newest_step(workdir, pytest.fail) == 5
        assert (workdir / NEWEST).read_text() == "5\n"
    (workdir / NEWEST).unlink()
    (workdir / NEWEST).mkdir()
    with pytest.raises(UserError, match=f"cannot read .*{NEWEST}: Is a directory"):
        recover_newest_step(workdir, pytest.fail)


@pytest.fixture
def resume(workdir, step_config, mesh1):
    """A function that restores step 5 with a changed config or source."""

    def resume(log=pytest.fail, source=Numbered(7), config=step_config, **options):  # noqa: B008
        abstract = abstract_state(step_config, mesh1)
        resume_module.restore(workdir, 5, config, source, abstract, log, **options)

    return resume


def test_changed_images_are_accepted_only_if_asked_and_a_source_may_move(resume, step_config):
    renamed = Numbered(7)
    renamed.fingerprint = lambda: "other names"
    for source, change in {
        renamed: "has 7 training images, as before, but their names differ",
        Numbered(8): "has 8 training images, but the run began with 7",
    }.items():
        with pytest.raises(UserError, match=f"{change}, .*pass --accept-changed-data"):
            resume(source=source)
    said = []
    resume(said.append, source, accepted=["data"])
    assert change in said[0]
    elsewhere = dataclasses.replace(step_config.data, source="folder:/elsewhere")
    resume(said.append, config=dataclasses.replace(step_config, data=elsewhere))
    assert "was photos, is folder:/elsewhere" in said[1]


def test_config_changes_that_affect_the_result_are_rejected(resume, step_config):
    changed = dataclasses.replace(step_config, log_every=7)
    resume(config=changed)  # log_every may change
    changed.optimizer = dataclasses.replace(changed.optimizer, learning_rate=1.0)
    changed.global_batch_size = 16
    found = "global_batch_size (8 -> 16), optimizer.learning_rate (0.004 -> 1.0)"
    with pytest.raises(UserError, match=r"config: " + re.escape(found) + "; pass .*") as error:
        resume(config=changed)
    assert "--accept-changed-config" in str(error.value) and "init_from" in str(error.value)
    resume((said := []).append, config=changed, accepted=["config"])
    assert said == [f"config changed: {found}; going on, as --accept-changed-config says"]


@pytest.mark.parametrize("path", [*resume_module.FIXED_FIELDS, "ema_decay"])
def test_what_shapes_the_state_or_the_stream_never_changes(path, resume, step_config):
    """`step_config` averages the weights; no longer to do so would change the state."""
    others = {"output": "sigmoid", "base": "smooth", "padding": "fill", "name": "adadelta"}
    others["crop"] = "resize_then_crop"
    changed, old = copy.deepcopy(step_config), get_value(step_config, path)
    new = others.get(path.split(".")[-1])
    set_value(changed, path, new or (0.0 if path == "ema_decay" else type(old)(4 * (old + 1))))
    with pytest.raises(UserError, match=f"cannot resume with another {path} .*init_from"):
        resume(config=changed, accepted=["config"])


def test_num_steps_may_change_only_without_a_schedule(step_config):
    check_config_changes(step_config, dataclasses.replace(step_config, num_steps=99))
    optimizer = dataclasses.replace(step_config.optimizer, schedule="cosine")
    saved = dataclasses.replace(step_config, optimizer=optimizer)
    with pytest.raises(UserError, match="num_steps"):
        check_config_changes(saved, dataclasses.replace(saved, num_steps=99))


def test_loading_weights_skips_damaged_steps(workdir):
    flip(workdir / FOLDER / "5" / "state" / "manifest.ocdbt")
    with pytest.warns(UserWarning, match=r"5 is damaged: state/manifest\.ocdbt .* using step 3"):
        assert load_weights(workdir).step == 3
    with pytest.raises(UserError, match="5 is damaged"):
        load_weights(workdir / FOLDER / "5")
    flip(workdir / FOLDER / "3" / "_CHECKPOINT_METADATA")
    with pytest.raises(UserError, match=r"no checkpoint in .* is complete: .*5 .*3 "):
        load_weights(workdir)
