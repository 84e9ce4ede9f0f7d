"""The pieces of scripts/benchmarks/accelerator.sh; the whole command, on the CPU, with --soak."""

import argparse
import json
import signal
import subprocess
import sys
import time

import accelerator
import accelerator_page
import accelerator_parts
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from glinpaint_jax.training.phases import Phase
from glinpaint_jax.weights import load_weights
from tests.helpers.programs import ROOT, environment


def test_a_part_is_finished_failed_or_stopped(tmp_path):
    log = tmp_path / "log.txt"

    def run(code, seconds=60):
        command = [sys.executable, "-u", "-c", code]
        return accelerator.run(command, seconds, {}, log, lambda: None)

    # A process that the part leaves behind ends with it.
    child = "import subprocess as s; print(s.Popen(['sleep', '1000']).pid)"
    assert run(child) == "finished"
    ps = ["ps", "-o", "stat=", log.read_text().strip()]
    deadline = time.monotonic() + 30
    while subprocess.run(ps, capture_output=True, text=True).stdout.strip() not in ("", "Z"):
        assert time.monotonic() < deadline
    assert run("import sys; sys.exit('no memory')") == "failed with status 1: no memory"
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # the part inherits this
    slow = "import signal; signal.sigwait([signal.SIGTERM]); print('saved')"
    try:
        assert run(slow, seconds=0.5) == "stopped after 0.0 minutes"
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    assert "saved" in log.read_text()


def test_a_part_that_fails_is_reported_and_the_next_one_goes_on(tmp_path, monkeypatch):
    """Results are kept up to a failure or an interruption."""
    script = tmp_path / "accelerator_parts.py"
    script.write_text(
        "import json, os, signal, sys\n"
        "_, part, scratch, *_ = sys.argv\n"
        "with open(f'{scratch}/{part}.jsonl', 'w') as file:\n"
        "    print(json.dumps({'batch': 12, 'precision': '', 'program': part}), file=file)\n"
        "    print('{\"cut\":', end='', file=file)\n"
        "if part == 'completion': os.kill(os.getppid(), signal.SIGINT)\n"
        "sys.exit('no memory' if part in ('parity', 'completion') else 0)\n"
    )
    monkeypatch.setattr(accelerator, "__file__", str(tmp_path / "accelerator.py"))
    session = make_session(tmp_path)
    assert session.run() == 1
    results = json.loads((session.output / "results.json").read_text())
    statuses = {name: part["status"] for name, part in results["parts"].items()}
    assert list(statuses) == list(accelerator.SHARES)  # no training
    assert statuses.pop("parity") == "failed with status 1: no memory"
    assert statuses.pop("completion") == "not finished"
    assert set(statuses.values()) == {"finished"}
    assert all(
        [row["program"] for row in part["rows"]] == [name]
        for name, part in results["parts"].items()
    )
    assert "failed with status 1: no memory" in (session.output / "report.md").read_text()


@pytest.mark.parametrize("interrupted", [False, True])
def test_an_export_delays_neither_the_end_of_training_nor_an_interruption(
    interrupted, tmp_path, monkeypatch
):
    script = tmp_path / "accelerator_parts.py"
    script.write_text(
        "import os, pathlib, signal, sys, time\n"
        "_, part, scratch, *_ = sys.argv\n"
        "step = pathlib.Path(scratch, 'run', 'checkpoints', '1')\n"
        "if part == 'train':\n"
        "    step.mkdir(parents=True)\n"
        "    (step / 'manifest.sha256').touch()\n"
        f"    if {interrupted}: os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(1000)\n"
    )
    monkeypatch.setattr(accelerator, "__file__", str(tmp_path / "accelerator.py"))
    monkeypatch.setattr(accelerator, "SHARES", {})
    monkeypatch.setattr(accelerator, "TICK", 0.1)
    session = make_session(tmp_path)
    started = time.monotonic()
    session.seconds, session.deadline = 8, started + 4
    assert session.run() == interrupted
    assert time.monotonic() - started < 10
    parts = session.results["parts"]
    assert list(parts) == (["train"] if interrupted else ["train", "export"])
    assert parts["train"]["seconds"] < 4


def make_session(folder):
    output, scratch = folder / "out", folder / "scratch"
    output.mkdir()
    scratch.mkdir()
    arguments = argparse.Namespace(
        minutes=1.0, train=None, output=output, wheels=None, rehearse=False
    )
    return accelerator.Session(arguments, scratch)


def test_a_cpu_is_no_accelerator(tmp_path, monkeypatch):
    results = ["device", str(tmp_path), str(tmp_path / "results.json")]
    monkeypatch.setattr(sys, "argv", ["accelerator_parts.py", *results])
    with pytest.raises(SystemExit, match=r"found no accelerator.*--rehearse"):
        accelerator_parts.main()


def test_the_step_matches_the_stored_values():
    """They were computed in float64; this device computes in float32."""
    found = parity.run_step("small", Phase.COMPLETION, "float32")
    wanted = dict(zip(found, parity.read_stored()["small/completion"], strict=True))
    assert parity.compare(found, wanted, "float32")["close"]
    broken = "gradients/generator/encoder/enc1/conv/kernel"
    wanted[broken] = wanted[broken] * 1.1
    row = parity.compare(found, wanted, "float32")
    assert not row["close"] and row["largest in"] == broken.removeprefix("gradients/")


def test_errors_are_relative_to_each_tensor():
    wanted = {
        "losses/l1": np.array([2.0, 2.0]),
        "gradients/a": np.array([4.0, 1.0, 4.0]),
        "gradients/b": np.array([1e-9, 1e-9, 0.0]),  # rounding errors of what is zero
        "statistics/m": np.array([1.0, 1.0]),
    }
    found = {name: values + 0.5 * (name == "gradients/a") for name, values in wanted.items()}
    found["gradients/b"] = wanted["gradients/b"] + 4e-6
    row = parity.compare(found, wanted, "float32")
    assert row["losses"] == 0
    assert row["gradients"] == pytest.approx(0.5 / 4)
    cosines = (1 * 1.5 + 4 * 4.5) / np.hypot(1, 4) / np.hypot(1.5, 4.5), 1 / np.sqrt(2)
    assert row["cosine"] == pytest.approx(np.mean(cosines), rel=1e-3)
    found = wanted | {"losses/l1": np.array([np.nan, np.nan])}
    assert not parity.compare(found, wanted, "float32")["close"]


def test_gradients_in_bfloat16_must_point_the_same_way():
    rng = np.random.default_rng(0)
    wanted = {f"gradients/{name}": rng.standard_normal(17) for name in range(9)}
    wanted |= {"losses/l1": np.ones(2), "statistics/m": np.ones(2)}
    noise = {name: 0.3 * rng.standard_normal(value.shape) for name, value in wanted.items()}

    def compare(sign):
        found = {
            name: sign * value + noise[name] if name.startswith("gradients") else value
            for name, value in wanted.items()
        }
        return parity.compare(found, wanted, "bfloat16")

    assert compare(1)["close"] and compare(1)["cosine"] > 0.9
    assert not compare(-1)["close"]
    assert not compare(0)["close"] and abs(compare(0)["cosine"]) < 0.3


@pytest.mark.filterwarnings("ignore:builtin type event_stats")  # of jax 0.12; an error aborts
def test_a_trace_gives_the_longest_operations_and_their_layers(tmp_path):
    @jax.jit
    def function(x):
        with jax.named_scope("large"):
            y = x @ x
        with jax.named_scope("small"):
            return jnp.sin(y[:8, :8]) @ y[:8, :8]

    program = function.lower(jnp.ones((400, 400))).compile()
    operand = jax.device_put(jnp.ones((400, 400)), jax.devices()[0])
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(3):
            program(operand).block_until_ready()
    (trace,) = tmp_path.rglob("*.xplane.pb")
    layers = accelerator_parts.layers_of(program.as_text())
    rows = list(accelerator_parts.longest_operations(trace, layers, 3))
    assert "large" in rows[0]["layer"]
    assert rows[0]["calls a step"] == 1
    assert rows == sorted(rows, key=lambda row: -row["ms a step"])
    assert sum(row["%"] for row in rows) == pytest.approx(100)


def test_the_page_puts_both_frameworks_into_one_table():
    step = {"batch": 96, "precision": "TF32"}
    jax_rows = [
        step | {"program": "JAX", "images/s": 1234.5, "% of a product's": 41.26},
        step | {"batch": 192, "program": "JAX", "failed": "no memory"},
    ]
    torch_rows = [step | {"program": "PyTorch", "images/s": 640.0}]
    parts = {
        name: {"status": "finished", "seconds": 60, "rows": rows}
        for name, rows in (("jax_steps", jax_rows), ("torch_steps", torch_rows))
    }
    page = accelerator_page.page(
        {"started": "", "rehearsal": False, "parts": parts, "training": []}
    )
    assert "| jax_steps | finished | 60 |" in page
    assert (
        "| batch | precision | program | images/s | % of a product's | failed |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| 96 | TF32 | JAX | 1234 | 41.3 |  |\n"
        "| 96 | TF32 | PyTorch | 640 |  |  |\n"
        "| 192 | TF32 | JAX |  |  | no memory |\n"
    ) in page


def test_the_whole_command_on_the_cpu(tmp_path, soak):
    if not soak:
        pytest.skip("takes minutes; pass --soak")
    output = tmp_path / "out"
    script = ROOT / "scripts" / "benchmarks" / "accelerator.sh"
    subprocess.run(
        ["bash", script, "--rehearse", f"--output={output}"],
        env=environment(PYTHON=sys.executable, JAX_NUM_CPU_DEVICES="1"),
        cwd=tmp_path,
        check=True,
    )
    results = json.loads((output / "results.json").read_text())
    statuses = {name: part["status"] for name, part in results["parts"].items()}
    assert set(statuses.values()) == {"finished"}, statuses
    assert len(list(output.iterdir())) == 7
    assert all(row["close"] for row in results["parts"]["parity"]["rows"])
    assert load_weights(output / "generator.safetensors").config.model.base == "smooth"
