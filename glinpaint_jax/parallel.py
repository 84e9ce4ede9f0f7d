"""Data parallelism over one mesh of all devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from glinpaint_jax.errors import UserError

DATA_AXIS = "data"


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over `devices`, by default all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA_AXIS,), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def local_batch_size(global_batch_size: int, microbatches: int, mesh: Mesh) -> int:
    """The number of images this process contributes to each global batch."""
    devices = mesh.devices.size
    parts = devices * microbatches
    if global_batch_size % parts:
        lower = global_batch_size // parts * parts
        wanted = f"{devices} devices" + f" x {microbatches} microbatches" * (microbatches > 1)
        raise UserError(
            f"config.global_batch_size is {global_batch_size}, must be a multiple of the "
            f"{wanted}; pass --config.global_batch_size={lower or parts}"
        )
    return global_batch_size // jax.process_count()


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> Any:
    """Turns this process's host arrays into global arrays, split along the first axis."""
    return jax.make_array_from_process_local_data(batch_sharding(mesh), batch)
