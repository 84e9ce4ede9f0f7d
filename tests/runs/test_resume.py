"""Every kind of damage to a step directory."""

import shutil

import jax
import pytest

from glinpaint_jax.distributed import replicated
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import MANIFEST_NAME
from glinpaint_jax.runs.checkpoints import Checkpoints
from glinpaint_jax.runs.resume import NEWEST, SET_ASIDE, newest_whole_step
from glinpaint_jax.weights import FOLDER, load_weights


@pytest.fixture(scope="module")
def saved(initial_state, step_config, mesh1, tmp_path_factory):
    """A workdir with steps 3 and 5, as a run leaves it."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(workdir, print)
    for step in (3, 5):
        state = jax.device_put(initial_state, replicated(mesh1))
        checkpoints.save(state, step_config, step, 7, l1=float(step))
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def files(step_path):
    return sorted(path for path in step_path.rglob("*") if path.is_file())


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {"flip": flip, "truncate": truncate, "delete": lambda path: path.unlink()}


def test_whole_steps_are_left_alone(workdir):
    before = files(workdir)
    assert newest_whole_step(workdir, pytest.fail) == 5
    assert files(workdir) == before


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_step_with_one_damaged_file_is_set_aside_and_the_one_before_it_used(kind, workdir):
    newest, aside = workdir / FOLDER / "5", workdir / SET_ASIDE / "5"
    names = [path.relative_to(newest) for path in files(newest) if path.stat().st_size]
    assert len(names) > 10
    for name in names:
        original = (newest / name).read_bytes()
        DAMAGES[kind](newest / name)
        said = []
        assert newest_whole_step(workdir, said.append) == 3, name
        assert len(said) == 1 and "checkpoint 5 is not whole" in said[0] and str(aside) in said[0]
        if name.name != MANIFEST_NAME:
            assert str(name) in said[0]
        # Nothing was deleted: with the file as it was, the step is whole again.
        aside.rename(newest)
        (newest / name).write_bytes(original)
        assert newest_whole_step(workdir, pytest.fail) == 5


def test_an_interrupted_save_and_a_step_without_manifest_are_set_aside(workdir):
    temporary = workdir / FOLDER / "8.orbax-checkpoint-tmp"
    shutil.copytree(workdir / FOLDER / "3", temporary)
    (workdir / FOLDER / "5" / MANIFEST_NAME).unlink()  # killed between orbax's last act and ours
    said = []
    assert newest_whole_step(workdir, said.append) == 3
    assert "its save was interrupted" in said[1] and "written last" in said[0]
    assert {path.name for path in (workdir / SET_ASIDE).iterdir()} == {temporary.name, "5"}


def test_a_second_damaged_step_of_the_same_number_finds_room(workdir):
    for _ in range(2):
        shutil.copytree(workdir / FOLDER / "3", workdir / FOLDER / "9")
        flip(workdir / FOLDER / "9" / "state" / "manifest.ocdbt")
        assert newest_whole_step(workdir, lambda _: None) == 5
    assert {path.name for path in (workdir / SET_ASIDE).iterdir()} == {"9", "9-2"}


@pytest.mark.parametrize("how", ["all damaged", "emptied", "no folder"])
def test_a_run_without_a_whole_step_is_not_started_anew(how, workdir):
    if how == "all damaged":
        for step in ("3", "5"):
            flip(workdir / FOLDER / step / "state" / "manifest.ocdbt")
    else:
        shutil.rmtree(workdir / FOLDER)
        if how == "emptied":
            (workdir / FOLDER).mkdir()
    before = files(workdir)
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole") as error:
        newest_whole_step(workdir, pytest.fail)
    if how == "all damaged":
        assert "3: state/manifest.ocdbt" in str(error.value)
        assert "5: state/manifest.ocdbt" in str(error.value)
    assert files(workdir) == before  # for whoever mends it


@pytest.mark.parametrize("steps", [("3", "5"), ("5",)])
def test_steps_without_manifests_are_not_thrown_away(steps, workdir):
    """Those of the versions before manifests."""
    (workdir / NEWEST).unlink()
    for step in ("3", "5"):
        (workdir / FOLDER / step / MANIFEST_NAME).unlink()
        if step not in steps:
            shutil.rmtree(workdir / FOLDER / step)
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        newest_whole_step(workdir, pytest.fail)


@pytest.mark.parametrize("moment", ["writing", "before the manifest"])
def test_a_run_killed_in_its_first_save_starts_anew(moment, workdir):
    (workdir / NEWEST).write_text("0\n")
    shutil.rmtree(workdir / FOLDER / "3")
    if moment == "writing":
        (workdir / FOLDER / "5").rename(workdir / FOLDER / "5.orbax-checkpoint-tmp")
    else:
        (workdir / FOLDER / "5" / MANIFEST_NAME).unlink()
    said = []
    assert newest_whole_step(workdir, said.append) is None
    assert len(said) == 1


def test_what_is_whole_is_known_to_be_so_from_then_on(workdir):
    """Killed between the manifest of the first step and the note of it."""
    (workdir / NEWEST).write_text("0\n")
    assert newest_whole_step(workdir, pytest.fail) == 5
    assert (workdir / NEWEST).read_text() == "5\n"


def test_a_folder_that_is_a_link_keeps_what_is_damaged_on_its_own_disk(workdir, tmp_path):
    (workdir / FOLDER).rename(tmp_path / "elsewhere")
    (workdir / FOLDER).symlink_to(tmp_path / "elsewhere")
    flip(tmp_path / "elsewhere" / "5" / "state" / "manifest.ocdbt")
    assert newest_whole_step(workdir, lambda _: None) == 3
    assert (tmp_path / SET_ASIDE / "5").is_dir()


def test_a_new_workdir_has_no_step(tmp_path):
    assert newest_whole_step(tmp_path, pytest.fail) is None


def test_loading_weights_passes_over_damage(workdir):
    flip(workdir / FOLDER / "5" / "state" / "manifest.ocdbt")
    with pytest.warns(UserWarning, match=r"5 is not whole: state/manifest\.ocdbt .* using step 3"):
        assert load_weights(workdir).step == 3
    with pytest.raises(UserError, match="5 is not whole"):
        load_weights(workdir / FOLDER / "5")
    flip(workdir / FOLDER / "3" / "_CHECKPOINT_METADATA")
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole: .*5 .*3 "):
        load_weights(workdir)
