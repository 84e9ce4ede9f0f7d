"""Runs main and evaluate as programs."""

import json
import sys
from pathlib import Path

import pytest

from glinpaint_jax.__main__ import COMMANDS
from tests.helpers.programs import STILL, assert_rejected, execute, read_jsonl, run, run_here
from tests.helpers.sources import write_reds


def test_training_writes_checkpoints_metrics_and_samples(finished_run):
    workdir, written = finished_run
    assert {path.name for path in workdir.iterdir()} >= {"checkpoints", "metrics.jsonl", "samples"}
    assert list(workdir.glob("events.*"))
    records = read_jsonl(workdir)
    trained = [record for record in records if "images_per_second" in record]
    assert [record["step"] for record in trained] == list(range(1, 11))
    phases = ["completion"] * 3 + ["discriminator"] * 3 + ["joint"] * 4
    assert [record["phase"] for record in trained] == phases
    assert {"train/l1_hole", "train/adversarial", "train/discriminator_real"} <= set(trained[-1])
    for name in ("held_out", "new_crops"):
        assert {f"eval/{name}/{metric}" for metric in ("l1", "psnr", "ssim")} <= set(records[-1])
    assert "generator: 24,485 parameters\n" in written
    assert "encoder/enc1/conv/kernel" in (workdir / "parameters.txt").read_text()
    assert "memory per device: completion " in written
    assert written.index("step 10/10  joint") < written.index("step 10  eval/held_out")


def test_evaluate_prints_a_table_and_writes_json(finished_run, tmp_path):
    """With the config of the checkpoint; its scores are those of the run."""
    workdir, _ = finished_run
    flags = [f"--checkpoint={workdir}", "--method=telea", f"--json={tmp_path}/scores.json"]
    result = run("glinpaint_jax", "evaluate", *flags)
    assert result.returncode == 0, result.stderr
    assert "config of the checkpoint: data.source photos" in result.stderr
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["step"] == 10
    methods = written["scores"]["held_out"]
    assert list(methods) == ["model, step 10", "telea"]
    last = read_jsonl(workdir)[-1]
    for metric, value in methods["model, step 10"].items():
        assert value == pytest.approx(last[f"eval/held_out/{metric}"], rel=1e-5)
    assert f"{methods['telea']['l1']:.3f}" in result.stdout
    assert "new crops" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("train --config=configs/places.py", ["data/Places", "places365_small", "source=photos"]),
        ("train --config=demo --workdir=/proc/run", ["cannot write /proc/run"]),
        (f"train --config=demo --workdir={'x' * 300}", ["cannot read x", "File name too long"]),
        ("evaluate --method=smooth", ["pass --checkpoint, or --config with"]),
        ("evaluate --checkpoint=/nowhere", ["/nowhere", "no checkpoint"]),
        ("paint", ["paint", "--help"]),
    ],
    ids=str,
)
def test_bad_input_is_rejected_in_one_line(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert_rejected(run_here(*arguments.split()), *expected)


def test_help_of_every_program_is_quick_and_fits_a_terminal():
    """Shows all help texts in one process, which must not import jax."""
    code = """
import sys
from glinpaint_jax import __main__ as programs
for arguments in [[]] + [[command] for command in programs.COMMANDS]:
    sys.argv = ["glinpaint_jax", *arguments, "--help"]
    try:
        programs.main()
    except SystemExit as end:
        assert end.code == 0
sys.exit("jax" in sys.modules)
"""
    result = execute([sys.executable, "-c", code], COLUMNS="200")
    assert (result.returncode, result.stderr) == (0, "")
    assert max(len(line) for line in result.stdout.splitlines()) <= 100
    for command in COMMANDS:
        assert f"\n  {command} " in result.stdout
        assert f"usage: python -m glinpaint_jax {command} " in result.stdout


def test_training_on_a_folder_with_workers_reports_broken_files(tmp_path):
    images = tmp_path / "images"
    write_reds(images, 240)
    broken = [f"{images}/{name}.png" for name in ("060", "067")]  # the first is held out
    for name in broken:
        Path(name).write_bytes(Path(name).read_bytes()[:60])
    flags = [f"--config.data.source=folder:{images}", "--config.data.num_workers=2"]
    flags += ["--config.num_steps=28", "--config.checkpoint_every=100", f"--workdir={tmp_path}/run"]
    result = run("glinpaint_jax.main", *STILL, *flags)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    for name in broken:
        assert result.stderr.count(f"skipped, {name}") == 1
    assert "216 training images; evaluation: held_out 4 of 24" in result.stderr
