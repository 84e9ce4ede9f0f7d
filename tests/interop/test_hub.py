"""Folders for the Hugging Face Hub: written from a run, and loaded back."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from glinpaint_jax.commands import cli, export
from glinpaint_jax.config import from_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.interop import verify
from glinpaint_jax.interop.hub import History, export_folder, make_card
from glinpaint_jax.weights import load_weights, save_imported
from tests.helpers.networks import make_weights


@pytest.fixture(scope="module")
def smooth_weights(torch_config):
    """MMagic's format cannot hold these, but our own file can."""
    model = dataclasses.replace(torch_config.model, base="smooth")
    return make_weights(dataclasses.replace(torch_config, model=model))


@pytest.fixture(scope="module")
def run(smooth_weights, tmp_path_factory):
    """A workdir with step 7, scores of three steps and pictures of two."""
    workdir = tmp_path_factory.mktemp("run")
    (workdir / "samples").mkdir()
    save_imported(smooth_weights, workdir / "weights")
    (workdir / "weights" / "checkpoints").rename(workdir / "checkpoints")
    records = [
        {"step": step, "eval/held_out/l1": step + 0.5, "eval/held_out/psnr": 20.0}
        | {"eval/held_out/ssim": 0.75}
        for step in (3, 5, 9)
    ]
    records.insert(2, {"step": 6, "train/l1_hole": 0.1})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (workdir / "metrics.jsonl").write_text(lines)
    for step in (5, 9):
        (workdir / "samples" / f"step_{step:06d}.png").write_bytes(b"picture %d" % step)
    return workdir


def export_run(place, output, *more):
    parser = cli.ArgumentParser("export", "What it does.")
    export.add_arguments(parser)
    arguments = [str(place), "--format=hub", f"--output={output}", *more]
    export.main(parser.parse_args(arguments))


def test_a_run_becomes_a_folder_that_loads(run, smooth_weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verify, "TEST_SHAPES", ((1, 16, 24),))  # to compile less
    folder = tmp_path / "my-model"
    export_run(run, folder, "--license=cc-by-4.0")
    names = {"model.safetensors", "config.json", "README.md", "samples.png"}
    assert {path.name for path in folder.iterdir()} == names
    assert f"hf upload USER/my-model {folder}" in capsys.readouterr().out

    loaded = load_weights(folder)
    assert (loaded.config, loaded.step) == (smooth_weights.config, 7)
    for name in ("generator", "discriminator"):
        first, second = getattr(loaded, name), getattr(smooth_weights, name)
        jax.tree.map(np.testing.assert_array_equal, first, second)
    saved = json.loads((folder / "config.json").read_text())
    assert from_dict(saved) == smooth_weights.config

    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    assert "# my-model\n" in card and "hf://USER/my-model" in card
    assert "| data | `photos` |" in card
    assert "| steps | 7 of 10, 4 images each |" in card
    assert "| held out | 5.500 | 20.000 | 0.750 |\n\nAt step 5." in card  # not of step 9
    assert (folder / "samples.png").read_bytes() == b"picture 5"
    assert "(samples.png)" in card and "title   = {{Globally" in card


def test_a_step_has_the_history_of_its_run(run, tmp_path):
    history = export.read_history(run, 7)
    assert (history.scored_step, history.picture) == (5, b"picture 5")
    assert export.read_history(run / "checkpoints" / "7", 7) == history
    assert export.read_history(run, 2) == export.read_history(tmp_path, 7) == History(0, {}, None)
    for number in ("950000", "1000000", "best"):
        (run / "samples" / f"step_{number}.png").write_text(number)
    assert export.read_history(run, 1_000_000).picture == b"1000000"


def test_weights_of_others_say_nothing_of_a_training(smooth_weights):
    foreign = dataclasses.replace(smooth_weights, torch={"meta": {"iter": 7}})
    card = make_card(foreign, History(), "unknown", "model")
    assert "Converted from a weight file of MMagic" in card and "| steps |" not in card
    assert "Not evaluated." in card and "samples.png" not in card


def test_nothing_is_left_of_a_failed_export(smooth_weights, tmp_path):
    (tmp_path / "mine").mkdir()
    for folder, message in ((tmp_path / "mine", "exists"), (tmp_path / "a" / "b", "cannot write")):
        with pytest.raises(UserError, match=message):
            export_folder(smooth_weights, History(), "unknown", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
