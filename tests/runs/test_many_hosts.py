"""A run that moves between hosts and devices compared with one on a single host."""

import signal

import jax
import numpy as np

from tests.helpers.programs import (
    SMALL,
    STILL,
    final_state,
    read_jsonl,
    run,
    run_here,
    run_processes,
    start_processes,
)

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
]
ALL_PHASES = [  # steps: 2 completion, 1 discriminator, 3 joint
    "--config.phases.discriminator_end=2",
    "--config.phases.completion_end=1",
]
COMPLETION = [  # compiles four times as fast
    "--config.phases.discriminator_end=1000000",
    "--config.phases.completion_end=1000000",
]


def losses(workdir):
    return [
        [value for name, value in sorted(record.items()) if name.startswith("train/")]
        for record in read_jsonl(workdir)
        if "images_per_second" in record
    ]


def test_a_run_that_moves_between_hosts_and_devices_matches_one_process(tmp_path, soak):
    """Two hosts of four devices train, then one device, then eight; compared with eight."""
    run_flags = [*RUN, *(ALL_PHASES if soak else COMPLETION)]

    def train(name, until, devices):
        result = run(
            *run_flags,
            f"--config.num_steps={until}",
            f"--workdir={tmp_path / name}",
            JAX_NUM_CPU_DEVICES=str(devices),
        )
        assert result.returncode == 0, result.stderr
        return result

    train("alone", STEPS, devices=8)
    moved = [*run_flags, "--config.num_steps=4", f"--workdir={tmp_path}/run"]
    results = run_processes(2, *moved, devices=4)
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
    assert results[0].stderr.splitlines()[-1] == (
        f"stopped at step {step} of 1000000; rerun to resume"
    )
    assert run_here("verify", workdir).returncode == 0
