"""Compiles the training steps for GPUs and TPUs without having one, and reads the programs.

    python scripts/benchmarks/compile_steps.py --chips h200 v5e v6e [--phases joint]
        [--precisions bfloat16] [--images 12 16] [--devices 8] [--hlo FOLDER]

Steps are those of configs/places.py; float32 is TF32 on a GPU. Nothing runs. For TPUs, times are
the compiler's own estimates. For GPUs there are none: a program's floor is the sum over its
operations of the longer of moving their bytes and multiplying, at the card's full rates, which no
operation reaches. We have compared neither with a device. One step takes half a minute (GPU) to
eight minutes (TPU) of a core. --hlo keeps the programs as text.
"""

import argparse
import contextlib
import importlib.metadata
import itertools
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
from hlo import Instruction, collective_depth, layer_of, misshapen, read_entry
from jax.experimental import topologies

from configs.places import get_config
from glinpaint_jax.config import PRECISIONS
from glinpaint_jax.parallel import make_mesh
from glinpaint_jax.training.compile import abstract_batch, bytes_of
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import abstract_state
from glinpaint_jax.training.step import make_steps


class Tpu(NamedTuple):
    topology: str
    accelerator: str  # Google's name of eight chips
    peak: float  # FLOP/s in bfloat16
    clock: float  # Hz: peak / (2 FLOP in each cell of the matrix units)


TPUS = {
    "v5e": Tpu("v5e:2x4", "v5litepod-8", 197e12, 1.5e9),  # four units of 128x128
    # Four of 256x256; two, as some pages say, would need 3.5 GHz.
    "v6e": Tpu("v6e:2x4", "v6e-8", 918e12, 1.75e9),
}
TPU_PACKAGES = "libtpu==0.0.42.1"
# Of an H200. FLOP/s are those of large matrix products; the data sheet says 989 and 495 TFLOP/s.
BANDWIDTH, PEAKS = 4.8e12, {"bfloat16": 790e12, "float32": 400e12}
H200_PACKAGES = (
    f"jax-cuda13-plugin=={jax.__version__} jax-cuda13-pjrt=={jax.__version__} nvidia-cudnn-cu13 "
    "nvidia-cuda-nvcc nvidia-nvvm"
)
# What the compiler must know of a card that is not there, as jax's deviceless tests write it.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 150000000000 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 20 }
runtime_version { major: 13 minor: 0 }
device_description_str: "NVIDIA H200"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    phases = [phase.value for phase in Phase]
    add("--chips", nargs="+", choices=("h200", *TPUS), default=("h200", *TPUS))
    add("--phases", nargs="+", choices=phases, default=phases)
    add("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    add("--images", nargs="+", type=int, default=[12], help="on each chip")
    add("--devices", type=int, choices=(1, 8), default=8)
    add("--hlo", type=Path, metavar="FOLDER", help="keep the compiled programs there")
    options = parser.parse_args()
    # Otherwise libtpu asks the cloud's metadata server, and waits.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost")
    os.environ.update(ALLOW_MULTIPLE_LIBTPU_LOAD="1", CUDA_VISIBLE_DEVICES="")
    jax.config.update("jax_platforms", "cpu")
    axes = options.chips, options.precisions, options.images, options.phases
    for case in itertools.product(*axes):
        report(*case, options.devices, options.hlo)


def report(
    chip: str, precision: str, images: int, phase: str, devices: int, folder: Path | None
) -> None:
    started = time.perf_counter()
    compiled = compile_step(chip, Phase(phase), precision, images, devices)
    seconds, text = time.perf_counter() - started, compiled.as_text()
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{chip}_{precision}_{phase}_{images}x{devices}.hlo"
        (folder / name).write_text(text)
    entry = read_entry(text)
    if chip == "h200":
        costs, summary = read_gpu(entry, precision)
    else:
        costs, summary = read_tpu(entry, TPUS[chip], compiled.cost_analysis())
    print(f"{chip}, {precision}, {phase}, {images} images x {devices}: {summary}")
    memory = compiled.memory_analysis()
    print(
        f"  memory: {bytes_of(memory) / 1e9:.2f} GB, {memory.temp_size_in_bytes / 1e9:.2f} "
        f"of them temporary; compiled in {seconds:.0f} s"
    )
    print_details(entry, costs)
    sys.stdout.flush()


def compile_step(
    chip: str, phase: Phase, precision: str, images_per_chip: int, devices: int
) -> jax.stages.Compiled:
    mesh = make_mesh(list(describe_chips(chip, devices))[:devices])
    config = get_config()
    config.precision, config.global_batch_size = precision, images_per_chip * devices
    if chip == "h200":
        config.matmul_precision = "tensorfloat32"
    batch = abstract_batch(config, mesh)
    step = make_steps(config, mesh)[phase].lower(abstract_state(config, mesh), batch)
    # Autotuning would need the card.
    flags = {"xla_gpu_enable_latency_hiding_scheduler": True, "xla_gpu_autotune_level": 0}
    return step.compile(flags if chip == "h200" else None)


def describe_chips(chip: str, devices: int) -> Any:
    """The chip's devices. Exits with one line if the packages that it needs are missing."""
    packages = H200_PACKAGES if chip == "h200" else TPU_PACKAGES
    try:
        for requirement in packages.split():
            importlib.metadata.version(requirement.partition("==")[0])
        if chip == "h200":
            return topologies.get_topology_desc(
                platform="cuda", target_config=H200, topology=f"1x1x{devices}"
            ).devices
        os.environ["TPU_ACCELERATOR_TYPE"] = TPUS[chip].accelerator
        return topologies.get_topology_desc(TPUS[chip].topology, "tpu").devices
    except (importlib.metadata.PackageNotFoundError, RuntimeError, NotImplementedError) as error:
        sys.exit(
            f"error: cannot compile for {chip} ({str(error).splitlines()[0]}); run: "
            f"pip install --no-deps --target FOLDER {packages}, and add FOLDER to PYTHONPATH"
        )


def read_gpu(entry: list[Instruction], precision: str) -> tuple[dict[str, float], str]:
    """Each instruction's share of the floor in ms, and a summary."""
    peak = PEAKS[precision]
    costs = {one.name: max(one.bytes / BANDWIDTH, one.flop / peak) * 1e3 for one in entry}
    moved, flop = sum(one.bytes for one in entry), sum(one.flop for one in entry)
    return costs, (
        f"{moved / 1e9:.1f} GB, {flop / 1e12:.2f} TFLOP, floor {sum(costs.values()):.2f} ms, "
        f"{len(misshapen(entry))} misshapen convolutions"
    )


def read_tpu(
    entry: list[Instruction], tpu: Tpu, cost: dict[str, float]
) -> tuple[dict[str, float], str]:
    """Each instruction's share of the compiler's estimate in ms, and a summary."""
    costs = {one.name: one.cycles / tpu.clock * 1e3 for one in entry}
    milliseconds = sum(costs.values())
    share = cost["flops"] / milliseconds * 1e3 / tpu.peak
    # Pixel blocks multiply by zeros: compare milliseconds, not shares.
    return costs, (
        f"{milliseconds:.1f} ms by the compiler's estimate, {cost['bytes accessed'] / 1e9:.1f} GB, "
        f"{cost['flops'] / 1e12:.2f} TFLOP, {share:.0%} of the bfloat16 peak"
    )


def print_details(entry: list[Instruction], costs: dict[str, float]) -> None:
    milliseconds, moved, kinds = Counter(), Counter(), Counter()
    for one in (one for one in entry if one.kind):
        milliseconds[one.kind] += costs[one.name]
        moved[one.kind] += one.bytes
        kinds[one.kind] += 1
    for kind, duration in milliseconds.most_common():
        print(f"  {duration:7.2f} ms {moved[kind] / 1e9:6.2f} GB {kinds[kind]:5}  {kind}")
    collectives = Counter(one.opcode.removesuffix("-start") for one in entry if one.is_collective)
    names = ", ".join(f"{count} {name}" for name, count in sorted(collectives.items()))
    print(f"  collectives: {names or 'none'}; at most {collective_depth(entry)} in a row")
    print("  the most expensive:")
    for one in sorted(entry, key=lambda one: -costs[one.name])[:10]:
        print(f"  {costs[one.name]:7.2f} ms {one.bytes / 1e9:6.2f} GB  {describe(one)}")
    if wrong := [one for one in misshapen(entry) if "cudnn" in one.name]:
        print("  misshapen convolutions:")
        for one in wrong:
            print(f"    {describe(one)}, {one.window}")


def describe(one: Instruction) -> str:
    return f"{layer_of(one.source):46} {re.sub(r'{[^}]*}', '', one.shape)[:56]}"


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
