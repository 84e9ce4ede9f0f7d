"""Compiles a run's steps before the first one, and checks that they fit the devices' memory."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from glinpaint_jax.config import Config
from glinpaint_jax.errors import UserError
from glinpaint_jax.runs.report import Reporter
from glinpaint_jax.training.phases import Phase, phases_between
from glinpaint_jax.training.state import TrainState
from glinpaint_jax.training.step import Batch, Step, make_steps

CGROUPS = Path("/sys/fs/cgroup")
# Sums gradients during the backward pass. jax's page on GPU performance recommends the flag, and
# NVIDIA's JAX images set it.
GPU_FLAGS = {"xla_gpu_enable_latency_hiding_scheduler": True}


def compile_steps(
    config: Config,
    mesh: Mesh,
    state: TrainState,
    batch: Batch,
    start: int,
    reporter: Reporter,
) -> dict[Phase, Step]:
    """Compiles the step of each phase after step `start`, and says how much memory each needs.

    `state` and `batch` are what the first step will get. Raises UserError if a step does not fit.
    """
    steps, needed, free = make_steps(config, mesh), {}, free_memory()
    state_size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    limit = None if free is None else free + state_size  # the state is there already
    phases = phases_between(start, config.num_steps, config.phases)
    for phase in reversed(phases):  # later phases need more memory
        with reporter.say_if_slow(f"compiling the {phase.value} step ..."):
            steps[phase] = compile_step(steps[phase].lower(state, batch), phase, config)
        memory = steps[phase].memory_analysis()
        if memory is not None:  # not every backend tells
            needed[phase] = bytes_of(memory)
            if limit is not None:
                check_fit(phase, needed[phase], limit, state_size, config, mesh)
    if needed:
        sizes = ", ".join(f"{phase.value} {readable(needed[phase])}" for phase in phases)
        available = "" if limit is None else f"; {readable(limit)} available"
        reporter.say(f"memory per device: {sizes}{available}")
    return steps


def compile_step(lowered: jax.stages.Lowered, phase: Phase, config: Config) -> Step:
    """Raises UserError if the compiler finds that the step does not fit."""
    try:
        return lowered.compile(GPU_FLAGS if jax.default_backend() == "gpu" else None)
    except jax.errors.JaxRuntimeError as error:  # TPUs: the compiler assigns all memory
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(
            f"the {phase.value} step does not fit the memory of a device ({reason}); lower "
            f"--config.global_batch_size, which is {config.global_batch_size}"
        ) from None


def check_fit(
    phase: Phase, needed: int, limit: int, state_size: int, config: Config, mesh: Mesh
) -> None:
    """Raises UserError, with a batch that would fit, if a step needs more bytes than `limit`.

    The estimate is linear in the images of a microbatch. Gradients and optimizer updates, whose
    size does not depend on them, take about as much as the state.
    """
    if needed <= limit:
        return
    fixed, parts = 2 * state_size, config.microbatches
    images = config.global_batch_size // mesh.devices.size  # on each device
    per_image = max(needed - fixed, 1) * parts / images
    fitting = int(max(limit - fixed, 0) / per_image)
    if fitting:
        batch = fitting * mesh.devices.size * parts
        more = next(n for n in range(1, images + 1) if images % n == 0 and images // n <= fitting)
        advice = (
            f"about {batch} images would fit (a linear estimate): pass --config.global_batch_size="
            f"{batch}, or --config.microbatches={more} for the same batch"
        )
    else:
        advice = "not even one image would fit; lower --config.model.width or --config.image_size"
    raise UserError(
        f"the {phase.value} step needs {readable(needed)} of memory per device with "
        f"config.global_batch_size={config.global_batch_size}, but only {readable(limit)} are "
        f"available; {advice}"
    )


def bytes_of(memory: Any) -> int:
    """What a compiled program holds at once; donated inputs are reused for outputs."""
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return held - memory.alias_size_in_bytes


def readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def free_memory() -> int | None:
    """Free bytes of a device, the least over all processes; None if a backend does not tell."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":  # simulated devices share the machine's memory
        free = free_host_memory() // len(devices)
    else:
        stats = devices[0].memory_stats() or {}
        free = stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None
    if free is not None and jax.process_count() > 1:  # all must come to the same decision
        free = int(np.min(multihost_utils.process_allgather(np.float32(free))))
    return free


def free_host_memory(groups: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes this process may still use: those of the machine, or fewer under a cgroup's limit."""
    free = [psutil.virtual_memory().available]
    lines = membership.read_text().splitlines() if membership.exists() else []
    # Of version 2, the only one with the number 0. Containers and batch jobs set limits.
    for own in (line.removeprefix("0::/") for line in lines if line.startswith("0::/")):
        for folder in (groups / own, *(groups / own).parents):
            limit = folder / "memory.max"
            if limit.exists() and (text := limit.read_text().strip()) != "max":
                used = int((folder / "memory.current").read_text())
                stat = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
                # Cached files count as used, but are dropped when memory is short.
                free.append(int(text) - used + int(stat["inactive_file"]))
    return max(min(free), 0)
