"""The parts of accelerator.py, each in its own process. Their output is for the log.

    python scripts/benchmarks/accelerator_parts.py PART SCRATCH RESULTS [--rehearse] [--train DIR]

Writes its results, one JSON object a line, to SCRATCH/PART.jsonl. RESULTS is the file of all
results so far. The names in a result are the report's column headings.
"""

import argparse
import dataclasses
import gc
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import re
import shutil
import statistics
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BATCHES = (96, 12, 192, 48)  # the published one first: time may run out
PRECISIONS = {  # name: (config.precision, config.matmul_precision)
    "bfloat16": ("bfloat16", "tensorfloat32"),
    "TF32": ("float32", "tensorfloat32"),
    "float32": ("float32", "float32"),
}
SIDE = 256
MINUTES_BETWEEN_SAVES = 2
ROUNDS, ROUND_SECONDS = 5, 0.5
LONGEST = 10  # operations

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--train", type=Path)
    arguments = parser.parse_args()
    with (arguments.scratch / f"{arguments.part}.jsonl").open("w", buffering=1) as file:
        try:
            for row in PARTS[arguments.part](arguments):
                file.write(json.dumps(row) + "\n")
        except Exception as error:
            traceback.print_exc()
            sys.exit(f"error: {first_line(error)}")  # the log's last line is the reason


def device(arguments: argparse.Namespace) -> Iterator[Row]:
    """What this machine is. Fails on a CPU, except in a rehearsal."""
    import jax

    first = jax.devices()[0]
    if first.platform == "cpu" and not arguments.rehearse:
        sys.exit(
            "error: jax found no accelerator, only the CPU; install jax's plugin for it, or pass "
            "--rehearse to try the command here"
        )
    memory = (first.memory_stats() or {}).get("bytes_limit")
    yield {
        "device": first.device_kind,
        "devices": len(jax.devices()),
        "GB for jax": memory and memory / 1e9,
        "cores": os.cpu_count(),
        "Python": platform.python_version(),
    } | {
        name: importlib.metadata.version(name)
        for name in ("jax", "jaxlib", "flax", "torch", "numpy")
        if importlib.util.find_spec(name)
    }


def parity(arguments: argparse.Namespace) -> Iterator[Row]:
    from parity import parity_rows

    yield from parity_rows("small" if arguments.rehearse else "full")


def products(arguments: argparse.Namespace) -> Iterator[Row]:
    """The rate of a large matrix product in each precision, and what it would be in joint steps."""
    from scaling import GFLOP_PER_IMAGE
    from training import matrix_product

    for name, (dtype, precision) in PRECISIONS.items():
        product = matrix_product(dtype, precision)
        rate = product.flop / time_runs(product.run)
        per_image = GFLOP_PER_IMAGE["joint"] * 1e9
        yield {"precision": name, "TFLOP/s": rate / 1e12, "images/s": rate / per_image}


def jax_steps(arguments: argparse.Namespace) -> Iterator[Row]:
    """The joint step in JAX on one device: every batch and precision."""
    import jax
    from training import jax_step

    from glinpaint_jax.distributed import make_mesh
    from glinpaint_jax.training.phases import Phase

    def make(config: Any) -> tuple[Row, Callable[[], Any]]:
        program = jax_step(config, Phase.JOINT, make_mesh(jax.devices()[:1]))
        return {"GB": program.bytes / 1e9, "compile, s": program.compile_s}, program.run

    for batch, name in itertools.product(batches(arguments), PRECISIONS):
        yield measure("JAX", batch, name, make, arguments)
        jax.clear_caches()


def torch_steps(arguments: argparse.Namespace) -> Iterator[Row]:
    """The same in PyTorch, eager and compiled. Compiling includes the first two steps."""
    if importlib.util.find_spec("torch") is None:
        sys.exit("error: torch is not installed, so there is no comparison with it")
    import torch
    import training_torch
    from training import random_batch

    from glinpaint_jax.training.phases import Phase

    cuda = training_torch.DEVICE.type == "cuda"
    if not cuda and not arguments.rehearse:
        sys.exit("error: torch sees no CUDA device, so there is no comparison with it")

    def make(config: Any) -> tuple[Row, Callable[[], Any]]:
        training_torch.multiply_in(config.matmul_precision)
        step = training_torch.make_steps(config, random_batch(config), compiled=compiled)
        step = step[Phase.JOINT]
        started = time.perf_counter()
        step()
        step()
        numbers = {"compile, s": time.perf_counter() - started}
        if cuda:
            numbers["GB"] = torch.cuda.max_memory_allocated() / 1e9
        return numbers, step

    for batch, name in itertools.product(batches(arguments), PRECISIONS):
        for compiled in (False,) if arguments.rehearse else (False, True):
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            program = "PyTorch compiled" if compiled else "PyTorch"
            yield measure(program, batch, name, make, arguments)
            torch.compiler.reset()


def measure(
    program: str,
    batch: int,
    name: str,
    make: Callable[[Any], tuple[Row, Callable[[], Any]]],
    arguments: argparse.Namespace,
) -> Row:
    """Times the step that `make` returns, with more numbers, for a config.

    A failure is a result: the next program may fit into memory.
    """
    row = {"batch": batch, "precision": name, "program": program}
    gc.collect()
    try:
        numbers, run = make(step_config(arguments, batch, name))
        row["images/s"] = batch / time_runs(run)
        for product in rows_before(arguments, "products"):
            if product["precision"] == name:
                row["% of a product's"] = 100 * row["images/s"] / product["images/s"]
        row |= numbers
    except Exception as error:
        row["failed"] = first_line(error)
    return row


def profile(arguments: argparse.Namespace) -> Iterator[Row]:
    """Traces the joint step in bfloat16; saves the trace and lists the longest operations."""
    import jax
    from training import jax_step

    from glinpaint_jax.distributed import make_mesh
    from glinpaint_jax.training.phases import Phase

    batch = largest_batch(arguments)
    config = step_config(arguments, batch, "bfloat16")
    program = jax_step(config, Phase.JOINT, make_mesh(jax.devices()[:1]))
    program.run()
    folder, steps = arguments.scratch / "profile", 3
    with jax.profiler.trace(str(folder)):
        for _ in range(steps):
            program.run()
    (trace,) = folder.rglob("*.xplane.pb")
    for viewable in folder.rglob("*.trace.json.gz"):
        shutil.copy(viewable, arguments.scratch / "trace.json.gz")
    try:
        text = program.compiled.as_text()
    except Exception as error:  # a program from the compilation cache may have lost it
        print("no layers:", first_line(error))
        text = ""
    for row in longest_operations(trace, layers_of(text), steps):
        yield {"batch": batch} | row


def layers_of(program: str) -> dict[str, str]:
    """Operation -> where in the model it comes from, read from a compiled program's text."""
    named = re.findall(r'^\s*(?:ROOT )?%?([\w.-]+) = .*op_name="([^"]+)"', program, re.MULTILINE)
    return {as_kernel(operation): re.sub(r"^jit\(\w+\)/", "", layer) for operation, layer in named}


def as_kernel(operation: str) -> str:
    """The name that XLA gives a GPU kernel made from an operation."""
    return re.sub(r"[.-]", "_", operation)


def longest_operations(trace: Path, layers: dict[str, str], steps: int) -> Iterator[Row]:
    """The LONGEST operations of a trace. `layers` is what `layers_of` returns."""
    seconds, calls = defaultdict(float), defaultdict(int)
    for event in operations_of(trace):
        kernel = event.name.split(" = ")[0].lstrip("%")  # TPUs give the whole instruction
        name = (dict(event.stats).get("hlo_op") or kernel, kernel)
        seconds[name] += event.duration_ns / 1e9 / steps
        calls[name] += 1
    total = sum(seconds.values())
    for name in sorted(seconds, key=seconds.get, reverse=True)[:LONGEST]:
        operation, kernel = name
        yield {
            "ms a step": 1e3 * seconds[name],
            "%": 100 * seconds[name] / total,
            "calls a step": calls[name] / steps,
            "operation": operation,
            "kernel": kernel[:80] if kernel != operation else None,
            "layer": layers.get(as_kernel(operation)),
        }


def operations_of(trace: Path) -> list[Any]:
    """The trace's events that are operations: of the device, or if it has none, of the CPU."""
    from jax.profiler import ProfileData

    planes = list(ProfileData.from_file(str(trace)).planes)
    print("trace:", *(f"{plane.name}/{line.name}," for plane in planes for line in plane.lines))
    lines = [line for plane in planes if "/device:" in plane.name for line in plane.lines]
    for kind in ("XLA Ops", "Stream"):  # of TPUs; of GPUs, one for each stream
        events = [event for line in lines if line.name.startswith(kind) for event in line.events]
        if events:
            return events
    every = (event for plane in planes for line in plane.lines for event in line.events)
    return [event for event in every if any(name == "hlo_op" for name, _ in event.stats)]


def input_rate(arguments: argparse.Namespace) -> Iterator[Row]:
    """The input pipeline alone, and what the fastest joint step takes."""
    import input_pipeline

    fastest = max((row["images/s"] for row in measured(arguments)), default=None)
    workers = 2 if arguments.rehearse else min(os.cpu_count(), 16)
    for row in input_pipeline.input_rows(workers, 0.1 if arguments.rehearse else 1.0):
        median, _, _, per_second = row["rates"]["jax"]
        yield {
            "pipeline": row["name"],
            "images/s": median,
            "per second of CPU time": per_second,
            "torch.utils.data, images/s": row["rates"].get("torch", [None])[0],
            "fastest step, images/s": fastest,
        }


def completion(arguments: argparse.Namespace) -> Iterator[Row]:
    """Completes a photograph with random weights, which take as long as trained ones."""
    import jax
    from completion import complete, random_weights

    height, width, hole = (600, 900, 100) if arguments.rehearse else (4000, 6000, 200)
    weights = random_weights(8 if arguments.rehearse else 64)
    seconds = complete("regions", height, width, hole, weights)
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    yield {
        "photograph": f"{width}x{height}",
        "hole": f"{hole}x{hole}",
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "GB": peak and peak / 1e9,
    }


def train(arguments: argparse.Namespace) -> Iterator[Row]:
    """Trains in SCRATCH/run until SIGTERM; in a rehearsal, for four steps."""
    from absl import flags

    from glinpaint_jax.training.loop import train

    flags.FLAGS.mark_as_parsed()  # grain's worker processes read them
    config = train_config(arguments)
    side, batch = config.image_size, config.global_batch_size
    yield {"images": f"{side}x{side}", "batch": batch, "width": config.model.width}
    train(config, arguments.scratch / "run")


def export(arguments: argparse.Namespace) -> Iterator[Row]:
    """Writes the newest generator of the run to SCRATCH/generator.safetensors, kernels in float16.

    A generator of width 64 is then 12 MB.
    """
    import jax
    import numpy as np

    from glinpaint_jax.files import write_atomically
    from glinpaint_jax.interop.weight_files import safetensors_bytes
    from glinpaint_jax.weights import load_weights

    weights = load_weights(arguments.scratch / "run")
    half = jax.tree.map(
        lambda leaf: leaf.astype(np.float16) if leaf.ndim > 1 else leaf, weights.generator
    )
    generator = dataclasses.replace(weights, generator=half, discriminator=None)
    write_atomically(arguments.scratch / "generator.safetensors", safetensors_bytes(generator))
    yield {"step": weights.step}


def batches(arguments: argparse.Namespace) -> tuple[int, ...]:
    return (2,) if arguments.rehearse else BATCHES


def step_config(arguments: argparse.Namespace, batch: int, name: str) -> Any:
    """configs/places.py's step, in the precision `name`."""
    from glinpaint_jax.config import Config, ModelConfig

    precision, matmul_precision = PRECISIONS[name]
    return Config(
        global_batch_size=batch,
        image_size=64 if arguments.rehearse else SIDE,
        precision=precision,
        matmul_precision=matmul_precision,
        model=ModelConfig(width=8 if arguments.rehearse else 64),
    )


def train_config(arguments: argparse.Namespace) -> Any:
    """configs/small_start.py at full width and 256x256, for as long as there is time."""
    from glinpaint_jax.config import MaskConfig, ModelConfig, PhasesConfig
    from glinpaint_jax.configs import small_start

    tiny = arguments.rehearse
    steps, side = (4, 64) if tiny else (10**6, SIDE)
    batch = 4 if tiny else largest_batch(arguments)
    saves = 2 if tiny else steps_between_saves(arguments, batch)
    base = small_start.get_config()
    return dataclasses.replace(
        base,
        num_steps=steps,
        global_batch_size=batch,
        image_size=side,
        precision="bfloat16",
        log_every=1 if tiny else 50,
        eval_every=saves,
        checkpoint_every=saves,
        model=ModelConfig(width=8 if tiny else 64, base="smooth"),
        data=dataclasses.replace(
            base.data,
            source=f"folder:{arguments.train}" if arguments.train else "photos",
            eval_source="",
            eval_images=8 if tiny else 64,
            num_workers=0 if tiny else min(os.cpu_count(), 16),
            crop_size=2 * side,
        ),
        mask=MaskConfig(max_size=side // 2, max_delta=side // 3, margin=side // 16),
        phases=PhasesConfig(completion_end=steps, discriminator_end=steps),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=2e-3, schedule="constant"),
    ).validate()


def rows_before(arguments: argparse.Namespace, part: str) -> list[Row]:
    return json.loads(arguments.results.read_text())["parts"].get(part, {}).get("rows", [])


def measured(arguments: argparse.Namespace) -> list[Row]:
    """The bfloat16 steps that JAX has run."""
    rows = rows_before(arguments, "jax_steps")
    return [row for row in rows if row["precision"] == "bfloat16" and "images/s" in row]


def largest_batch(arguments: argparse.Namespace) -> int:
    """The largest batch, up to 96, that has run; else the smallest of all."""
    ran = [row["batch"] for row in measured(arguments) if row["batch"] <= 96]
    return max(ran, default=min(batches(arguments)))


def steps_between_saves(arguments: argparse.Namespace, batch: int) -> int:
    rates = [row["images/s"] for row in measured(arguments) if row["batch"] == batch]
    return max(1, int(60 * MINUTES_BETWEEN_SAVES * rates[0] / batch)) if rates else 100


def time_runs(run: Callable[[], Any]) -> float:
    """Seconds of one run: the median of rounds of at least ROUND_SECONDS, after two warm-ups."""
    run()
    started = time.perf_counter()
    run()
    count = int(ROUND_SECONDS / (time.perf_counter() - started)) + 1
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(count):
            run()
        rounds.append((time.perf_counter() - started) / count)
    return statistics.median(rounds)


def first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0][:200]


MEASURING = (device, parity, products, jax_steps, torch_steps, profile, input_rate, completion)
PARTS = {part.__name__: part for part in (*MEASURING, train, export)}

if __name__ == "__main__":
    main()
