"""Servers started as people start them."""

import contextlib
import select
import signal
import socket
import subprocess
import time

import pytest

from tests.programs import ROOT, command, environment


@contextlib.contextmanager
def serving(workdir, *more):
    """Yields (address, process); the process is told to stop at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (f"--checkpoint={workdir}", f"--port={port}", *more)
    process = subprocess.Popen(
        command("glinpaint_jax", "serve", *arguments),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        ready, _, _ = select.select([process.stdout], [], [], 120)
        assert ready, "the server did not start within two minutes"
        assert "serving" in (line := process.stdout.readline()), line + process.stdout.read()
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.fixture(scope="session")
def server(finished_run):
    """(address, process) of a server of the small model that takes photographs up to 1 MB."""
    with serving(finished_run[0], "--max-megapixels=1", "--max-megabytes=1") as started:
        yield started


def wait_for(condition, seconds=60):
    """The first true value of `condition()`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {condition}"
        time.sleep(0.1)
    return value
