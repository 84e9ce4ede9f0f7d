"""Starts the web server in its own process."""

import contextlib
import signal
import socket
import subprocess
import time

from tests.helpers.programs import ROOT, command, environment


@contextlib.contextmanager
def serving(workdir, folder, *more):
    """Yields (address, process), and stops the process at the end.

    Its temporary files and its output (output.txt) go to `folder`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (f"--checkpoint={workdir}", f"--port={port}", *more)
    output = folder / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            command("glinpaint_jax", "serve", *arguments),
            cwd=ROOT,
            env=environment(TMPDIR=str(folder)),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: output.read_text() or process.poll() is not None, 120)
        assert output.read_text().startswith("serving")
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()


def wait_for(condition, seconds=60):
    """Polls `condition()` and returns its first true value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {condition}"
        time.sleep(0.1)
    return value
