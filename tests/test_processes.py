import os
import socket
import subprocess
import sys

import pytest

from glinpaint_jax import parallel, processes
from glinpaint_jax.errors import UserError
from tests.helpers import programs
from tests.helpers.programs import SMALL, STILL, assert_rejected, execute, start_processes, wait_for

ENDLESS = ["glinpaint_jax.main", *STILL, "--config.num_steps=100000", "--config.checkpoint_every=1"]


@pytest.mark.parametrize("variable", ["", "/there"])
def test_compiled_programs_and_downloads_share_a_cache(variable):
    code = (
        "import jax; from glinpaint_jax import processes, downloads; processes.start(); "
        "print(jax.config.jax_compilation_cache_dir, downloads.cache_folder())"
    )
    changes = {"HOME": "/home", "XDG_CACHE_HOME": variable, "JAX_COMPILATION_CACHE_DIR": ""}
    result = execute([sys.executable, "-c", code], **changes)
    expected = f"{variable or '/home/.cache'}/glinpaint_jax"
    assert result.stdout.split() == [expected, expected], result.stderr


def test_indivisible_batch_is_rejected_with_a_size_that_fits(mesh8):
    assert parallel.local_batch_size(16, 1, mesh8) == 16
    assert parallel.local_batch_size(32, 2, mesh8) == 32
    for size, parts, wanted in ((20, 1, "8 devices"), (24, 2, "8 devices x 2 microbatches")):
        with pytest.raises(UserError) as error:
            parallel.local_batch_size(size, parts, mesh8)
        assert str(error.value) == (
            f"config.global_batch_size is {size}, must be a multiple of the {wanted}; pass "
            "--config.global_batch_size=16"
        )


INCOMPLETE_OR_IMPOSSIBLE = {  # arguments of start: part of the message
    (True,): "coordinator_address should be defined; pass --coordinator=HOST:PORT",
    (False, "a:1", 2): "process id of the current process must be defined",
    (False, "a", 2, 0): "--coordinator is 'a', must be HOST:PORT",
    (False, "a:70000", 2, 0): "'a:70000', must be HOST:PORT",
    (False, "a:1", 2, 2): "Got process_id=2, num_processes=2",
}


def test_incomplete_and_impossible_arguments_are_rejected():
    """Runs in a new process: jax can join others only before its first computation."""
    code = f"""
from glinpaint_jax import processes, errors
for arguments in {list(INCOMPLETE_OR_IMPOSSIBLE)}:
    try:
        processes.start(*arguments)
    except errors.UserError as error:
        print(error)
"""
    result = execute([sys.executable, "-c", code])
    messages = result.stdout.splitlines()
    assert len(messages) == len(INCOMPLETE_OR_IMPOSSIBLE), result.stderr
    for message, expected in zip(messages, INCOMPLETE_OR_IMPOSSIBLE.values(), strict=True):
        assert expected in message


def test_coordinator_needs_a_free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: Address already in use"):
            processes.start(coordinator=f"127.0.0.1:{port}", process_count=2, process_id=0)


@pytest.mark.parametrize(
    ("tasks", "on_node", "gpus"), [("1", "4", "0,1,2,3"), ("4", "4", "unset"), ("1", "", "unset")]
)
def test_launch_slurm_gives_one_task_per_node_all_gpus(tasks, on_node, gpus, tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho "gpus ${JAX_LOCAL_DEVICE_IDS-unset}: $*"\n')
    srun.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "localhost"}
    slurm |= {"SLURM_NTASKS_PER_NODE": tasks, "SLURM_GPUS_ON_NODE": on_node}
    result = subprocess.run(
        ["bash", "scripts/cluster/launch_slurm.sh", "--config", "c.py", "--workdir", "w"],
        cwd=programs.ROOT,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "python"} | slurm,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    last = result.stdout.splitlines()[-1]
    assert last.startswith(f"gpus {gpus}: ")
    assert last.endswith("python -m glinpaint_jax.main --distributed --config c.py --workdir w")


def test_processes_that_differ_all_stop_and_say_how(tmp_path):
    """Any of these fields alone would block or abort both, or train a mixture of two runs."""
    values = {"global_batch_size": (4, 6), "model.width": (4, 6), "losses.l1_hole": (1.0, 2.0)}
    flags = values | {"data.num_workers": (0, 1)}  # this may differ
    own = [[f"--config.{name}={pair[number]}" for name, pair in flags.items()] for number in (0, 1)]
    both = start_processes(2, "glinpaint_jax.main", *SMALL, f"--workdir={tmp_path}/run", own=own)
    expected = "; ".join(
        f"{name}: {first} on process 0, {second} on process 1"
        for name, (first, second) in values.items()
    )
    for result in [started.result() for started in both]:
        assert_rejected(result, f"error: the processes of this run differ: {expected}; start all")


def newest(workdir):
    path = workdir / "newest_checkpoint"
    return int(path.read_text()) if path.exists() else 0


def wait_for_step_after(step, workdir, both):
    def has_ended():
        return any(started.process.poll() is not None for started in both)

    wait_for(lambda: newest(workdir) > step or has_ended(), 240)
    assert not has_ended(), both[0].lines


def test_if_one_process_dies_the_other_exits_and_both_resume(tmp_path):
    """Kills the second process, then, in the resumed run, the first (the coordinator).

    Before, a second start of process 1 is rejected, and the run goes on.
    """
    workdir = tmp_path / "run"
    for victim in (1, 0):
        before = newest(workdir)
        both = start_processes(2, *ENDLESS, f"--workdir={workdir}")
        wait_for_step_after(before, workdir, both)
        if victim == 1:
            second = programs.run(*both[1].process.args[2:])
            assert_rejected(second, f"{workdir} is in use by another run")
            wait_for_step_after(newest(workdir), workdir, both)
        both[victim].process.kill()
        results = [started.result(120) for started in both]
        assert results[1 - victim].returncode in (1, -6), results  # an exception, or aborted by jax
        resumed = any(line.startswith(f"resuming at step {before} ") for line in both[0].lines)
        assert resumed == (before > 0)
