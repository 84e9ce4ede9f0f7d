"""Compiles a run's steps before the first one, and checks that they fit the devices' memory."""

from collections.abc import Callable
from math import inf
from typing import Any

import jax
import jax.numpy as jnp
import psutil
from jax.sharding import Mesh

from glinpaint_jax.config import BBOX_MASK_KINDS, Config
from glinpaint_jax.errors import UserError
from glinpaint_jax.parallel import batch_sharding
from glinpaint_jax.training.phases import Phase, phases_between
from glinpaint_jax.training.state import TrainState
from glinpaint_jax.training.step import Step, make_steps

# Sums gradients during the backward pass. jax's page on GPU performance recommends the flag, and
# NVIDIA's JAX images set it.
GPU_FLAGS = {"xla_gpu_enable_latency_hiding_scheduler": True}


def compile_steps(
    config: Config, mesh: Mesh, state: TrainState, log: Callable[[str], Any]
) -> dict[Phase, Step]:
    """Compiles the step of each phase that follows, and logs how much memory each needs."""
    batch = abstract_batch(config, mesh)
    available = free_memory() + sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    phases = phases_between(int(state.step), config.num_steps, config.phases)
    log("compiling all phases; at full size, this takes minutes the first time ...")
    steps, needed = make_steps(config, mesh), {}
    for phase in reversed(phases):  # later phases need more memory
        steps[phase] = compile_step(steps[phase].lower(state, batch), phase, config)
        needed[phase] = bytes_of(steps[phase].memory_analysis())
        if needed[phase] > available:
            reason = f"{readable(needed[phase])} needed, {readable(available)} available"
            raise does_not_fit(phase, reason, config)
    sizes = ", ".join(f"{phase.value} {readable(needed[phase])}" for phase in phases)
    log(f"memory per device: {sizes}; {readable(available)} available")
    return steps


def abstract_batch(config: Config, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes, types and shardings of the batches of `train_batches`."""
    b, s, sharding = config.global_batch_size, config.image_size, batch_sharding(mesh)
    batch = {
        "image": jax.ShapeDtypeStruct((b, s, s, 3), jnp.uint8, sharding=sharding),
        "bbox": jax.ShapeDtypeStruct((b, 4), jnp.int32, sharding=sharding),
    }
    if config.mask.kind not in BBOX_MASK_KINDS or config.mask.max_holes > 1:
        batch["mask"] = jax.ShapeDtypeStruct((b, s, s, 1), jnp.uint8, sharding=sharding)
    return batch


def compile_step(lowered: jax.stages.Lowered, phase: Phase, config: Config) -> Step:
    """Raises UserError if the compiler finds that the step does not fit."""
    try:
        return lowered.compile(GPU_FLAGS if jax.default_backend() == "gpu" else None)
    except jax.errors.JaxRuntimeError as error:  # TPUs: the compiler assigns all memory
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise does_not_fit(phase, str(error).partition("\n")[0].rstrip("."), config) from None


def does_not_fit(phase: Phase, reason: str, config: Config) -> UserError:
    return UserError(
        f"the {phase.value} step does not fit the memory of a device ({reason}); lower "
        f"--config.global_batch_size, which is {config.global_batch_size}, or raise "
        f"--config.microbatches, which is {config.microbatches}"
    )


def bytes_of(memory: Any) -> int:
    """What a compiled program holds at once; donated inputs are reused for outputs."""
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return held - memory.alias_size_in_bytes


def free_memory() -> int | float:
    """Free bytes of a device; infinite if its backend does not say."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":  # simulated devices share the machine's memory
        return psutil.virtual_memory().available // len(devices)
    stats = devices[0].memory_stats() or {}
    return stats.get("bytes_limit", inf) - stats.get("bytes_in_use", 0)


def readable(size: int | float) -> str:
    if size == inf:
        return "an unknown amount"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
