"""The parts of scripts/benchmarks/accelerator.sh; the whole command, on the CPU, with --soak."""

import argparse
import json
import subprocess
import sys
import zipfile

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

BENCHMARKS = ROOT / "scripts" / "benchmarks"


def test_a_part_is_finished_failed_or_stopped(tmp_path):
    log, rows = tmp_path / "log.txt", []

    def run(code, seconds=60):
        command = [sys.executable, "-u", "-c", code]
        return accelerator.run(command, seconds, {}, log, rows.append)

    assert run("print('one'); print('two')") == "finished"
    assert rows == ["one\n", "two\n"]
    assert run("import sys; print('three'); sys.exit('no memory')") == "failed: no memory"
    slow = "import signal, time; print('four'); signal.sigwait([signal.SIGTERM]); print('saved')"
    assert run(slow, seconds=0.5) == "stopped after 0.0 minutes"
    assert rows[2:] == ["three\n", "four\n", "saved\n"]
    assert "no memory" in log.read_text() and "saved" in log.read_text()


def test_what_a_part_started_is_killed_with_it(tmp_path):
    """The child inherits the pipe, so the part's output would never end."""
    code = "import subprocess; subprocess.Popen(['sleep', '1000'])"
    command = [sys.executable, "-c", code]
    assert accelerator.run(command, 60, {}, tmp_path / "log.txt", print) == "finished"


def test_a_machine_without_accelerator_is_an_error_in_the_report(tmp_path):
    arguments = argparse.Namespace(
        minutes=1.0, train=None, output=tmp_path / "out", wheels=None, rehearse=False
    )
    arguments.output.mkdir()
    session = accelerator.Session(arguments, tmp_path)
    session.environment |= environment()
    session.environment["PYTHONPATH"] = str(ROOT)
    assert session.run() == 1
    assert list(session.results["parts"]) == ["device"]
    assert "found no accelerator" in (arguments.output / "report.md").read_text()
    assert "--rehearse" in (arguments.output / "log.txt").read_text()


def test_missing_packages_come_from_wheels(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("a_new_package", "numpy"):  # numpy is installed
        with zipfile.ZipFile(wheels / f"{name}-0.1-py3-none-any.whl", "w") as wheel:
            info = f"{name}-0.1.dist-info"
            wheel.writestr(f"{name}.py", "")
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n"
            )
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    target = accelerator.install_missing(wheels, tmp_path / "packages")
    assert {path.name for path in target.glob("*.py")} == {"a_new_package.py"}


@pytest.mark.skipif(not parity.STORED.exists(), reason="parity.py --write has not been run")
def test_the_step_matches_the_stored_values():
    """They were computed in float64; this device computes in float32."""
    found = parity.run_step("small", Phase.JOINT, "float32")
    wanted = dict(zip(found, parity.read_stored()["small/joint"], strict=True))
    assert {name.split("/")[0] for name in found} == set(parity.GROUPS)
    assert parity.check(found, wanted, "float32")["close"]
    broken = "gradients/generator/encoder/enc1/conv/kernel"
    wanted[broken] = wanted[broken] * 1.1
    row = parity.check(found, wanted, "float32")
    assert not row["close"] and row["gradients"]["tensor"] == broken.removeprefix("gradients/")


def test_errors_are_relative_to_each_tensor():
    wanted = {
        "losses/l1": np.array([2.0, 2.0]),
        "gradients/a": np.array([4.0, 1.0, 4.0]),
        "gradients/b": np.array([1e-9, 1e-9, 0.0]),  # rounding errors of what is zero
        "statistics/m": np.array([1.0, 1.0]),
    }
    found = {name: values + 0.5 * (name == "gradients/a") for name, values in wanted.items()}
    found["gradients/b"] = wanted["gradients/b"] + 4e-6
    errors = parity.compare(found, wanted)
    assert errors["losses"]["worst"] == 0
    assert errors["gradients"]["worst"] == pytest.approx(0.5 / 4)
    assert errors["gradients"]["median"] == pytest.approx((0.5 / 4 + 4e-6 / 4e-4) / 2)
    found["losses/l1"] = np.array([np.nan, np.nan])
    assert not parity.check(found, wanted, "float32")["close"]


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
    first, *others = accelerator_parts.longest_operations(trace, layers, 3)
    assert "large" in first["layer"]
    assert first["calls"] == 1
    assert all(other["milliseconds"] <= first["milliseconds"] for other in others)
    assert sum(row["share"] for row in [first, *others]) == pytest.approx(1)


def test_the_page_gives_the_share_of_a_product_and_the_reasons():
    rows = [
        {"product": "bfloat16", "flop_per_s": 4e14},
        {"flop_per_image": 2.5e11},
        {"framework": "JAX", "batch": 96, "precision": "bfloat16", "images_per_s": 640.0},
        {"framework": "JAX", "batch": 192, "precision": "bfloat16", "failed": "no memory"},
    ]
    part = {"status": "stopped after 6.0 minutes", "seconds": 360, "rows": rows}
    page = accelerator_page.page(
        {"started": "", "minutes": 25, "rehearsal": False, "parts": {"jax_steps": part}}
    )
    assert "| the training step in JAX | stopped after 6.0 minutes | 360 |" in page
    assert "400.0 in bfloat16" in page
    assert "| 96 | bfloat16 | JAX | 640.0 | 40% |" in page  # 640 * 2.5e11 / 4e14
    assert "| 192 | bfloat16 | JAX | no memory | - |" in page


def test_the_whole_command_on_the_cpu(tmp_path, soak):
    if not soak:
        pytest.skip("takes minutes; pass --soak")
    output = tmp_path / "out"
    script = BENCHMARKS / "accelerator.sh"
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
