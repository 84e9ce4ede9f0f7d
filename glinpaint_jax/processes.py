"""Joins the other processes of a run, and compares what they run."""

import json
import os
import socket
from typing import Any

import jax
import numpy as np

import glinpaint_jax
from glinpaint_jax.config import Config, flatten, to_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import cache_folder

# Seconds. Hosts may start minutes apart; one that stops responding is dropped sooner.
JOIN_TIMEOUT = 300
HEARTBEAT_TIMEOUT = 40
SHUTDOWN_TIMEOUT = 120
LISTING_TIMEOUT = 3600  # until all processes have listed their images

exit_now = os._exit  # a normal exit would wait for the other processes

# Fields that may differ between the processes of a run. Of sources, the images are compared.
PER_PROCESS_FIELDS = ("data.source", "data.eval_source", "data.num_workers")


def start(
    join: bool = False,
    coordinator: str | None = None,
    process_count: int | None = None,
    process_id: int | None = None,
) -> None:
    """Sets jax's compilation cache and joins the run's other processes. Call it before using jax.

    Without arguments the program is a single process. Given `join`, jax detects SLURM, Open MPI 4
    and TPU pods; anywhere else all three of the others are needed. If a process dies or never
    joins, the others end within the timeouts above, by an exception or by jax's abort (SIGABRT).
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    if not join and (coordinator, process_count, process_id) == (None, None, None):
        return
    if coordinator is not None:
        _check_coordinator(coordinator, listens=process_id == 0)
    # The preemption service would take SIGTERM, on which training saves and stops.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            process_count,
            process_id,
            initialization_timeout=JOIN_TIMEOUT,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    except Exception as error:  # of many types, such as of a metadata server
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(
            f"cannot join the other processes: {reason}; pass --coordinator=HOST:PORT "
            "--process-count=N --process-id=I, with ids from 0 to N-1"
        ) from None


def _check_coordinator(address: str, listens: bool) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"--coordinator is {address!r}, must be HOST:PORT of process 0, e.g. 10.0.0.1:8476"
        )
    if listens:  # on a port in use jax may crash with a segmentation fault
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise UserError(
                f"process 0 cannot listen on port {port}: {os.strerror(error.errno)}; pass "
                "another one in --coordinator to all processes"
            ) from None


def require_same(config: Config, others: dict[str, Any]) -> None:
    """Compares the config, the versions and `others`, by name, with those of the other processes.

    If anything differs, leaves them and raises UserError in every process. Call it before the
    first computation: with different programs, the processes would wait for each other forever.
    """
    if not jax.distributed.is_initialized():
        return
    # jax has no public way to its key-value store, and comparing on the devices could block.
    from jax._src.distributed import global_state

    client, number = global_state.client, global_state.process_id
    fields = flatten(to_dict(config)).items()
    mine = {name: value for name, value in fields if name not in PER_PROCESS_FIELDS} | others
    mine |= {module.__name__: module.__version__ for module in (glinpaint_jax, jax, np)}
    client.key_value_set(f"glinpaint_jax/{number}", json.dumps(mine), allow_overwrite=True)
    found = [
        json.loads(client.blocking_key_value_get(f"glinpaint_jax/{i}", LISTING_TIMEOUT * 1000))
        for i in range(global_state.num_processes)
    ]
    differences = describe_differences(found)
    if differences:
        jax.distributed.shutdown()  # waits for the others: jax aborts those that lose process 0
        raise UserError(
            f"the processes of this run differ: {differences}; start all of them with the same "
            "command, data and versions"
        )


def describe_differences(found: list[dict[str, Any]]) -> str:
    """Returns what differs, such as "seed: 0 on process 0, 1 on process 3"; empty if nothing does.

    `found` holds the values of each process by name. Of each name, the first process that differs
    from process 0 is shown.
    """
    differences = []
    for name in dict.fromkeys(name for values in found for name in values):
        first, *others = (values.get(name, "missing") for values in found)
        for number, value in enumerate(others, start=1):
            if value != first:
                differences.append(f"{name}: {first!r} on process 0, {value!r} on process {number}")
                break
    return "; ".join(differences)
