"""Two processes compared with one, and a run that moves between hosts and devices."""

import signal

import jax
import numpy as np
import pytest

from tests.helpers.programs import (
    SMALL,
    final_state,
    read_jsonl,
    run,
    run_processes,
    start_processes,
)

pytestmark = pytest.mark.independent

STEPS = 6
# Several processes add the devices' sums in a different order, so the first losses differ by 1e-7.
# At a normal learning rate every step multiplies that by 10 to 100. A tiny learning rate keeps it
# far below real errors: one wrong example in a batch changes the loss by 1e-2.
TOLERANCE = 1e-6
RUN = [
    "glinpaint_jax.main",
    *SMALL,
    f"--config.num_steps={STEPS}",
    "--config.global_batch_size=8",
    "--config.optimizer.learning_rate=1e-7",
    "--config.mask.fill=mean",
    "--config.phases.discriminator_end=2",  # steps: 2 completion, 1 discriminator, 3 joint
    "--config.phases.completion_end=1",
]
COMPLETION = [*RUN, "--config.phases.discriminator_end=100", "--config.phases.completion_end=100"]


def losses(workdir):
    return [
        [value for name, value in sorted(record.items()) if name.startswith("train/")]
        for record in read_jsonl(workdir)
        if "images_per_second" in record
    ]


def assert_close(workdir, alone):
    found, expected = losses(workdir), losses(alone)
    assert len(found) == len(expected) == STEPS
    for some, others in zip(found, expected, strict=True):
        np.testing.assert_allclose(some, others, rtol=TOLERANCE)
    found, expected = (final_state(folder, STEPS) for folder in (workdir, alone))
    for network in ("generator", "discriminator"):
        pair = [getattr(state, network).variables for state in (found, expected)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=TOLERANCE), *pair)


def test_two_processes_of_four_devices_match_one_of_eight(tmp_path):
    alone = run(*RUN, f"--workdir={tmp_path}/alone", JAX_NUM_CPU_DEVICES="8")
    assert alone.returncode == 0, alone.stderr
    results = run_processes(2, *RUN, f"--workdir={tmp_path}/run", devices=4)
    assert [result.returncode for result in results] == [0, 0], results
    assert "cpu x 8, 2 process(es)" in results[0].stderr
    assert_close(tmp_path / "run", tmp_path / "alone")


def test_a_run_moves_between_devices_and_hosts(tmp_path):
    """8 devices -> 1 -> 8 on two hosts, with the same parameters and the same data order."""

    def train(name, until, devices):
        arguments = [*COMPLETION, f"--config.num_steps={until}", f"--workdir={tmp_path / name}"]
        result = run(*arguments, JAX_NUM_CPU_DEVICES=str(devices))
        assert result.returncode == 0, result.stderr

    train("alone", STEPS, devices=8)
    train("run", 2, devices=8)
    train("run", 4, devices=1)
    results = run_processes(2, *COMPLETION, f"--workdir={tmp_path}/run", devices=4)
    assert [result.returncode for result in results] == [0, 0], results
    assert "resuming at step 4" in results[0].stderr
    assert_close(tmp_path / "run", tmp_path / "alone")


def test_a_signal_to_one_process_saves_and_stops_both(tmp_path):
    workdir = tmp_path / "run"
    first, second = start_processes(
        2,
        *COMPLETION,
        *(f"--config.{name}=1000000" for name in ("num_steps", "phases.discriminator_end")),
        "--config.phases.completion_end=1000000",
        f"--workdir={workdir}",
    )
    first.wait_for("step 4/")
    second.process.send_signal(signal.SIGTERM)
    results = [first.result(), second.result()]
    assert [result.returncode for result in results] == [0, 0], results
    assert "SIGTERM: finishing the step" in results[1].stderr
    step = int((workdir / "newest_checkpoint").read_text())
    assert results[0].stderr.splitlines()[-1] == (
        f"stopped at step {step} of 1000000; rerun to resume"
    )
    assert run("glinpaint_jax", "verify", workdir).returncode == 0
