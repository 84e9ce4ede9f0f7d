"""Compiles the training steps for TPUs without having one, and reads the compiled programs.

    pip install -e . libtpu==0.0.42.1
    python scripts/benchmarks/tpu_compile.py [--chips v5e v6e] [--phases joint]
        [--precisions bfloat16] [--pixel-blocks off] [--images 16] [--hlo DIRECTORY]

Steps are those of configs/places.py, for 8 chips. Nothing runs: times are the compiler's own
estimates, which we have never compared with a TPU. Compiling a step takes 4 to 8 minutes of a core.
--hlo keeps the compiled programs as text. With --pixel-blocks on, FLOP include multiplications by
zeros: compare milliseconds, not shares of the peak.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from configs.places import get_config
from glinpaint_jax.config import PRECISIONS
from glinpaint_jax.distributed import batch_sharding, make_mesh
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import abstract_state
from glinpaint_jax.training.step import make_steps


class Chip(NamedTuple):
    accelerator_type: str
    clock: float  # Hz: peak / (2 FLOP in each cell of the matrix units)
    peak: float  # FLOP/s in bfloat16, as published


CHIPS = {
    "v5e": Chip("v5litepod-8", 1.5e9, 197e12),  # four 128x128 units
    # Four 256x256 units. Two, as some pages say, would need 3.5 GHz, and would do fewer FLOP per
    # cycle (262,144) than the compiler expects of a large matrix product (369,000).
    "v6e": Chip("v6e-8", 1.75e9, 918e12),
}


class Instruction(NamedTuple):
    """An instruction of the compiled program's entry computation."""

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    cycles: int  # the compiler's estimate; 0 if it gives none
    source: str  # where it comes from: a path of jax's functions and our layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=list(CHIPS))
    phases = [phase.value for phase in Phase]
    parser.add_argument("--phases", nargs="+", choices=phases, default=phases)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--pixel-blocks", choices=("on", "off"), default="on")
    parser.add_argument("--images", type=int, default=12, help="on each chip")
    parser.add_argument("--hlo", type=Path, help="keep the compiled programs in this folder")
    options = parser.parse_args()
    # Otherwise libtpu asks the cloud's metadata server, and waits.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost")
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # several of these programs at a time
    jax.config.update("jax_platforms", "cpu")
    for chip in options.chips:
        for precision in options.precisions:
            for phase in options.phases:
                report(chip, precision, Phase(phase), options)


def report(chip: str, precision: str, phase: Phase, options: argparse.Namespace) -> None:
    blocks, images, folder = options.pixel_blocks, options.images, options.hlo
    started = time.perf_counter()
    compiled = compile_step(chip, precision, phase, blocks, images)
    seconds = time.perf_counter() - started
    text, cost, memory = compiled.as_text(), compiled.cost_analysis(), compiled.memory_analysis()
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{chip}_{precision}_{phase.value}_blocks_{blocks}_{images}.hlo"
        (folder / name).write_text(text)
    instructions = read_entry(text)
    clock, peak = CHIPS[chip].clock, CHIPS[chip].peak
    step = sum(one.cycles for one in instructions) / clock
    print(f"\n{chip}, {precision}, {phase.value} step, pixel_blocks={blocks}, {images} images")
    print(
        f"  {step * 1e3:.1f} ms by the compiler's estimate; {cost['flops'] / 1e12:.3f} TFLOP, "
        f"{cost['flops'] / step / peak:.1%} of the bfloat16 peak; compiled in {seconds:.0f} s"
    )
    print(
        f"  {cost['bytes accessed'] / 1e9:.1f} GB read and written; memory: "
        f"{memory.argument_size_in_bytes / 1e9:.2f} GB of state and batch, "
        f"{memory.temp_size_in_bytes / 1e9:.2f} GB of temporaries"
    )
    reductions = [one for one in instructions if one.opcode.startswith("all-reduce")]
    print(f"  {len(reductions)} all-reduces, at most {reduction_depth(instructions)} in a row")
    moves = [one for one in instructions if is_move(one)]
    print(f"  {len(moves)} copies and transposes: {total_ms(moves, clock):.2f} ms; the longest:")
    print_longest(moves, 3, clock)
    fusions = [one for one in instructions if not is_move(one)]
    print("  the longest of the others:")
    print_longest(fusions, 10, clock)
    sys.stdout.flush()


def compile_step(
    chip: str, precision: str, phase: Phase, blocks: str, images_per_chip: int
) -> jax.stages.Compiled:
    os.environ["TPU_ACCELERATOR_TYPE"] = CHIPS[chip].accelerator_type
    topology = topologies.get_topology_desc(f"{chip}:2x4", "tpu")
    mesh = make_mesh(list(topology.devices))
    config = get_config()
    config.precision, config.pixel_blocks = precision, blocks
    config.global_batch_size = images = images_per_chip * mesh.devices.size
    shape = images, config.image_size, config.image_size, 3
    sharding = batch_sharding(mesh)
    batch = {
        "image": jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=sharding),
        "bbox": jax.ShapeDtypeStruct((images, 4), jnp.int32, sharding=sharding),
    }
    return make_steps(config, mesh)[phase].lower(abstract_state(config, mesh), batch).compile()


def read_entry(text: str) -> list[Instruction]:
    """The instructions of a compiled program's entry computation, in order."""
    found = []
    for line in text[text.index("\nENTRY") :].splitlines()[1:]:
        match = re.match(r"\s+(?:ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\((.*)", line)
        if not match:
            continue
        name, shape, opcode, rest = match.groups()
        cycles = re.search(r'"estimated_cycles":"(\d+)"', rest)
        source = re.search(r'op_name="([^"]*)"', rest)
        operands = re.findall(r"%([\w.-]+)", rest.partition(")")[0])
        found.append(
            Instruction(
                name,
                opcode,
                shape,
                tuple(operands),
                int(cycles[1]) if cycles else 0,
                source[1] if source else "",
            )
        )
    return found


def reduction_depth(instructions: Iterable[Instruction]) -> int:
    """The largest number of all-reduces that wait for one another."""
    depths: dict[str, int] = {}
    for one in instructions:
        before = max((depths.get(operand, 0) for operand in one.operands), default=0)
        depths[one.name] = before + one.opcode.startswith("all-reduce")
    return max(depths.values())


def is_move(one: Instruction) -> bool:
    """Whether an instruction only moves data, e.g. from one layout to another."""
    kinds = "copy", "transpose", "reverse", "reshape", "slice", "pad", "bitcast", "concatenate"
    return one.opcode in kinds or re.match(rf"({'|'.join(kinds)})_\w*fusion", one.name) is not None


def total_ms(instructions: Iterable[Instruction], clock: float) -> float:
    return sum(one.cycles for one in instructions) / clock * 1e3


def print_longest(instructions: list[Instruction], count: int, clock: float) -> None:
    for one in sorted(instructions, key=lambda one: -one.cycles)[:count]:
        shape = re.sub(r"{[^}]*}", "", one.shape)
        print(f"    {one.cycles / clock * 1e3:6.2f} ms  {layer_of(one.source):44} {shape[:60]}")


def layer_of(source: str) -> str:
    """A layer and its pass, e.g. 'Generator/decoder/dec6/conv, backward'."""
    direction = "backward" if "transpose(" in source else "forward"
    names = r"/(?:encoder|dilation_neck|decoder|\w+_disc|\w*\d|fc|conv|bn)\b"
    layer = re.search(rf"(Generator|Discriminator)\)*((?:{names})*)", source)
    return f"{layer[1]}{layer[2]}, {direction}" if layer else source[-44:]


if __name__ == "__main__":
    main()
