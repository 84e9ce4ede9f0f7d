"""Time and peak memory of completing photographs: only the hole's region, or one whole pass.

    python scripts/benchmarks/completion.py

Each photograph has one hole of 200x200 in the middle. Each case runs in a process of its own: once
to compile, then one to three times (fewer if slow); the median is reported. Weights are random, at
full width: their values affect neither time nor memory. Memory is the peak of the whole process,
including JAX and the photograph.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
from parity import random_variables

from glinpaint_jax.config import Config
from glinpaint_jax.inference.completer import Completer
from glinpaint_jax.models.networks import Weights, abstract_variables

SIZES, HOLE = ((512, 512), (2048, 2048), (4000, 6000)), 200  # height, width; side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--case", nargs=3, metavar=("HOW", "HEIGHT", "WIDTH"), help="only this; HOW: regions, whole"
    )
    arguments = parser.parse_args()
    if arguments.case:
        how, height, width = arguments.case
        print(measure(how, int(height), int(width)))
        return
    print(f"| photograph, hole {HOLE}x{HOLE} | regions | whole pass |")
    print("|---|---|---|")
    for height, width in SIZES:
        cells = []
        for how in ("regions", "whole"):
            case = [sys.executable, __file__, "--case", how, str(height), str(width)]
            result = subprocess.run(case, stdout=subprocess.PIPE, text=True)
            cells.append(result.stdout.strip() or f"failed, status {result.returncode}")
        print(f"| {width}x{height} | {' | '.join(cells)} |", flush=True)


def measure(how: str, height: int, width: int) -> str:
    """Runs one case in this process; returns its seconds and peak gigabytes."""
    shapes, _ = abstract_variables(Config())
    weights = Weights(Config(), 0, random_variables(shapes, np.random.RandomState(0)), None)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    whole = how == "whole"  # everything is a hole, in one tile
    options = {"tile": max(height, width)} if whole else {}
    completer = Completer(weights, blend="none", scale=1, **options)
    hole = np.full((height, width), whole)
    top, left = (height - HOLE) // 2, (width - HOLE) // 2
    hole[top : top + HOLE, left : left + HOLE] = True
    seconds = []
    while len(seconds) < 2 or (len(seconds) < 4 and sum(seconds) < 120):
        started = time.perf_counter()
        completer.fill(image, hole)
        seconds.append(time.perf_counter() - started)
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return f"{statistics.median(seconds[1:]):.2f} s, {gigabytes:.2f} GB"  # the first compiles


if __name__ == "__main__":
    main()
