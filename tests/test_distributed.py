import http.server
import socket
import sys
import threading
import time

import jax
import numpy as np
import pytest

from glinpaint_jax import distributed
from glinpaint_jax.errors import UserError
from tests.helpers.programs import (
    SMALL,
    assert_refused,
    execute,
    free_address,
    run,
    start_processes,
)


def test_a_batch_that_devices_cannot_share_is_refused_with_one_that_they_can(mesh8):
    assert distributed.local_batch_size(16, mesh8) == 16
    for size, remedy in ((20, 16), (3, 8)):
        with pytest.raises(UserError) as error:
            distributed.local_batch_size(size, mesh8)
        message = str(error.value)
        assert f"global_batch_size is {size}" in message and "8 devices" in message
        assert f"--config.global_batch_size={remedy}" in message


def test_batches_are_split_over_the_devices(mesh8):
    batch = distributed.to_global({"image": np.arange(16).reshape(16, 1)}, mesh8)
    shards = batch["image"].addressable_shards
    assert [shard.data.ravel().tolist() for shard in shards] == [
        [2 * i, 2 * i + 1] for i in range(8)
    ]
    assert {shard.device for shard in shards} == set(jax.devices())


NAMES = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_NUM_NODES",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MEGASCALE_NUM_SLICES",
    "TPU_PROCESS_ADDRESSES",
    "TPU_WORKER_HOSTNAMES",
)


@pytest.fixture
def environ(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_flags_and_environment_describe_the_same(environ):
    assert distributed.described(None, None, None) == (None, None, None)
    assert distributed.described("a:1", 3, 2) == ("a:1", 3, 2)
    for name, value in zip(NAMES, ("b:2", "4", "0"), strict=False):
        environ.setenv(name, value)
    assert distributed.described(None, None, None) == ("b:2", 4, 0)
    assert distributed.described(None, None, 3) == ("b:2", 4, 3)
    assert distributed.described("a:1", 3, 2) == ("a:1", 3, 2)


def test_a_count_of_one_is_a_program_of_its_own(environ):
    environ.setattr("jax.distributed.initialize", lambda *_, **__: pytest.fail("joined others"))
    environ.setenv("JAX_NUM_PROCESSES", "1")
    distributed.join(None, None, None)
    distributed.join("a:1", 1, 0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((None, 2, None), "missing: --coordinator=HOST:PORT .*, --process-id=I"),
        (("a:1", None, 0), "missing: --process-count=N"),
        (("a", 2, 0), "coordinator is 'a', must be HOST:PORT"),
        (("a:70000", 2, 0), "'a:70000', must be HOST:PORT"),
        (("::1:5", 2, 0), "'::1:5', must be HOST:PORT"),
        (("a:1", 2, 2), "process 2 of 2: ids go from 0"),
        (("a:1", 2, -1), "process -1 of 2"),
        (("a:1", 0, 0), "process 0 of 0"),
    ],
    ids=str,
)
def test_impossible_descriptions_are_refused(arguments, expected, environ):
    with pytest.raises(UserError, match=expected):
        distributed.join(*arguments)
    assert distributed.described("[::1]:5", 2, 0) == ("[::1]:5", 2, 0)


@pytest.mark.parametrize(
    ("program", "flags", "expected"),
    [
        (["glinpaint_jax.main"], ["--coordinator=a:1", "--process-count=2"], "--process-id=I"),
        (["glinpaint_jax.main"], ["--process-id=one"], "one"),
        (["glinpaint_jax", "evaluate"], ["--checkpoint=x", "--process-count=2"], "--coordinator"),
    ],
    ids=str,
)
def test_programs_refuse_half_a_description_in_one_line(program, flags, expected):
    assert_refused(run(*program, *SMALL, *flags), expected)


def test_the_environment_is_checked_like_the_flags(environ):
    environ.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(UserError, match="JAX_COORDINATOR_ADDRESS"):
        distributed.join(None, None, None)
    environ.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES is 'two'"):
        distributed.join(None, None, None)


def test_only_launchers_of_several_processes_count(environ):
    environ.setattr(distributed, "tpu_hosts", lambda: "")
    for name, value in (
        ("SLURM_NTASKS", "2"),  # of a job whose script runs us without srun
        ("SLURM_STEP_NUM_TASKS", "1"),
        ("OMPI_COMM_WORLD_SIZE", "1"),
    ):
        environ.setenv(name, value)
    assert not distributed.launched_with_others()
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES"):
        with environ.context() as inner:
            inner.setenv(name, "2")
            assert distributed.launched_with_others(), name


def test_a_launcher_that_jax_does_not_know_is_refused_with_a_remedy():
    """In a process of its own: jax joins others only before it has computed anything."""
    code = "from glinpaint_jax import distributed; distributed.join(None, None, None)"
    # Open MPI 5 names no coordinator.
    result = execute([sys.executable, "-c", code], OMPI_COMM_WORLD_SIZE="2")
    last = result.stderr.splitlines()[-1]
    assert "UserError" in last and "coordinator" in last
    assert last.endswith("Pass --coordinator=HOST:PORT --process-count=N --process-id=I")


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"}, "all"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}, "1"),
        ({"SLURM_STEP_NUM_TASKS": "4", "CUDA_VISIBLE_DEVICES": "0"}, "all"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "all"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "1"),
    ],
    ids=str,
)
def test_a_process_takes_the_gpus_that_are_its_own(variables, gpus, environ):
    """jax takes the one with the process's number on its host, here 1."""
    environ.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in variables.items():
        environ.setenv(name, value)
    chosen = {}
    environ.setattr(distributed, "_say_when_aborted", lambda line: None)
    environ.setattr(jax.config, "update", chosen.__setitem__)
    environ.setattr(
        "jax.distributed.initialize",
        lambda *_, **__: jax.config.update("jax_cuda_visible_devices", "1"),
    )
    distributed.join(None, None, None)
    assert chosen["jax_cuda_visible_devices"] == gpus


def test_a_coordinator_needs_a_free_port(environ):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: Address already in use"):
            distributed.join(f"127.0.0.1:{port}", 2, 0)


def test_the_environment_names_the_hosts_of_a_tpu(environ):
    environ.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert not distributed.launched_with_others()
    environ.setenv("TPU_WORKER_HOSTNAMES", "t0,t1")
    assert distributed.launched_with_others()


def test_the_metadata_server_is_asked_and_may_be_silent(environ):
    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path.endswith("/instance/attributes/worker-network-endpoints")
            self.send_response(200 if known and self.headers["Metadata-Flavor"] else 404)
            self.end_headers()
            self.wfile.write(b"a:0:10.0.0.1,b:1:10.0.0.2" if known else b"")

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environ.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
    assert distributed.ask_metadata("worker-network-endpoints").count(",") == 1
    assert distributed.ask_metadata("something-else") == ""
    server.shutdown()
    server.server_close()
    assert distributed.ask_metadata("worker-network-endpoints") == ""


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_whose_partner_never_comes_says_where_it_waited(process):
    address = free_address()
    code = (
        "from glinpaint_jax import distributed; distributed.JOIN_TIMEOUT = 2; "
        f"distributed.join('{address}', 2, {process})"
    )
    result = execute([sys.executable, "-c", code])
    assert result.returncode == 1, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: not all processes have come within 2 s") and address in last


def newest(workdir):
    path = workdir / "newest_checkpoint"
    return int(path.read_text()) if path.exists() else 0


def test_when_a_process_dies_the_other_says_so_and_both_resume(tmp_path):
    """kill -9 of the second process, then, in the resumed run, of the first, the coordinator."""
    workdir = tmp_path / "run"
    for victim in (1, 0):
        before = newest(workdir)
        both = start_processes(
            2,
            "glinpaint_jax.main",
            *SMALL,
            "--config.num_steps=100000",
            "--config.phases.completion_end=200000",
            "--config.phases.discriminator_end=200000",
            f"--workdir={workdir}",
        )
        deadline = time.monotonic() + 240
        while newest(workdir) == before:
            assert all(started.process.poll() is None for started in both), both[0].lines
            assert time.monotonic() < deadline
            time.sleep(0.02)
        both[victim].process.kill()
        results = [started.result(120) for started in both]
        lines = [result.stderr.splitlines() for result in results]
        assert results[1 - victim].returncode == 1
        assert any(
            line.startswith("error: another process of this run has died")
            and line.endswith("start all of them again to resume")
            for line in lines[1 - victim]
        ), lines
        assert any(line.startswith(f"resuming at step {before} ") for line in lines[0]) == (
            before > 0
        )
