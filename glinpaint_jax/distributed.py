"""Devices: one mesh over all of them, batches split along it, everything else replicated."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from glinpaint_jax import processes
from glinpaint_jax.errors import UserError

DATA_AXIS = "data"


def start(
    coordinator: str | None = None, process_count: int | None = None, process_id: int | None = None
) -> None:
    """Prepares jax for a program of one or several processes; see `processes.join`. First call."""
    keep_compiled_programs()
    processes.join(coordinator, process_count, process_id)


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
