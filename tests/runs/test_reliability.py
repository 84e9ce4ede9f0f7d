"""Causes the faults of docs/reliability.md in real runs."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from tests.helpers.programs import (
    SMALL,
    Started,
    assert_rejected,
    assert_same_state,
    final_state,
    read_jsonl,
    run,
    shared_run,
)

STEPS, EVERY = 24, 4
RUN = [
    "glinpaint_jax.main",
    *SMALL,
    f"--config.num_steps={STEPS}",
    f"--config.checkpoint_every={EVERY}",
    "--config.eval_every=1000",
    f"--config.log_every={EVERY}",  # as checkpoint_every: a resumed run logs the same means
    "--config.phases.completion_end=2",
    "--config.phases.discriminator_end=4",
]
COMPLETION = [  # starts twice as fast
    *RUN,
    "--config.phases.completion_end=1000000",
    "--config.phases.discriminator_end=1000000",
]
ENDLESS = [
    *COMPLETION,
    *(f"--config.{name}=1000000" for name in ("num_steps", "log_every", "checkpoint_every")),
]
KILLS, SOAK_KILLS = 6, 20


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The workdir of an uninterrupted COMPLETION run."""
    return shared_run("uninterrupted", tmp_path_factory, *COMPLETION)[0]


@pytest.fixture
def small_disk(tmp_path):
    """A disk with room for two checkpoints of 1.5 MB, but not three."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=5500k", "none", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def assert_as_uninterrupted(workdir, uninterrupted):
    assert_same_state(final_state(workdir, STEPS), final_state(uninterrupted, STEPS))
    records = [
        [{k: v for k, v in r.items() if k != "images_per_second"} for r in read_jsonl(folder)]
        for folder in (workdir, uninterrupted)
    ]
    assert records[0] == records[1]


def run_until_killed(workdir, rng):
    """Runs until a random kill -9 while starting, training or saving; returns the newest step."""
    started = Started(*RUN, f"--workdir={workdir}")
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


def test_a_run_killed_at_random_moments_ends_bitwise_identical(tmp_path, soak):
    """Through all phases."""
    rng, workdir = random.Random(0), tmp_path / "run"
    steps = [run_until_killed(workdir, rng) for _ in range(SOAK_KILLS if soak else KILLS)]
    assert steps == sorted(steps)  # no kill loses a complete checkpoint
    last = run(*RUN, f"--workdir={workdir}")
    assert last.returncode == 0, last.stderr
    uninterrupted = tmp_path / "uninterrupted"
    assert run(*RUN, f"--workdir={uninterrupted}").returncode == 0
    assert_as_uninterrupted(workdir, uninterrupted)


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGTERM, "training"), (signal.SIGTERM, "saving"), (signal.SIGINT, "training")],
)
def test_a_signal_saves_and_stops_and_the_run_resumes(number, moment, uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    started = Started(*COMPLETION, f"--workdir={workdir}")
    if moment == "training":
        started.wait_for(f"step {EVERY}/")
    else:
        deadline = time.monotonic() + 240
        while not list(workdir.glob("checkpoints/*orbax-checkpoint-tmp")):
            assert started.process.poll() is None and time.monotonic() < deadline
    started.process.send_signal(number)
    result = started.result()
    assert result.returncode == 0, result.stderr
    assert f"{number.name}: finishing the step and saving" in result.stderr
    step = int((workdir / "newest_checkpoint").read_text())
    assert 0 < step < STEPS
    last = result.stderr.splitlines()[-1]
    assert last == f"stopped at step {step} of {STEPS}; rerun to resume"
    assert run("glinpaint_jax", "verify", workdir).returncode == 0

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


def test_a_repeated_signal_within_a_second_counts_once(tmp_path):
    started = Started(*ENDLESS, f"--workdir={tmp_path}/run")
    started.wait_for("starting from")
    started.process.send_signal(signal.SIGTERM)
    started.wait_for("SIGTERM: finishing the step")
    started.process.send_signal(signal.SIGTERM)
    assert started.result().returncode == 0


def test_a_second_run_in_the_same_workdir_fails(tmp_path):
    first = Started(*ENDLESS, f"--workdir={tmp_path}/run")
    first.wait_for("starting from")
    second = run(*ENDLESS, f"--workdir={tmp_path}/run")
    assert_rejected(second, f"in use by another run, process {first.process.pid} on ")
    first.process.send_signal(signal.SIGTERM)
    assert first.result().returncode == 0


def test_a_damaged_step_is_set_aside_and_the_previous_one_used(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    state = workdir / "checkpoints" / str(STEPS) / "state"
    largest = max((p for p in state.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    verified = run("glinpaint_jax", "verify", workdir)
    assert verified.returncode == 1
    assert f"{state.relative_to(tmp_path).parent}: state/" in verified.stdout

    result = run(*COMPLETION, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    assert f"checkpoint {STEPS} is damaged: state/" in result.stderr
    assert f"resuming at step {STEPS - EVERY}" in result.stderr
    assert_as_uninterrupted(workdir, uninterrupted)
    assert (workdir / "set_aside" / str(STEPS)).is_dir()


def test_a_full_disk_fails_only_saves_that_do_not_fit(small_disk, uninterrupted):
    workdir = small_disk / "run"
    result = run(*COMPLETION, f"--workdir={workdir}")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr, result.stderr
    folder = workdir / "checkpoints"
    for step in (12, 16):
        assert f"cannot save step {step} in {folder}: No space left on device" in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: cannot save step 20 in {folder}: No space left on device")
    assert {path.name for path in folder.iterdir()} == {"4", "8"}
    assert run("glinpaint_jax", "verify", workdir).returncode == 0

    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    result = run(*COMPLETION, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    assert_as_uninterrupted(workdir, uninterrupted)


def test_a_completely_full_disk_does_not_end_a_run(small_disk):
    workdir = small_disk / "run"
    started = Started(*ENDLESS, f"--config.log_every={EVERY}", f"--workdir={workdir}")
    started.wait_for(f"step {EVERY}/")
    with (small_disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass
    started.wait_for(f"cannot write records to {workdir}: No space left on device")
    (small_disk / "filler").unlink()
    started.process.send_signal(signal.SIGTERM)
    result = started.result()
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    # Records that did not fit on the full disk were written later.
    steps = [record["step"] for record in read_jsonl(workdir)]
    assert steps[:-1] == list(range(EVERY, steps[-2] + 1, EVERY))


def test_a_diverging_run_stops_with_intact_checkpoints(tmp_path):
    result = run(
        *COMPLETION,
        "--config.optimizer.learning_rate=1e38",
        "--config.checkpoint_every=1",
        "--config.max_skipped_updates=4",
        f"--workdir={tmp_path}/run",
    )
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert any(
        line.startswith("step 2: update skipped, 1 in a row; not finite: l1_hole nan")
        and "images: records [" in line
        for line in lines
    ), lines
    assert lines[-1].startswith("error: 4 updates in a row were not finite, the last at step 5")
    assert run("glinpaint_jax", "verify", f"{tmp_path}/run").returncode == 0


def workers_of(started):
    """Process ids of a run's data workers."""
    found = subprocess.run(
        ["pgrep", "-P", str(started.process.pid), "-f", "spawn_main"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(number) for number in found.stdout.split()]


def test_a_killed_worker_does_not_end_a_run(uninterrupted, tmp_path):
    started = Started(*COMPLETION, "--config.data.num_workers=2", f"--workdir={tmp_path}/run")
    started.wait_for(f"step {EVERY}/")
    for child in workers_of(started):
        os.kill(child, signal.SIGKILL)
    result = started.result()
    assert result.returncode == 0, result.stderr
    assert "a data worker died with exit code -9" in result.stderr
    assert_as_uninterrupted(tmp_path / "run", uninterrupted)


def test_workers_exit_when_their_run_is_killed(tmp_path):
    started = Started(
        *ENDLESS,
        f"--config.log_every={EVERY}",
        "--config.data.num_workers=2",
        f"--workdir={tmp_path}/run",
    )
    started.wait_for(f"step {EVERY}/")
    children = workers_of(started)
    assert len(children) == 2
    started.process.kill()
    started.result()
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{child}") for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)
