"""Signals, and a closed terminal: SIGHUP, and no stderr."""

import os
import signal
import subprocess
import time

import pytest

from glinpaint_jax.runs.stopping import EvaluationStopped, stop_on_signals
from tests.helpers.programs import ROOT, SMALL, TIMEOUT, command, environment, read_jsonl


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_sighup_stops_a_run_unless_it_was_ignored(before, mesh1):
    handler = signal.signal(signal.SIGHUP, before)
    try:
        with stop_on_signals(mesh1) as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.is_agreed() == (before == signal.SIG_DFL)
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, handler)


def test_a_request_to_stop_interrupts_an_evaluation(mesh1):
    with stop_on_signals(mesh1) as stop:
        completion = stop.interrupting(lambda batch: f"{batch} completed")
        assert completion("batch") == "batch completed"
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(EvaluationStopped):
            completion("batch")


def test_a_run_without_stderr_saves_when_its_terminal_closes(tmp_path):
    workdir = tmp_path / "run"
    endless = ("num_steps", "checkpoint_every", "phases.completion_end", "phases.discriminator_end")
    program = command(
        "glinpaint_jax.main",
        *SMALL,
        *(f"--config.{name}=1000000" for name in endless),
        "--config.eval_every=1000000",
        f"--workdir={workdir}",
    )
    process = subprocess.Popen(
        ["bash", "-c", 'exec "$@" 2>&-', "bash", *program], cwd=ROOT, env=environment()
    )
    try:
        deadline = time.monotonic() + TIMEOUT
        while not read_jsonl(workdir):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        # No file of the run took stderr's number.
        assert os.readlink(f"/proc/{process.pid}/fd/2") == os.devnull
        process.send_signal(signal.SIGHUP)
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()
    assert int((workdir / "newest_checkpoint").read_text()) > 0
