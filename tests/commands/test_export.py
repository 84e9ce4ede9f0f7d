"""export, and training from its output."""

import jax
import numpy as np
import pytest

from glinpaint_jax.weights import load_weights
from tests.helpers.programs import STILL, run, run_here, start_processes


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    """A `.pth` file of the finished run, as `export` writes it."""
    path = tmp_path_factory.mktemp("exported") / "model.pth"
    result = run_here("export", finished_run[0], "--format=mmagic", f"--output={path}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"wrote {path} (0.") and "differs from JAX by" in result.stdout
    assert result.stderr == (
        "note: MMagic's networks have width 64, this one 4: MMagic cannot load it\n"
    )
    return path


def test_the_last_weights_are_exported_if_asked_for(finished_run, tmp_path):
    path, workdir = tmp_path / "a.safetensors", finished_run[0]
    result = run_here("export", workdir, "--format=safetensors", f"--output={path}", "--no-ema")
    assert (result.returncode, result.stderr) == (0, "")
    exported, last, averaged = (
        load_weights(*arguments).generator["params"]["encoder"]["enc1"]["conv"]["kernel"]
        for arguments in ((path,), (workdir, False), (workdir, True))
    )
    np.testing.assert_array_equal(exported, last)
    assert (exported != averaged).any()


def test_exporting_to_onnx_prints_one_line(exported, tmp_path):
    path = tmp_path / "a.onnx"
    # As a program, whose stderr gets the messages of C++ libraries too.
    result = run("glinpaint_jax", "export", exported, "--format=onnx", f"--output={path}")
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 1


def test_only_an_onnx_file_holds_the_pipeline(exported, tmp_path):
    for flags in (("--format=stablehlo", "--pipeline"), ("--format=onnx", "--float16")):
        result = run_here("export", exported, *flags, f"--output={tmp_path}/a")
        assert result.returncode == 1
        assert "--pipeline needs --format onnx, --float16 needs --pipeline" in result.stderr
    assert not (tmp_path / "a").exists()


def test_training_starts_from_a_file_in_all_processes(finished_run, exported, tmp_path):
    """The learning rate is too small to change anything, so they stay those of the first run."""
    flags = [*STILL, f"--config.init_from={exported}", "--config.num_steps=1"]
    started = start_processes(2, "glinpaint_jax.main", *flags, f"--workdir={tmp_path}/run")
    results = [process.result() for process in started]
    assert [result.returncode for result in results] == [0, 0], results
    assert f"starting from {exported} in the completion phase" in results[0].stderr
    before, after = load_weights(finished_run[0]), load_weights(tmp_path / "run", ema=False)
    for name in ("generator", "discriminator"):
        first, second = (getattr(weights, name)["params"] for weights in (before, after))
        jax.tree.map(np.testing.assert_array_equal, first, second)
