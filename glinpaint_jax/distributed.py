"""Devices: one mesh over all of them, batches split along it, everything else replicated."""

import ctypes
import multiprocessing
import os
import re
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from glinpaint_jax.errors import UserError

DATA_AXIS = "data"


def start(
    join: bool = False,
    coordinator: str | None = None,
    process_count: int | None = None,
    process_id: int | None = None,
) -> None:
    """Prepares jax for a program of one or several processes; see `join`. First call."""
    keep_compiled_programs()
    if join:
        globals()["join"](coordinator, process_count, process_id)


def keep_compiled_programs() -> None:
    """In the user's cache folder, or where JAX_COMPILATION_CACHE_DIR says."""
    if not jax.config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache / "glinpaint_jax"))


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over `devices`, by default all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA_AXIS,), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def local_batch_size(global_batch_size: int, mesh: Mesh) -> int:
    """Images that this process contributes to each global batch.

    Raises UserError where the devices cannot share the batch evenly.
    """
    devices = mesh.devices.size
    if global_batch_size % devices:
        lower = global_batch_size // devices * devices
        raise UserError(
            f"config.global_batch_size is {global_batch_size}, must be a multiple of the "
            f"{devices} devices; pass --config.global_batch_size={lower or devices}"
        )
    return global_batch_size // jax.process_count()


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> Any:
    """Host arrays of this process, split along their first axis -> global device arrays."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, values)
        for name, values in batch.items()
    }


# Seconds. Hosts may come up minutes apart; one that has stopped to answer is given up sooner.
JOIN_TIMEOUT = 300
HEARTBEAT_TIMEOUT = 40
SHUTDOWN_TIMEOUT = 120

ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):(\d{1,5})")
LOST = (
    "another process of this run has died or cannot be reached{reason}; its own last lines say "
    "why; start all of them again to resume"
)
# What the collectives of CPUs (Gloo) and GPUs (NCCL) and jax's coordinator say of lost peers.
LOST_WORDS = re.compile(r"gloo|nccl|coordinat|barrier|heartbeat|socket closed|connection", re.I)
HANDLERS = []  # ctypes asks that they be kept


def join(coordinator: str | None, process_count: int | None, process_id: int | None) -> None:
    """Joins the other processes of this run, if there are any.

    What is not given is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    Where nothing is given, SLURM, Open MPI and TPU pods are recognised. Raises UserError for half
    a description, an impossible one, and for processes that do not come.
    """
    given = described(coordinator, process_count, process_id)
    if given == (None, None, None):
        if launched_with_others():
            _initialize(None, None, None)
    elif given[1] != 1:
        if given[2] == 0:
            _refuse_used_port(int(given[0].rpartition(":")[2]))
        _initialize(*given)


def described(
    coordinator: str | None, process_count: int | None, process_id: int | None
) -> tuple[str | None, int | None, int | None]:
    """Address, count and id, of the arguments or else the environment; all None without any.

    JAX_NUM_PROCESSES alone decides whether the environment describes several.
    """
    arguments = (coordinator, process_count, process_id)
    if arguments == (None, None, None) and _number("JAX_NUM_PROCESSES") in (None, 1):
        return None, None, None
    address = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = _number("JAX_NUM_PROCESSES") if process_count is None else process_count
    process = _number("JAX_PROCESS_ID") if process_id is None else process_id
    missing = [
        flag
        for flag, value in (
            ("--coordinator=HOST:PORT (JAX_COORDINATOR_ADDRESS)", address),
            ("--process-count=N (JAX_NUM_PROCESSES)", count),
            ("--process-id=I (JAX_PROCESS_ID)", process),
        )
        if value is None
    ]
    if missing:
        raise UserError(f"several processes need all three; missing: {', '.join(missing)}")
    match = ADDRESS.fullmatch(address)
    if not match or not 0 < int(match[2]) < 2**16:
        raise UserError(
            f"the coordinator is {address!r}, must be HOST:PORT of process 0, e.g. 10.0.0.1:8476"
        )
    if count < 1 or not 0 <= process < count:
        raise UserError(
            f"process {process} of {count}: ids go from 0 to the count of processes - 1"
        )
    return address, count, process


def launched_with_others() -> bool:
    """Whether SLURM, Open MPI or a TPU pod has started more processes than this one.

    A single task must not wait for others: of SLURM's variables only those of a step (srun)
    count, for the script of a job with many tasks is one process.
    """
    return (
        (_number("SLURM_STEP_NUM_TASKS") or 1) > 1
        or (_number("OMPI_COMM_WORLD_SIZE") or 1) > 1
        or (_number("MEGASCALE_NUM_SLICES") or 1) > 1
        or "," in tpu_hosts()
    )


def tpu_hosts() -> str:
    """Those of the TPU slice that this machine belongs to, with commas; empty without a TPU.

    Kubernetes has them in the environment; TPU machines of their own ask their metadata server.
    """
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if name in os.environ:
            return os.environ[name]
    if not any(Path("/dev").glob("accel[0-9]*")) and not any(Path("/dev/vfio").glob("[0-9]*")):
        return ""
    return ask_metadata("worker-network-endpoints")


def ask_metadata(attribute: str) -> str:
    """An attribute of this machine in Google's cloud; empty where there is none, or no cloud."""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/{attribute}",
        headers={"Metadata-Flavor": "Google"},
    )
    # Not through a proxy: the server is this machine's own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _refuse_used_port(port: int) -> None:
    # jax would end with a segmentation fault.
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at port {port}: {os.strerror(error.errno)}; give all "
            "processes another one in --coordinator"
        ) from None


def _initialize(address: str | None, count: int | None, process: int | None) -> None:
    where = f"process 0 is expected at {address}" if address else "detected from the environment"
    _say_when_aborted(
        f"not all processes have come within {JOIN_TIMEOUT} s; {where}; start all of them"
    )
    # It would swallow SIGTERM, which training takes as a wish to stop.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address,
            count,
            process,
            initialization_timeout=JOIN_TIMEOUT,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    except ValueError as error:
        raise UserError(
            f"the environment speaks of several processes but lacks what jax needs: {error} "
            "Pass --coordinator=HOST:PORT --process-count=N --process-id=I"
        ) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"could not join the other processes: {reason}; {where}") from None
    _say_when_aborted(LOST.format(reason=""))
    if _gpus_are_divided_already():
        jax.config.update("jax_cuda_visible_devices", "all")


def _gpus_are_divided_already() -> bool:
    # Under SLURM and Open MPI jax takes for each process the one GPU numbered like it on its host.
    # That is wrong for a single process on each host, and where one GPU is all that it can see.
    tasks, nodes = os.environ.get("SLURM_STEP_NUM_TASKS"), os.environ.get("SLURM_STEP_NUM_NODES")
    alone = (tasks and tasks == nodes) or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    return bool(alone) or "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ",")


def _say_when_aborted(line: str) -> None:
    # Where others do not come, or die, threads of jax's abort the process. Python's own handlers
    # do not run then; one of C's does.
    def say(_: int) -> None:
        os.write(2, f"error: {line}\n".encode())
        exit_now(1)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(say)
    HANDLERS.append(handler)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, type(handler)]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, handler)


def exit_now(status: int) -> NoReturn:
    """Ends this process at once: jax's own exit would wait for the others first."""
    for child in multiprocessing.active_children():  # data workers would stay behind
        child.kill()
    os._exit(status)


def lost_another(error: BaseException) -> str | None:
    """The line for people where `error` of jax's says that another process is gone."""
    if not isinstance(error, jax.errors.JaxRuntimeError) or not LOST_WORDS.search(str(error)):
        return None
    reason = str(error).splitlines()[0]
    return LOST.format(reason=f" ({reason})")


def _number(name: str) -> int | None:
    """Of the environment. Raises UserError where it is none."""
    text = os.environ.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}", text):
        raise UserError(f"{name} is {text!r} in the environment, must be a number")
    return int(text)
