"""Causes the faults of docs/reliability.md in real runs."""

import os
import random
import signal
import time

import pytest

from glinpaint_jax.files import find_damage
from glinpaint_jax.step_folders import FOLDER, steps_in
from tests.helpers import programs
from tests.helpers.programs import SMALL, Started, assert_same_state, final_state, run, wait_for

STEPS, EVERY = 24, 4
COMPLETION = [  # starts twice as fast as a run with all phases
    "glinpaint_jax.main",
    *SMALL,
    f"--config.num_steps={STEPS}",
    f"--config.checkpoint_every={EVERY}",
    f"--config.log_every={EVERY}",  # as checkpoint_every: a resumed run logs the same means
    "--config.phases.completion_end=1000000",
    "--config.phases.discriminator_end=1000000",
]
NEVER = ("num_steps", "log_every", "checkpoint_every")
ENDLESS = [*COMPLETION, *(f"--config.{name}=1000000" for name in NEVER)]
KILLS, SOAK_KILLS = 6, 20


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The workdir of an uninterrupted COMPLETION run."""
    return programs.shared_run("uninterrupted", tmp_path_factory, *COMPLETION)[0]


def assert_complete(workdir):
    assert steps_in(workdir)
    for step in steps_in(workdir):
        assert find_damage(workdir / FOLDER / str(step)) is None


def assert_as_uninterrupted(workdir, uninterrupted, steps=STEPS):
    assert_same_state(final_state(workdir, steps), final_state(uninterrupted, steps))
    first, second = programs.read_jsonl(workdir), programs.read_jsonl(uninterrupted)
    for record in first + second:
        record.pop("images_per_second", None)  # it differs from run to run
    assert first == second


def run_until_killed(workdir, rng):
    """Runs until a random kill -9 while starting, training or saving; returns the newest step."""
    started = Started("glinpaint_jax.main", *SMALL, f"--workdir={workdir}")
    if rng.random() < 0.8:
        started.wait_for("starting from", "resuming at", "nothing to do")
        time.sleep(rng.uniform(0, 8))
    else:
        time.sleep(rng.uniform(0, 5))
    started.process.kill()
    result = started.result()
    assert result.returncode in (-signal.SIGKILL, 0), result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    newest = workdir / "newest_checkpoint"
    return int(newest.read_text()) if newest.exists() else 0


def test_a_run_killed_at_random_moments_ends_bitwise_identical(finished_run, tmp_path, soak):
    """Through all phases."""
    rng, workdir = random.Random(0), tmp_path / "run"
    steps = [run_until_killed(workdir, rng) for _ in range(SOAK_KILLS if soak else KILLS)]
    assert steps == sorted(steps)  # no kill loses a complete checkpoint
    last = run("glinpaint_jax.main", *SMALL, f"--workdir={workdir}")
    assert last.returncode == 0, last.stderr
    assert_as_uninterrupted(workdir, finished_run[0], steps=10)


def test_signals_save_and_stop_and_the_run_resumes(uninterrupted, tmp_path):
    """Ctrl-C while training, SIGTERM while saving, and SIGTERM twice within a second at a start."""
    workdir, step = tmp_path / "run", 0
    unfinished = "checkpoints/*orbax-checkpoint-tmp"
    for number, moment in (
        (signal.SIGINT, "training"),
        (signal.SIGTERM, "saving"),
        (signal.SIGTERM, "starting"),
    ):
        started = Started(*COMPLETION, f"--workdir={workdir}")
        if moment == "training":
            started.wait_for(f"step {EVERY}/")
        elif moment == "saving":
            wait_for(lambda: list(workdir.glob(unfinished)), programs.TIMEOUT)
        else:
            started.wait_for("resuming at")
        started.process.send_signal(number)
        if moment == "starting":
            started.wait_for("SIGTERM: finishing the step")
            started.process.send_signal(number)
        result = started.result()
        assert result.returncode == 0, result.stderr
        assert f"{number.name}: finishing the step and saving" in result.stderr
        assert (f"resuming at step {step} of {STEPS}" in result.stderr) == (step > 0)
        before, step = step, int((workdir / "newest_checkpoint").read_text())
        assert before < step < STEPS
        last = result.stderr.splitlines()[-1]
        assert last == f"stopped at step {step} of {STEPS}; rerun to resume"
        assert_complete(workdir)

    result = run(*COMPLETION, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    assert f"resuming at step {step} of {STEPS}" in result.stderr
    assert_same_state(final_state(workdir, STEPS), final_state(uninterrupted, STEPS))


def test_a_second_signal_exits_at_once(tmp_path):
    started = Started(*ENDLESS, f"--workdir={tmp_path}/run")
    started.wait_for("starting from")
    started.process.send_signal(signal.SIGTERM)
    started.wait_for("SIGTERM: finishing the step")
    started.process.send_signal(signal.SIGSTOP)  # before it has saved
    time.sleep(1.5)
    started.process.send_signal(signal.SIGINT)
    started.process.send_signal(signal.SIGCONT)
    result = started.result()
    assert result.returncode == 128 + signal.SIGINT
    assert "stopped at step" not in result.stderr


def test_a_second_run_fails_killed_workers_restart_and_all_exit_with_their_run(tmp_path):
    flags = [*ENDLESS, f"--config.log_every={EVERY}", f"--workdir={tmp_path}/run"]
    first = Started(*flags, "--config.data.num_workers=2")
    first.wait_for(f"step {EVERY}/")
    second = run(*flags)
    programs.assert_rejected(second, f"in use by another run, process {first.process.pid} on ")

    killed = first.workers()
    os.kill(killed[0], signal.SIGKILL)
    first.wait_for("a data worker died with exit code -9")
    wait_for(lambda: len(set(first.workers()) - set(killed)) == 2)
    children = first.workers()
    first.process.kill()
    first.result()
    wait_for(lambda: not any(os.path.exists(f"/proc/{child}") for child in children))


def test_a_full_disk_fails_only_saves_that_do_not_fit(uninterrupted, tmp_path):
    """It has room for two checkpoints, but not three. Each has 1.2 to 1.8 MB."""
    workdir = tmp_path / "disk" / "run"
    folder = workdir / "checkpoints"
    with programs.small_disk(tmp_path / "disk", "5000k") as resize:
        result = run(*COMPLETION, f"--workdir={workdir}")
        assert result.returncode == 1
        assert "Traceback" not in result.stderr, result.stderr
        for step in (12, 16):
            assert f"cannot save step {step} in {folder}: No space left on device" in result.stderr
        last = result.stderr.splitlines()[-1]
        assert last.startswith(f"error: cannot save step 20 in {folder}: No space left on device")
        assert {path.name for path in folder.iterdir()} == {"4", "8"}
        assert_complete(workdir)

        resize("20m")
        result = run(*COMPLETION, f"--workdir={workdir}")
        assert result.returncode == 0, result.stderr
        assert_as_uninterrupted(workdir, uninterrupted)
