"""Training, completion and input compared with PyTorch: the tables of docs/benchmarks.md.

    pip install -e '.[torch]'
    python scripts/benchmarks/training.py [--batch 4] [--rounds 5] [--quick] [--no-compile]

Measures, with random weights at full width, 256x256, in float32 and bfloat16: training steps, the
generator alone, completing a 200x200 hole in a 6000x4000 photograph, the input pipeline alone, and
the share of training time spent waiting for it. PyTorch runs the same networks with channels_last,
eagerly and, unless --no-compile, with torch.compile. Programs take turns so that noise affects all
of them; reported are the median, fastest and slowest. FLOP are the model's, without multiplications
by padding; a large matrix product is timed in the same turns for comparison.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import completion
import input_pipeline
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh

from glinpaint_jax.config import PRECISIONS, Config
from glinpaint_jax.data.datasets import TRAINING_PHOTOS
from glinpaint_jax.data.pipeline import train_batches
from glinpaint_jax.data.sources import PhotoSource
from glinpaint_jax.models.networks import make_networks
from glinpaint_jax.parallel import make_mesh, replicated, to_global
from glinpaint_jax.training.compile import bytes_of
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import abstract_state, create_state
from glinpaint_jax.training.step import make_steps

PRODUCT = "product "
LONGEST = 120  # seconds after which a comparison stops, but not before two rounds
Run = Callable[[], Any]


@dataclasses.dataclass
class Program:
    """Something to time, with its compiler's numbers (None if unknown).

    `step` runs a training step on a batch and returns the losses without waiting for them.
    """

    run: Run
    compile_s: float | None = None
    flop: float | None = None
    bytes: int | None = None
    step: Callable[[Any], Any] | None = None
    compiled: Any = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4, help="size in training steps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="batch 2, two rounds, joint step only")
    parser.add_argument("--no-compile", action="store_true", help="no torch.compile")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # grain's worker processes read them
    import torch
    import training_torch

    if arguments.quick:
        arguments.batch, arguments.rounds, arguments.no_compile = 2, 2, True
    print(
        f"{time.strftime('%Y-%m-%d')}: jax {jax.__version__} on {len(jax.devices())} x "
        f"{jax.devices()[0].device_kind}, torch {torch.__version__} on "
        f"{training_torch.DEVICE}, Python {platform.python_version()}",
        flush=True,
    )
    rows = []
    for phase in [Phase.JOINT] if arguments.quick else Phase:
        name = f"{phase.value} step, batch {arguments.batch}"
        programs = step_programs(phase, arguments)
        rows.append(compare(name, programs, arguments.batch, arguments))
    rows.append(waiting_row(programs["JAX bfloat16"].step, arguments))
    sizes = [(256, 1)] if arguments.quick else itertools.product((256, 512, 1024), (1, 8))
    for size, batch in sizes:
        programs = forward_programs(size, batch, arguments)
        rows.append(compare(f"generator {size}x{size}, batch {batch}", programs, batch, arguments))
    rows += [completion_row(), *input_rows(arguments)]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def compare(
    name: str, programs: dict[str, Program], images: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Seconds per image of each program, timed in turns; the first turn is a warm-up."""
    programs |= {PRODUCT + kind: matrix_product(kind) for kind in PRECISIONS}
    seconds: dict[str, list[float]] = {}
    failed, began = {}, time.perf_counter()
    for turn in range(arguments.rounds + 1):
        if turn > 2 and time.perf_counter() - began > LONGEST:
            break
        for kind, program in programs.items():
            if kind in failed:
                continue
            started = time.perf_counter()
            try:
                program.run()
            except Exception as error:  # no C++ compiler for torch.compile, or out of memory
                failed[kind] = (str(error).strip() or repr(error)).splitlines()[0]
                continue
            passed = time.perf_counter() - started
            if turn:
                seconds.setdefault(kind, []).append(passed)
            elif program.compile_s is None:
                program.compile_s = passed
    measured = {
        kind: describe(kind, programs, each, images, seconds)
        for kind, each in seconds.items()
        if not kind.startswith(PRODUCT)
    }
    row = {"name": name, "programs": measured, "failed": failed}
    print_row(row)
    return row


def describe(
    kind: str,
    programs: dict[str, Program],
    each: list[float],
    images: int,
    seconds: dict[str, list[float]],
) -> dict[str, Any]:
    """One program's results: time per image, FLOP/s and their share of a matrix product's."""
    program, median = programs[kind], statistics.median(each)
    flop = next(other.flop for other in programs.values() if other.flop)  # the model's, as JAX's
    ceiling = PRODUCT + kind.split()[1]  # "JAX float32" -> of the product in float32
    rate = flop / median
    return {
        "seconds_an_image": [round(s / images, 5) for s in (median, min(each), max(each))],
        "compile_s": round(program.compile_s, 1),
        "gigabytes": program.bytes and round(program.bytes / 1e9, 2),
        "gflops": round(rate / 1e9),
        "of_product": round(rate * statistics.median(seconds[ceiling]) / programs[ceiling].flop, 2),
    }


def print_row(row: dict[str, Any]) -> None:
    print(row["name"])
    for kind, values in row["programs"].items():
        median, least, most = values["seconds_an_image"]
        memory = f", {values['gigabytes']} GB" if values["gigabytes"] else ""
        print(
            f"  {kind:26} {median:8.4f} s an image ({least:.4f}-{most:.4f}), "
            f"{values['gflops']} GFLOP/s ({values['of_product']:.0%} of a product), "
            f"first call {values['compile_s']} s{memory}"
        )
    for precision in PRECISIONS:
        ours, theirs = (
            [
                values["seconds_an_image"][0]
                for kind, values in row["programs"].items()
                if kind.startswith(f"{side} {precision}")
            ]
            for side in ("JAX", "PyTorch")
        )
        if ours and theirs:
            print(f"  JAX is {min(theirs) / min(ours):.2f} times as fast in {precision}")
    for kind, reason in row["failed"].items():
        print(f"  {kind}: failed: {reason}")
    sys.stdout.flush()


def matrix_product(dtype: str, precision: str = "tensorfloat32") -> Program:
    """A large matrix product, larger on accelerators; bfloat16 is summed in float32.

    `precision` is how accelerators multiply float32. Numbers are random: GPUs multiply equal ones
    faster.
    """
    side = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(
        functools.partial(
            jnp.matmul,
            precision=None if dtype == "bfloat16" else precision,
            preferred_element_type=jnp.float32,
        )
    )
    return Program(lambda: product(matrix, matrix).block_until_ready(), flop=2 * side**3)


def compiled_program(function: Any, *operands: Any) -> tuple[Any, Program]:
    """The compiled function, and a program with its compiler's numbers but nothing to run."""
    lowered = function.lower(*operands)
    started = time.perf_counter()
    compiled = lowered.compile()
    passed = time.perf_counter() - started
    size = bytes_of(compiled.memory_analysis())
    return compiled, Program(lambda: None, passed, bytes=size, compiled=compiled)


def count_flop(function: Any, *operands: Any) -> float:
    """The model's FLOP. `function` and `operands` must not be bound to an accelerator.

    Counted as for a TPU, because on a CPU some convolutions are loops, but by the CPU's backend:
    those of accelerators refuse.
    """
    with jax.default_device(jax.devices("cpu")[0]):
        lowered = function.trace(*operands).lower(lowering_platforms=("tpu",))
        return lowered.cost_analysis()["flops"]


def count_step_flop(config: Config, phase: Phase) -> float:
    mesh = make_mesh(jax.devices("cpu")[:1])
    batch = jax.tree.map(
        lambda values: jax.ShapeDtypeStruct(values.shape, values.dtype), random_batch(config)
    )
    return count_flop(make_steps(config, mesh)[phase], abstract_state(config, mesh), batch)


def step_programs(phase: Phase, arguments: argparse.Namespace) -> dict[str, Program]:
    import training_torch

    programs = {}
    for precision in PRECISIONS:
        config = Config(global_batch_size=arguments.batch, precision=precision)
        program = jax_step(config, phase, make_mesh())
        programs[f"JAX {precision}"] = dataclasses.replace(
            program, flop=count_step_flop(config, phase)
        )
        for kind, compiled in torch_kinds(precision, arguments):
            batch = random_batch(config)
            step = training_torch.make_steps(config, batch, compiled=compiled)[phase]
            programs[kind] = Program(step)
    return programs


def random_batch(config: Config) -> dict[str, np.ndarray]:
    """Random pixels, and the same hole in all images."""
    count, size = config.global_batch_size, config.image_size
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    box = np.int32([60, 70, 120, 110]) * size // 256  # top, left, height, width
    return {"image": images, "bbox": np.tile(box, (count, 1))}


def torch_kinds(precision: str, arguments: argparse.Namespace) -> list[tuple[str, bool]]:
    eager = (f"PyTorch {precision}", False)
    return [eager] if arguments.no_compile else [eager, (f"PyTorch {precision} compiled", True)]


def jax_step(config: Config, phase: Phase, mesh: Mesh) -> Program:
    """A training step; each call continues from the state of the previous one."""
    batch = to_global(random_batch(config), mesh)
    state = jax.jit(lambda: create_state(config), out_shardings=replicated(mesh))()
    step, program = compiled_program(make_steps(config, mesh)[phase], state, batch)

    def advance(batch: Any) -> Any:
        nonlocal state
        state, losses = step(state, batch)
        return losses

    run = lambda: jax.block_until_ready((advance(batch), state))  # noqa: E731
    return dataclasses.replace(program, run=run, step=advance)


def forward_programs(size: int, batch: int, arguments: argparse.Namespace) -> dict[str, Program]:
    import training_torch

    image, mask = jnp.zeros((batch, size, size, 3)), jnp.zeros((batch, size, size, 1))
    programs = {}
    for precision in PRECISIONS:
        config = Config(precision=precision)
        network, _ = make_networks(config)
        variables = jax.jit(functools.partial(network.init, train=True))(
            jax.random.key(0), image[:1, :16, :16], mask[:1, :16, :16]
        )
        operands = variables, image, mask
        apply, program = compiled_program(
            jax.jit(functools.partial(network.apply, train=False)), *operands
        )
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), operands)
        flop = count_flop(jax.jit(functools.partial(network.apply, train=False)), *abstract)
        programs[f"JAX {precision}"] = dataclasses.replace(
            program, flop=flop, run=lambda apply=apply, on=operands: apply(*on).block_until_ready()
        )
        for kind, compiled in torch_kinds(precision, arguments):
            forward = training_torch.make_forward(config, size, batch, compiled=compiled)
            programs[kind] = Program(forward)
    return programs


def completion_row() -> dict[str, Any]:
    """Computes only the hole's region; PyTorch's generator would need the whole photograph."""
    weights = completion.random_weights()
    seconds = completion.complete("regions", 4000, 6000, 200, weights)
    values = [round(f(seconds), 3) for f in (statistics.median, min, max)]
    print("completion of 6000x4000, hole 200x200: {:.2f} s ({:.2f}-{:.2f})".format(*values))
    return {"name": "completion of 6000x4000, hole 200x200", "seconds": values}


def input_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = input_pipeline.input_rows(seconds=0.3 if arguments.quick else 1.0)
    for row in rows:
        input_pipeline.print_row(row)
    return rows


def waiting_row(
    step: Callable[[Any], dict[str, Any]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """The share of training time during which the device waits for the input pipeline.

    An upper bound: a wait counts in full if the device was idle at its end.
    """
    config, mesh = Config(), make_mesh()
    source = PhotoSource(TRAINING_PHOTOS, 1000)
    batches = train_batches(
        source, config, start=0, local_batch_size=arguments.batch, process=0, count=1
    )
    in_flight, idle, began = [], 0.0, 0.0
    for number in range(2 * arguments.rounds + 1):
        asked = time.perf_counter()
        batch = next(batches)
        passed = time.perf_counter() - asked
        if number == 0:  # the workers have started
            began = asked + passed
        elif all(loss.is_ready() for loss in in_flight[-1].values()):
            idle += passed
        batch = to_global({name: batch[name] for name in ("image", "bbox")}, mesh)
        in_flight.append(step(batch))
        jax.block_until_ready(in_flight[-2:-1])
    jax.block_until_ready(in_flight)
    share = idle / (time.perf_counter() - began)
    batches.close()
    print(f"training waits for the input at most {share:.1%} of the time", flush=True)
    return {"name": "waiting for the input", "share": round(share, 4)}


if __name__ == "__main__":
    main()
