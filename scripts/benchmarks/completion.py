"""Time and peak memory of completing photographs, the regions of the holes against one whole pass.

    python scripts/benchmarks/completion.py [--checkpoint P] [--hole 200] [--memory-limit 20]

One hole in the middle of photographs of several sizes; each case runs in a process of its own, once
to compile and then up to three times (slow ones fewer), of which the median counts. Unless there is
a checkpoint, the weights are random ones of the full width: neither time nor memory depends on
their values. Memory is the process's peak, with JAX and the photograph.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES = ((512, 512), (2048, 2048), (4000, 6000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--hole", type=int, default=200, help="pixels on a side")
    parser.add_argument("--memory-limit", type=int, default=20, help="GB a case may take")
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
    """Seconds and gigabytes of one case, in this process."""
    limit = arguments.memory_limit * 10**9
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    from glinpaint_jax.weights import load_weights

    weights = load_weights(arguments.checkpoint) if arguments.checkpoint else random_weights()
    seconds = complete(how, height, width, arguments.hole, weights)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(seconds), "gigabytes": kilobytes / 1e6}


def random_weights() -> Any:
    import jax

    from glinpaint_jax.config import Config
    from glinpaint_jax.models.networks import Weights, abstract_variables

    rng, config = np.random.default_rng(0), Config()
    shapes, _ = abstract_variables(config)
    # Positive, as variances must be, and small: nothing overflows.
    generator = jax.tree.map(lambda a: rng.uniform(0, 0.01, a.shape).astype(a.dtype), shapes)
    return Weights(config, 0, generator, None)


def complete(how: str, height: int, width: int, side: int, weights: Any) -> list[float]:
    """Seconds of each time, but for the first."""
    from glinpaint_jax.inference.completer import Completer

    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    hole = np.zeros((height, width), bool)
    if how == "whole":  # a hole over everything, in one tile
        completer = Completer(weights, tile=max(height, width))
        hole[:] = True
    else:
        completer = Completer(weights)
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
