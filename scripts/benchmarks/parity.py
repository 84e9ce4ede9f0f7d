"""Whether a training step gives the right numbers on this device.

    python scripts/benchmarks/parity.py [--write]

Compares a step of each phase in float32 with stored values, and in bfloat16 with float32: losses,
every gradient and the running statistics. --write computes the stored values, in float64 on the
CPU; do that only if the networks, losses or inputs below change. Weights, images and holes come
from numpy's RandomState, whose stream never changes. Of each tensor, parity.npz holds the root mean
square and 16 entries.
"""

import argparse
import dataclasses
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax import Array

from glinpaint_jax.config import Config, MaskConfig, ModelConfig
from glinpaint_jax.models.networks import abstract_variables
from glinpaint_jax.parallel import make_mesh, replicated, to_global
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import TrainState, create_state
from glinpaint_jax.training.step import make_steps

# Size and phase, such as "small/joint" -> an array with a row per tensor.
STORED = Path(__file__).with_name("parity.npz")
SIZES = {
    "full": Config(global_batch_size=2),
    "small": Config(
        global_batch_size=4,
        image_size=32,
        model=ModelConfig(width=4),
        mask=MaskConfig(max_size=16, margin=2),
    ),
}
ENTRIES = 16
# The largest error (see `compare`) that counts as close: two to five times those of a CPU, except
# float32's losses. Rounding opens or closes some ReLUs; if a millionth of them, a layer changes the
# gradient by about a thousandth, the square root. bfloat16 changes single entries by up to their
# size, but not the direction: on a CPU, the cosine is 0.87 or more. Unrelated gradients have 0.
# Discriminator statistics of a joint step follow Adam's first update, the signs of gradients.
LIMITS = {
    "float32": {"losses": 1e-4, "gradients": 0.1, "statistics": 2e-3},
    "bfloat16": {"losses": 0.2, "statistics": 0.3},
}
SMALLEST_COSINE = 0.75

Summaries = dict[str, np.ndarray]  # "gradients/generator/...": root mean square, entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="store the values, from the CPU")
    parser.add_argument("--size", choices=SIZES, default="full")
    arguments = parser.parse_args()
    if arguments.write:
        write_stored()
        return
    stored, exact = np.load(STORED), {}
    for precision, phase in itertools.product(LIMITS, Phase):
        found = run_step(arguments.size, phase, precision)
        if precision == "float32":
            exact[phase], against = found, "stored values"
            wanted = dict(zip(found, stored[f"{arguments.size}/{phase.value}"], strict=True))
        else:
            wanted, against = exact[phase], "float32"
        row = {"phase": phase.value, "precision": precision, "against": against}
        print(json.dumps(row | compare(found, wanted, precision)), flush=True)


def compare(found: Summaries, wanted: Summaries, precision: str) -> dict[str, Any]:
    """The largest error of each group's tensors; the gradients' cosine; whether all are close.

    A tensor's error is the largest difference of its entries, divided by its root mean square.
    Tensors much smaller than the group's largest count as a ten-thousandth of it. The cosine is the
    median of those between the entries of each gradient, found and wanted.
    """
    row = {}
    for group in ("losses", "statistics", "gradients"):
        names = [name for name in wanted if name.startswith(group)]
        smallest = 1e-4 * max(wanted[name][0] for name in names)
        errors = {
            name: float(np.abs(found[name] - wanted[name]).max() / max(wanted[name][0], smallest))
            for name in names
        }
        worst = max(names, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
        row[group] = errors[worst]
    row["cosine"] = float(np.median([cosine(found[name][1:], wanted[name][1:]) for name in names]))
    row["close"] = row["cosine"] >= SMALLEST_COSINE and all(
        row[name] <= limit for name, limit in LIMITS[precision].items()
    )
    return row | {"largest in": worst.removeprefix("gradients/")}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """0 if one of them is zero."""
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), np.finfo(float).tiny))


def run_step(size: str, phase: Phase, precision: str) -> Summaries:
    """Runs one step of the phase on the first device; returns what it computed.

    `precision` is float32, bfloat16, or float64 (which jax must have enabled).
    """
    config = dataclasses.replace(
        SIZES[size],
        precision="bfloat16" if precision == "bfloat16" else "float32",
        matmul_precision="float32",
    )
    mesh = make_mesh(jax.devices()[:1])
    networks, batch = make_inputs(size)
    if precision == "float64":
        networks = jax.tree.map(lambda leaf: leaf.astype(np.float64), networks)
    state = jax.jit(lambda *networks: create_state(config, *networks))(*networks)
    state = jax.device_put(state, replicated(mesh))
    state, losses = make_steps(config, mesh)[phase](state, to_global(batch, mesh))
    return summarize(phase, state, losses)


@functools.cache
def make_inputs(size: str) -> tuple[list[Any], dict[str, np.ndarray]]:
    """The variables of both networks; random pixels, and holes of different sizes and places."""
    config, rng = SIZES[size], np.random.RandomState(0)
    networks = [random_variables(shapes, rng) for shapes in abstract_variables(config)]
    count, side = config.global_batch_size, config.image_size
    images = rng.randint(0, 256, (count, side, side, 3)).astype(np.uint8)
    corners = rng.randint(0, side // 2, (count, 2))
    sides = rng.randint(side // 4, side // 2, (count, 2))
    boxes = np.concatenate([corners, sides], 1).astype(np.int32)
    return networks, {"image": images, "bbox": boxes}


def random_variables(shapes: Any, rng: np.random.RandomState) -> Any:
    """float32 variables that look trained: Kaiming normal kernels, vectors near their initial."""

    def draw(path: Any, leaf: Any) -> np.ndarray:
        if len(leaf.shape) > 1:
            values = rng.standard_normal(leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            center = 1 if path[-1].key in ("scale", "var") else 0
            values = center + rng.uniform(-0.3, 0.3, leaf.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def summarize(phase: Phase, state: TrainState, losses: dict[str, Array]) -> Summaries:
    """The losses, the gradients of the networks that the phase trains, and all statistics."""
    trained = {
        Phase.COMPLETION: ("generator",),
        Phase.DISCRIMINATOR: ("discriminator",),
        Phase.JOINT: ("generator", "discriminator"),
    }[phase]
    # After one step, Adam's first moment is a tenth of the gradient.
    moments = {name: optax.tree.get(getattr(state, name).opt_state, "mu") for name in trained}
    networks = "generator", "discriminator"
    groups = {
        "losses": losses,
        "gradients": jax.tree.map(lambda moment: 10 * moment, moments),
        "statistics": {name: getattr(state, name).batch_stats for name in networks},
    }
    leaves, _ = jax.tree_util.tree_flatten_with_path(groups)
    return {
        "/".join(key.key for key in path): summary(np.asarray(leaf, np.float64))
        for path, leaf in leaves
        if path[-1].key != "skipped"
    }


def summary(tensor: np.ndarray) -> np.ndarray:
    """The root mean square and ENTRIES evenly spaced entries."""
    places = np.linspace(0, tensor.size - 1, ENTRIES).astype(int)
    return np.concatenate([[np.sqrt(np.square(tensor).mean())], tensor.reshape(-1)[places]])


def write_stored() -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    values = {}
    for size, phase in itertools.product(SIZES, Phase):
        rows = run_step(size, phase, "float64").values()
        values[f"{size}/{phase.value}"] = np.stack(list(rows)).astype(np.float32)
    np.savez_compressed(STORED, **values)


if __name__ == "__main__":
    main()
