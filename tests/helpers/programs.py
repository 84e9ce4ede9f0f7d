"""Runs the programs as users do, in separate processes."""

import contextlib
import fcntl
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import ClassVar
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from glinpaint_jax import __main__ as programs
from glinpaint_jax.config import from_dict
from glinpaint_jax.parallel import make_mesh
from glinpaint_jax.training.state import abstract_state

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 300  # seconds
# Ten steps through all phases; checkpoints after 4, 8 and 10.
SMALL = [
    "--config=configs/demo.py",
    "--config.num_steps=10",
    "--config.global_batch_size=4",
    "--config.model.width=4",
    "--config.model.base=none",
    "--config.log_every=1",
    "--config.eval_every=100",
    "--config.checkpoint_every=4",
    "--config.data.eval_images=4",
    "--config.phases.completion_end=2",
    "--config.phases.discriminator_end=5",
    "--config.optimizer.schedule=constant",
]
# Completion only, and no weight changes. The tests with two processes share this compiled program.
STILL = [
    *SMALL,
    "--config.optimizer.learning_rate=1e-30",
    "--config.phases.completion_end=1000000",
    "--config.phases.discriminator_end=1000000",
]


def command(*arguments):
    return [sys.executable, "-m", *map(str, arguments)]


def environment(**changes):
    """Two devices: enough to be parallel, quick to compile."""
    return os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"} | changes


def run(*arguments, **changes):
    return execute(command(*arguments), **changes)


def execute(arguments, **changes):
    return subprocess.run(
        arguments,
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def run_here(*arguments):
    """Like `run("glinpaint_jax", ...)`, but in this process, where jax and PyTorch are loaded."""
    written, errors, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(written),
        contextlib.redirect_stderr(errors),
        mock.patch.object(sys, "argv", ["glinpaint_jax", *map(str, arguments)]),
        mock.patch.object(warnings, "formatwarning"),  # the program replaces it
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        try:
            programs.main()
        except SystemExit as end:
            status = end.code
            if isinstance(status, str):  # Python prints it
                errors.write(status)
                status = 1
    return subprocess.CompletedProcess(arguments, status, written.getvalue(), errors.getvalue())


def shared_run(name, tmp_path_factory, *arguments):
    """Runs the program once for all parallel test processes; returns its workdir and stderr."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    workdir, written = folder / name, folder / f"{name}.stderr"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not written.exists():
            result = run(*arguments, f"--workdir={workdir}")
            assert result.returncode == 0, result.stderr
            written.write_text(result.stderr)
    return workdir, written.read_text()


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_for(condition, seconds=60, errors=()):
    """Polls `condition()`, which may raise `errors`, and returns its first true value."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(*errors):
            if value := condition():
                return value
        assert time.monotonic() < end, f"waited {seconds} s for {condition}"
        time.sleep(0.03)


def start_processes(count, *arguments, devices=1, own=None, **changes):
    """`own` holds more arguments of each process."""
    address = free_address()
    return [
        Started(
            *arguments,
            *(own[number] if own else ()),
            "--distributed",
            f"--coordinator={address}",
            f"--process-count={count}",
            f"--process-id={number}",
            JAX_NUM_CPU_DEVICES=str(devices),
            **changes,
        )
        for number in range(count)
    ]


@contextlib.contextmanager
def small_disk(folder, size):
    """A disk in `folder`; yields a function that changes its size."""

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
        return subprocess.run(command, capture_output=True).returncode

    folder.mkdir()
    if mount(f"size={size}"):
        pytest.skip("only root can mount a small disk")
    try:
        yield lambda size: mount(f"remount,size={size}")
    finally:
        subprocess.run(["umount", folder], check=True)


class Started:
    """A running program and the lines it has written to stderr so far."""

    all: ClassVar[list["Started"]] = []

    def __init__(self, *arguments, **changes):
        self.all.append(self)
        self.lines = []
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=ROOT,
            env=environment(**changes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        with self.process.stderr:
            for line in self.process.stderr:
                self.lines.append(line.rstrip())

    def wait_for(self, *texts):
        """Waits for a line that contains one of the texts."""

        def said():
            return any(text in line for line in self.lines for text in texts)

        wait_for(lambda: said() or not self._reader.is_alive(), TIMEOUT)
        assert said(), self.lines

    def workers(self):
        """Process ids of its data workers."""
        children = ["pgrep", "-P", str(self.process.pid), "-f", "spawn_main"]
        found = subprocess.run(children, capture_output=True, text=True)
        return [int(number) for number in found.stdout.split()]

    def result(self, seconds=TIMEOUT):
        """Waits for the program to exit; returns the same as `run`."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._reader.join(seconds)
        assert not self._reader.is_alive(), "a process that it started is still running"
        errors = "".join(line + "\n" for line in self.lines)
        return subprocess.CompletedProcess(self.process.args, status, stderr=errors)


def final_state(workdir, step):
    """Loads the state at `step` onto one device, whatever devices the run used."""
    path = (workdir / "checkpoints" / str(step)).absolute()
    config = from_dict(json.loads((path / "config" / "metadata").read_text()))
    abstract = abstract_state(config, make_mesh(jax.devices()[:1]))
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path / "state", abstract)


def assert_same_state(first, second):
    """Compares bit for bit."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def read_jsonl(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def assert_rejected(result, *expected):
    """Checks for status 1 and a single line on stderr that contains the expected texts."""
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 1, result.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for text in expected:
        assert text in lines[0]
