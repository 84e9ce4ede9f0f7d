"""Runs of several processes: compared with one process, stopped, and with failing saves."""

import re
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from glinpaint_jax import processes
from glinpaint_jax.files import find_damage, write_manifest
from glinpaint_jax.parallel import make_mesh, replicated
from glinpaint_jax.runs import checkpoints
from glinpaint_jax.runs.report import log
from glinpaint_jax.step_folders import FOLDER, steps_in
from tests.helpers.configs import make_small_config
from tests.helpers.programs import STILL, final_state, read_jsonl, run, start_processes

STEPS = 6
# Several processes add the devices' sums in a different order, so the first losses differ by 1e-7.
# At a normal learning rate every step multiplies that by 10 to 100. A tiny learning rate keeps it
# far below real errors: one wrong example in a batch changes the loss by 1e-2.
TOLERANCE = 1e-6
RUN = [
    "glinpaint_jax.main",
    *STILL,
    f"--config.num_steps={STEPS}",
    "--config.global_batch_size=8",
    "--config.optimizer.learning_rate=1e-7",
]
ALL_PHASES = [  # steps: 2 completion, 1 discriminator, 3 joint
    "--config.phases.discriminator_end=2",
    "--config.phases.completion_end=1",
]


def losses(workdir):
    return [
        [value for name, value in sorted(record.items()) if name.startswith("train/")]
        for record in read_jsonl(workdir)
        if "images_per_second" in record
    ]


def test_a_run_that_moves_between_hosts_and_devices_matches_one_process(tmp_path, soak):
    """Two hosts of four devices train, then one device, then eight; compared with eight."""
    run_flags = [*RUN, *(ALL_PHASES if soak else [])]

    def train(name, until, devices):
        flags = [f"--config.num_steps={until}", f"--workdir={tmp_path / name}"]
        result = run(*run_flags, *flags, JAX_NUM_CPU_DEVICES=str(devices))
        assert result.returncode == 0, result.stderr
        return result

    train("alone", STEPS, devices=8)
    moved = [*run_flags, "--config.num_steps=4", f"--workdir={tmp_path}/run"]
    results = [started.result() for started in start_processes(2, *moved, devices=4)]
    assert [result.returncode for result in results] == [0, 0], results
    assert "cpu x 8, 2 process(es)" in results[0].stderr
    assert "resuming at step 4" in train("run", 5, devices=1).stderr
    assert "resuming at step 5" in train("run", STEPS, devices=8).stderr

    found, expected = losses(tmp_path / "run"), losses(tmp_path / "alone")
    assert len(found) == len(expected) == STEPS
    for some, others in zip(found, expected, strict=True):
        np.testing.assert_allclose(some, others, rtol=TOLERANCE)
    found, expected = (final_state(tmp_path / name, STEPS) for name in ("run", "alone"))
    for network in ("generator", "discriminator"):
        pair = [getattr(state, network).variables for state in (found, expected)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=TOLERANCE), *pair)


def test_a_signal_to_one_process_saves_and_stops_both(tmp_path):
    workdir = tmp_path / "run"
    first, second = start_processes(
        2, "glinpaint_jax.main", *STILL, "--config.num_steps=1000000", f"--workdir={workdir}"
    )
    first.wait_for("step 4/")
    second.process.send_signal(signal.SIGTERM)
    results = [first.result(), second.result()]
    assert [result.returncode for result in results] == [0, 0], results
    assert "SIGTERM: finishing the step" in results[1].stderr
    step = int((workdir / "newest_checkpoint").read_text())
    last = results[0].stderr.splitlines()[-1]
    assert last == f"stopped at step {step} of 1000000; rerun to resume"
    assert find_damage(workdir / FOLDER / str(step)) is None


def save_some(workdir, _, *flags):
    """What each of two processes runs. Process 0 cannot seal steps 2 and 3."""
    address, count, number = (flag.partition("=")[2] for flag in flags)
    processes.start(True, address, int(count), int(number))
    state = jax.device_put({"weights": np.arange(4.0)}, replicated(make_mesh()))
    saving = checkpoints.Checkpoints(Path(workdir), make_small_config(max_failed_saves=3), log)

    def seal(folder):
        if folder.name != "1":
            raise OSError(28, "No space left on device")
        write_manifest(folder)

    checkpoints.write_manifest = seal
    for step in (1, 2, 3):
        saving.save(state, step, {})
    saving.finish()


def test_a_step_that_process_0_cannot_seal_counts_as_failed_in_both(tmp_path):
    for started in start_processes(2, "tests.runs.test_many_hosts", tmp_path):
        errors = started.result().stderr
        assert re.findall("^cannot save step (.).*: No space left", errors, re.M) == ["2", "3"]
        assert "the last step could not be saved" in errors
    assert steps_in(tmp_path) == [1]


if __name__ == "__main__":
    save_some(*sys.argv[1:])
