"""Folders for the Hugging Face Hub: written from a run, and loaded back."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from glinpaint_jax.commands.export import find_scores
from glinpaint_jax.config import from_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.interop import check_export
from glinpaint_jax.interop.hub import export_folder, make_card
from glinpaint_jax.interop.weight_files import safetensors_bytes
from glinpaint_jax.weights import load_weights
from tests.helpers.networks import make_weights
from tests.helpers.programs import run_here


@pytest.fixture(scope="module")
def smooth_weights(torch_config):
    """MMagic's format cannot hold these, but our own file can."""
    model = dataclasses.replace(torch_config.model, base="smooth")
    init_from = "https://me:secret@host/a.pth?key=secret"
    return make_weights(dataclasses.replace(torch_config, model=model, init_from=init_from))


def test_weights_become_a_folder_that_loads(smooth_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(check_export, "TEST_SHAPES", ((1, 16, 24),))  # to compile less
    path, folder = tmp_path / "a.safetensors", tmp_path / "my-model"
    path.write_bytes(safetensors_bytes(smooth_weights))
    result = run_here("export", path, "--format=hub", f"--output={folder}", "--license=cc-by-4.0")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"hf upload USER/my-model {folder}" in result.stdout
    names = {"model.safetensors", "config.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == names

    loaded = load_weights(folder)
    public = dataclasses.replace(smooth_weights.config, init_from="https://host/a.pth?...")
    assert (loaded.config, loaded.step) == (public, 7)
    assert from_dict(json.loads((folder / "config.json").read_text())) == public
    for name in ("generator", "discriminator"):
        first, second = getattr(loaded, name), getattr(smooth_weights, name)
        jax.tree.map(np.testing.assert_array_equal, first, second)

    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    assert "# my-model\n" in card and "hf://USER/my-model" in card
    assert "- 7 of 10 steps, 4 images each\n- data: `photos`, 64x64\n" in card
    assert "Not evaluated." in card


def test_scores_are_those_of_the_exported_step(smooth_weights, tmp_path):
    records = [
        {"step": step, "eval/held_out/l1": step + 0.5, "eval/held_out/psnr": 20.0}
        for step in (3, 5, 9)
    ]
    records.insert(2, {"step": 6, "train/l1_hole": 0.1})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(lines)
    for checkpoint in (tmp_path, tmp_path / "checkpoints" / "7"):
        scores = find_scores(checkpoint, 7)
        assert scores == {"step": 5, "eval/held_out/l1": 5.5, "eval/held_out/psnr": 20.0}
    assert find_scores(tmp_path, 2) == find_scores(tmp_path / "nowhere", 7) == {}
    card = make_card(smooth_weights, scores, "unknown", "model")
    assert "## Scores\n\n- step: 5\n- held_out/l1: 5.5\n- held_out/psnr: 20.0\n" in card


def test_weights_of_others_say_nothing_of_a_training(smooth_weights):
    foreign = dataclasses.replace(smooth_weights, torch={"meta": {"iter": 7}})
    card = make_card(foreign, {}, "unknown", "model")
    assert "Converted from a weight file of MMagic" in card and "images each" not in card


def test_nothing_is_left_of_a_failed_export(smooth_weights, tmp_path):
    (tmp_path / "mine").mkdir()
    for folder, message in ((tmp_path / "mine", "exists"), (tmp_path / "a" / "b", "cannot write")):
        with pytest.raises(UserError, match=message):
            export_folder(smooth_weights, {}, "unknown", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
