"""import-torch and export as people run them, and training from what they leave."""

import json

import jax
import numpy as np
import pytest
import torch

from glinpaint_jax.weights import load_weights
from tests.programs import SMALL, assert_refused, read_jsonl, run


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    """A `.pth` file of the finished run, as `export` writes it."""
    path = tmp_path_factory.mktemp("exported") / "model.pth"
    result = run("glinpaint_jax", "export", finished_run[0], "--format=mmagic", f"--output={path}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"wrote {path} (0.") and "differs from JAX by" in result.stdout
    return path


@pytest.fixture(scope="module")
def imported(exported, tmp_path_factory):
    """What `import-torch` makes of it, with something beside the networks."""
    folder = tmp_path_factory.mktemp("imported")
    content = torch.load(exported)
    content["state_dict"]["data_preprocessor.mean"] = torch.zeros(3)
    torch.save(content | {"optimizer": {}}, folder / "model.pth")
    result = run(
        "glinpaint_jax", "import-torch", folder / "model.pth", f"--output={folder}/weights"
    )
    assert result.returncode == 0, result.stderr
    assert "generator (24,485 parameters) and discriminator" in result.stdout
    assert "step 10" in result.stdout
    assert "ignored: optimizer, data_preprocessor.mean" in result.stdout
    return folder / "weights"


def test_import_then_export_is_exact(exported, imported, tmp_path):
    again = tmp_path / "again.pth"
    result = run("glinpaint_jax", "export", imported, "--format=mmagic", "--output", again)
    assert result.returncode == 0, result.stderr
    first, second = torch.load(exported, weights_only=True), torch.load(again, weights_only=True)
    assert first["meta"] == second["meta"]
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for key, tensor in first["state_dict"].items():
        assert torch.equal(tensor, second["state_dict"][key]), key


def test_imported_weights_score_as_the_run_did(finished_run, imported, tmp_path):
    scores = tmp_path / "scores.json"
    result = run(
        "glinpaint_jax", "evaluate", *SMALL, f"--checkpoint={imported}", f"--json={scores}"
    )
    assert result.returncode == 0, result.stderr
    written = json.loads(scores.read_text())
    assert written["step"] == 10
    last = read_jsonl(finished_run[0])[-1]
    for metric in ("l1", "psnr", "ssim"):
        got = written["scores"]["held_out"]["model, step 10"][metric]
        assert got == pytest.approx(last[f"eval/held_out/{metric}"], rel=1e-6)


def test_training_starts_from_a_file(exported, tmp_path):
    """With a learning rate that moves nothing, the weights come out as they went in."""
    result = run(
        "glinpaint_jax.main",
        *SMALL,
        f"--config.init_from={exported}",
        "--config.num_steps=1",
        "--config.optimizer.learning_rate=1e-30",
        f"--workdir={tmp_path}/run",
    )
    assert result.returncode == 0, result.stderr
    assert f"starting from {exported}\n" in result.stderr
    before, after = load_weights(exported), load_weights(tmp_path / "run", ema=False)
    for name in ("generator", "discriminator"):
        first, second = (getattr(weights, name)["params"] for weights in (before, after))
        jax.tree.map(np.testing.assert_array_equal, first, second)


def test_another_generator_is_no_start(exported, tmp_path):
    result = run(
        "glinpaint_jax.main",
        *SMALL,
        f"--config.init_from={exported}",
        "--config.model.width=8",
        f"--workdir={tmp_path}/run",
    )
    assert_refused(result, "model.width 4, this config 8", "--config.model.width=4")


@pytest.mark.parametrize("damage", ["truncated", "one key less", "code"])
def test_bad_files_are_refused_and_nothing_is_written(damage, exported, tmp_path):
    path, trace = tmp_path / "bad.pth", tmp_path / "trace"
    if damage == "truncated":
        path.write_bytes(exported.read_bytes()[:10_000])
        expected = "is damaged or no PyTorch weight file"
    else:
        content = torch.load(exported)
        if damage == "one key less":
            del content["state_dict"]["disc.fc.bias"]
            expected = "1 of 170 Global&Local weights do not fit: disc.fc.bias is missing"
        else:
            content["meta"] = type(
                "Evil", (), {"__reduce__": lambda _: (open, (str(trace), "w"))}
            )()
            expected = "carries code"
        torch.save(content, path)
    result = run("glinpaint_jax", "import-torch", path, f"--output={tmp_path}/weights")
    assert_refused(result, str(path), expected)
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad.pth"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere", "--format=onnx", "--output=x"], ["no checkpoint in", "nowhere"]),
        (["nowhere", "--format=doc", "--output=x"], ["doc", "stablehlo", "--help"]),
        (["--format=onnx"], ["CHECKPOINT", "--output"]),
    ],
    ids=["checkpoint", "format", "missing"],
)
def test_bad_arguments_are_refused_in_one_line(arguments, expected):
    assert_refused(run("glinpaint_jax", "export", *arguments), *expected)
