"""Signals, in this process."""

import signal

import pytest

from glinpaint_jax.runs.stopping import EvaluationStopped, stop_on_signals


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
