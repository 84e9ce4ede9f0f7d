"""Time and peak memory of completing photographs: only the holes' regions, or one whole pass.

    python scripts/benchmarks/completion.py [--checkpoint P] [--hole 200] [--memory-limit 20]

Each photograph has one hole in the middle. Each case runs in its own process: once to compile, then
one to three times (fewer if slow); the median is reported. Without a checkpoint the weights are
random, at full width: their values affect neither time nor memory. Memory is the peak of the whole
process, including JAX and the photograph.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

SIZES = ((512, 512), (2048, 2048), (4000, 6000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint")
    parser.add_argument("--hole", type=int, default=200, help="pixels on a side")
    parser.add_argument("--memory-limit", type=int, default=20, help="GB per case")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        how, height, width = arguments.case
        print(json.dumps(measure(how, int(height), int(width), arguments)))
        return
    print(f"| photograph, hole {arguments.hole}x{arguments.hole} | regions | whole pass |")
    print("|---|---|---|")
    for height, width in SIZES:
        cells = [run_case(how, height, width) for how in ("regions", "whole")]
        print(f"| {width}x{height} | {' | '.join(cells)} |", flush=True)


def run_case(how: str, height: int, width: int) -> str:
    case = ["--case", how, str(height), str(width)]
    result = subprocess.run([sys.executable, *sys.argv, *case], capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]
        return "out of memory" if "RESOURCE_EXHAUSTED" in result.stderr else f"failed: {last}"
    measured = json.loads(result.stdout)
    return f"{measured['seconds']:.2f} s, {measured['gigabytes']:.2f} GB"


def measure(how: str, height: int, width: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Runs one case in this process; returns its seconds and peak gigabytes."""
    limit = arguments.memory_limit * 10**9
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    from glinpaint_jax.weights import load_weights

    weights = load_weights(arguments.checkpoint) if arguments.checkpoint else random_weights()
    seconds = complete(how, height, width, arguments.hole, weights)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(seconds), "gigabytes": kilobytes / 1e6}


def random_weights(width: int = 64) -> Any:
    import jax

    from glinpaint_jax.config import Config, ModelConfig
    from glinpaint_jax.models.networks import Weights, abstract_variables

    rng, config = np.random.default_rng(0), Config(model=ModelConfig(width=width))
    shapes, _ = abstract_variables(config)
    # Positive because variances must be, and small so that nothing overflows.
    generator = jax.tree.map(lambda a: rng.uniform(0, 0.01, a.shape).astype(a.dtype), shapes)
    return Weights(config, 0, generator, None)


def complete(how: str, height: int, width: int, side: int, weights: Any) -> list[float]:
    """Seconds of every pass except the first, which compiles."""
    from glinpaint_jax.inference.completer import Completer

    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    hole = np.zeros((height, width), bool)
    if how == "whole":  # everything is a hole, in one tile
        completer = Completer(weights, tile=max(height, width), blend="none", scale=1)
        hole[:] = True
    else:
        completer = Completer(weights, blend="none", scale=1)
        top, left = (height - side) // 2, (width - side) // 2
        hole[top : top + side, left : left + side] = True
    seconds = []
    while len(seconds) < 2 or (len(seconds) < 4 and sum(seconds) < 120):
        started = time.perf_counter()
        completer.fill([image], [hole])
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


if __name__ == "__main__":
    main()
