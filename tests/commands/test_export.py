"""export, and training and evaluation from its output."""

import json

import jax
import numpy as np
import pytest

from glinpaint_jax.weights import load_weights
from tests.helpers.programs import SMALL, STILL, read_jsonl, run, run_here, run_processes


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    """A `.pth` file of the finished run, as `export` writes it."""
    path = tmp_path_factory.mktemp("exported") / "model.pth"
    result = run("glinpaint_jax", "export", finished_run[0], "--format=mmagic", f"--output={path}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"wrote {path} (0.") and "differs from JAX by" in result.stdout
    assert result.stderr == (
        "note: MMagic's networks have width 64, this one 4: MMagic cannot load it\n"
    )
    return path


def test_exported_weights_score_as_the_run_did(finished_run, exported, tmp_path):
    scores = tmp_path / "scores.json"
    result = run(
        "glinpaint_jax", "evaluate", *SMALL, f"--checkpoint={exported}", f"--json={scores}"
    )
    assert result.returncode == 0, result.stderr
    written = json.loads(scores.read_text())
    assert written["step"] == 10
    last = read_jsonl(finished_run[0])[-1]
    for metric in ("l1", "psnr", "ssim"):
        got = written["scores"]["held_out"]["model, step 10"][metric]
        assert got == pytest.approx(last[f"eval/held_out/{metric}"], rel=1e-6)


@pytest.mark.parametrize("ema", [True, False])
def test_the_averaged_or_the_last_weights_are_exported(ema, finished_run, tmp_path):
    path, workdir = tmp_path / "a.safetensors", finished_run[0]
    flag = "--ema" if ema else "--no-ema"
    result = run_here("export", workdir, "--format=safetensors", f"--output={path}", flag)
    assert (result.returncode, result.stderr) == (0, "")

    def first_kernel(weights):
        return weights.generator["params"]["encoder"]["enc1"]["conv"]["kernel"]

    got = first_kernel(load_weights(path))
    np.testing.assert_array_equal(got, first_kernel(load_weights(workdir, ema)))
    assert (got != first_kernel(load_weights(workdir, not ema))).any()


def test_exporting_to_onnx_prints_one_line(exported, tmp_path):
    path = tmp_path / "a.onnx"
    # As a program, whose stderr gets the messages of C++ libraries too.
    result = run("glinpaint_jax", "export", exported, "--format=onnx", f"--output={path}")
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 1


def test_training_starts_from_a_file_in_all_processes(exported, tmp_path):
    """The learning rate is too small to change anything, so the weights stay the same."""
    results = run_processes(
        2,
        "glinpaint_jax.main",
        *STILL,
        f"--config.init_from={exported}",
        "--config.num_steps=1",
        f"--workdir={tmp_path}/run",
    )
    assert [result.returncode for result in results] == [0, 0], results
    assert f"starting from {exported}\n" in results[0].stderr
    before, after = load_weights(exported), load_weights(tmp_path / "run", ema=False)
    for name in ("generator", "discriminator"):
        first, second = (getattr(weights, name)["params"] for weights in (before, after))
        jax.tree.map(np.testing.assert_array_equal, first, second)


def test_import_torch_says_what_to_do_instead():
    status = run_here("import-torch", "a.pth", "--output=b").returncode
    assert status == "error: import-torch is gone; pass the .pth file as --checkpoint, or to export"
