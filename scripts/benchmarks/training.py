"""Training steps and the generator in JAX and PyTorch, as compared in docs/benchmarks.md.

    pip install -e '.[torch]'
    python scripts/benchmarks/training.py [--batch 4] [--rounds 5]

Random weights, full width, 256x256, in float32 and bfloat16. PyTorch uses channels_last and runs
eagerly. Programs take turns, so that noise affects all of them. So do large matrix products, which
show how noisy the machine is. Prints medians (fastest-slowest).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from glinpaint_jax.config import PRECISIONS, Config
from glinpaint_jax.models.networks import init_variables, make_networks
from glinpaint_jax.parallel import make_mesh, replicated, to_global
from glinpaint_jax.training.compile import bytes_of
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import create_state
from glinpaint_jax.training.step import make_steps

Run = Callable[[], Any]  # waits for its results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4, help="size in training steps")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    import torch

    print(f"jax {jax.__version__} on {jax.devices()}, torch {torch.__version__}", flush=True)
    for phase in Phase:
        programs = make_programs(phase, arguments.batch)
        name = f"{phase.value} step, batch {arguments.batch}"
        compare(name, programs, arguments.batch, arguments.rounds)
    compare("generator", make_programs(None, 1), 1, arguments.rounds)


def compare(name: str, programs: dict[str, Run], images: int, rounds: int) -> None:
    """Prints the seconds per image of programs that take turns; the first turn is a warm-up."""
    products = {f"matrix product {dtype}": matrix_product(dtype) for dtype in PRECISIONS}
    runs = programs | {kind: run for kind, (run, _) in products.items()}
    seconds: dict[str, list[float]] = {kind: [] for kind in runs}
    for turn in range(rounds + 1):
        for kind, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[kind].append(time.perf_counter() - started)
    print(name)
    for kind in programs:
        each = [s / images for s in seconds[kind]]
        median = statistics.median(each)
        print(f"  {kind:26} {median:.4f} s an image ({min(each):.4f}-{max(each):.4f})")
    for kind, (_, flop) in products.items():
        rates = [flop / s / 1e9 for s in seconds[kind]]
        median = statistics.median(rates)
        print(f"  {kind:26} {median:.0f} GFLOP/s ({min(rates):.0f}-{max(rates):.0f})", flush=True)


def make_programs(phase: Phase | None, batch: int) -> dict[str, Run]:
    """The phase's step, or without a phase the generator, in JAX and in PyTorch."""
    import training_torch

    programs = {}
    for precision in PRECISIONS:
        config = Config(global_batch_size=batch, precision=precision)
        if phase:
            ours = JaxStep(config, phase, make_mesh()).run
            theirs = training_torch.make_step(config, phase, random_batch(config))
        else:
            ours, theirs = make_forward(config), training_torch.make_forward(config)
        programs |= {f"JAX {precision}": ours, f"PyTorch {precision}": theirs}
    return programs


class JaxStep:
    """A compiled training step; each run continues from the state of the previous one."""

    def __init__(self, config: Config, phase: Phase, mesh: Mesh):
        self._batch = to_global(random_batch(config), mesh)
        self._state = jax.jit(lambda: create_state(config), out_shardings=replicated(mesh))()
        lowered = make_steps(config, mesh)[phase].lower(self._state, self._batch)
        started = time.perf_counter()
        self.compiled = lowered.compile()
        self.compile_s = time.perf_counter() - started
        self.bytes = bytes_of(self.compiled.memory_analysis())

    def run(self) -> None:
        jax.block_until_ready((self.advance(self._batch), self._state))

    def advance(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Returns the losses without waiting for them."""
        self._state, losses = self.compiled(self._state, batch)
        return losses


def random_batch(config: Config) -> dict[str, np.ndarray]:
    """Random pixels, and the same hole in all images."""
    count, size = config.global_batch_size, config.image_size
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    box = np.int32([60, 70, 120, 110]) * size // 256  # top, left, height, width
    return {"image": images, "bbox": np.tile(box, (count, 1))}


def make_forward(config: Config) -> Run:
    """The generator in evaluation mode, on one image."""
    network, _ = make_networks(config)
    variables, _ = jax.jit(partial(init_variables, config))()
    image, mask = (jnp.zeros((1, config.image_size, config.image_size, n)) for n in (3, 1))
    forward = partial(jax.jit(partial(network.apply, train=False)), variables, image, mask)
    return lambda: forward().block_until_ready()


def matrix_product(dtype: str) -> tuple[Run, float]:
    """A large matrix product, larger on accelerators, and its FLOP; bfloat16 is summed in float32.

    Accelerators multiply float32 as TF32. Numbers are random: GPUs multiply equal ones faster.
    """
    side = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)
    precision = None if dtype == "bfloat16" else "tensorfloat32"
    product = jax.jit(partial(jnp.matmul, precision=precision, preferred_element_type=jnp.float32))
    return lambda: product(matrix, matrix).block_until_ready(), 2 * side**3


if __name__ == "__main__":
    main()
