"""The pieces of scripts/benchmarks/accelerator.sh; --rehearse runs the whole command."""

import os
import re
import subprocess

import accelerator_parts
import jax
import numpy as np
import parity
import pytest

from glinpaint_jax.models.generator import DECODER, DILATION_NECK, ENCODER
from glinpaint_jax.training.phases import Phase
from tests.helpers.programs import ROOT


def run_script(folder, python, *arguments):
    """The command with a bash script instead of Python; returns its status and the report."""
    fake = folder / "python"
    fake.write_text(f"#!/usr/bin/env bash\n{python}\n")
    fake.chmod(0o755)
    output = folder / "out"
    result = subprocess.run(
        ["bash", ROOT / "scripts/benchmarks/accelerator.sh", "--output", output, *arguments],
        env=os.environ | {"PYTHON": str(fake)},
        cwd=folder,
        capture_output=True,
        timeout=60,
    )
    return result.returncode, (output / "report.md").read_text()


def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_next_ones(tmp_path):
    leftover = tmp_path / "leftover"
    python = f"""
    case "$*" in
        *parts.py\\ convolutions*) echo half; sleep 1000 & echo $! >{leftover} ;;
        *parts.py\\ torch_steps*) echo half; echo no memory >&2; exit 1 ;;
        *parity.py*) echo half; sleep 1000 ;;
        *) echo "$@" ;;
    esac
    """
    _, report = run_script(tmp_path, python, "--minutes", "2")  # a second for each part
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", report, re.MULTILINE | re.DOTALL))
    ends = {name: re.search(r"(.*) after \d+ seconds", text)[1] for name, text in sections.items()}
    assert ends.pop("torch_steps") == "failed (no memory)"
    assert ends.pop("parity") == "stopped at its time limit"
    assert set(ends.values()) == {"finished"}
    assert list(ends)[-1] == "train"
    assert "half" in sections["parity"] and "half" in sections["torch_steps"]
    ps = ["ps", "-o", "stat=", leftover.read_text().strip()]
    state = subprocess.run(ps, capture_output=True, text=True).stdout
    assert state == "" or state.startswith("Z")  # gone, or a zombie


def test_without_an_accelerator_nothing_is_measured(tmp_path):
    status, report = run_script(tmp_path, "echo no accelerator >&2; exit 1")
    assert status == 1
    assert "failed (no accelerator)" in report and "convolutions" not in report
    with pytest.raises(SystemExit, match=r"no accelerator.*--rehearse"):
        accelerator_parts.device(accelerator_parts.FULL, tmp_path)


@pytest.mark.parametrize("layer", [ENCODER[1], DILATION_NECK[1], DECODER[2]], ids=str)
def test_all_forms_of_a_layer_are_the_same_convolution(layer):
    shapes = (2, 16, 24, 3), (layer.kernel, layer.kernel, 3, 5)
    x, kernel = (jax.random.normal(jax.random.key(0), shape) for shape in shapes)
    ours, *others = accelerator_parts.forms_of(layer, 2).values()
    assert len(others) == 1 + (layer.dilation > 1)
    for other in others:
        np.testing.assert_allclose(other(x, kernel), ours(x, kernel), rtol=0, atol=1e-4)


def test_the_step_matches_the_stored_values():
    """They were computed in float64; this device computes in float32."""
    found = parity.run_step("small", Phase.COMPLETION, "float32")
    wanted = dict(zip(found, np.load(parity.STORED)["small/completion"], strict=True))
    assert parity.compare(found, wanted, "float32")["close"]
    broken = "gradients/generator/encoder/enc1/conv/kernel"
    for factor in (1.1, np.nan):
        row = parity.compare(found | {broken: found[broken] * factor}, wanted, "float32")
        assert not row["close"] and row["largest in"] == broken.removeprefix("gradients/")


@pytest.mark.parametrize(("sign", "low", "high"), [(1, 0.9, 1), (0, -0.3, 0.3), (-1, -1, -0.9)])
def test_gradients_in_bfloat16_must_point_the_same_way(sign, low, high):
    rng = np.random.default_rng(0)
    gradients = {f"gradients/{name}": rng.standard_normal(17) for name in range(9)}
    others = {"losses/l1": np.ones(2), "statistics/m": np.ones(2)}
    found = {name: sign * g + 0.3 * rng.standard_normal(17) for name, g in gradients.items()}
    row = parity.compare(others | found, others | gradients, "bfloat16")
    assert row["close"] == (sign == 1)
    assert low < row["cosine"] < high
