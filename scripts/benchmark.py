"""Training steps and forward passes against the same networks in PyTorch, in one run.

    pip install -e '.[torch]'
    python scripts/benchmark.py [--batch 4] [--rounds 5] [--quick] [--json FILE]

On the device at hand, float32, full width, 256x256, data already there. The two take turns, so that
a noisy machine is noisy for both; medians, and the spread from the fastest to the slowest. PyTorch
runs eagerly with channels_last. Beside them a large matrix product, which bounds both.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from glinpaint_jax.config import Config
from glinpaint_jax.interop.torch_module import Discriminator, Generator
from glinpaint_jax.models.networks import make_networks
from glinpaint_jax.parallel import keep_compiled_programs, make_mesh, replicated, to_global
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import create_state
from glinpaint_jax.training.step import make_steps

BOX = (60, 70, 120, 110)  # the hole: top, left, height, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="batch 2, two rounds, no forward")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.batch, arguments.rounds = 2, 2
    keep_compiled_programs()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, torch {torch.__version__} on "
        f"{device}, Python {platform.python_version()}; {len(jax.devices())} device(s)"
    )
    config = Config(global_batch_size=arguments.batch)
    jax_runs, torch_runs = jax_steps(config), torch_steps(config, device)
    rows = [
        compare(f"{phase.value} step", arguments, jax_runs[phase], torch_runs[phase])
        for phase in Phase
    ]
    if not arguments.quick:
        for size, batch in ((256, 1), (256, 8), (512, 1)):
            runs = forward(config, size, batch, device)
            rows.append(compare(f"forward {size}, batch {batch}", arguments, *runs, images=batch))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def compare(
    name: str,
    arguments: argparse.Namespace,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    images: int | None = None,
) -> dict[str, Any]:
    """Seconds an image of both, taking turns; the first round compiles and does not count."""
    images = images or arguments.batch
    seconds: dict[str, list[float]] = {"jax": [], "torch": [], "product": []}
    runs = {"jax": ours, "torch": theirs, "product": matrix_product()}
    compiling = 0.0
    for turn in range(arguments.rounds + 1):
        for kind, run in runs.items():
            started = time.perf_counter()
            run()
            passed = time.perf_counter() - started
            if turn:
                seconds[kind].append(passed)
            elif kind == "jax":
                compiling = passed
    row: dict[str, Any] = {"name": name, "first_call_s": round(compiling, 1)}
    for kind in ("jax", "torch"):
        each = [passed / images for passed in seconds[kind]]
        row[kind] = [round(f(each), 4) for f in (statistics.median, min, max)]
    row["torch_over_jax"] = round(row["torch"][0] / row["jax"][0], 2)
    row["product_gflops"] = round(2 * 2048**3 / statistics.median(seconds["product"]) / 1e9)
    spread = {kind: "{:.3f} s ({:.3f}-{:.3f})".format(*row[kind]) for kind in ("jax", "torch")}
    print(
        f"{name}: JAX {spread['jax']}, PyTorch {spread['torch']} an image; JAX is "
        f"{row['torch_over_jax']:.2f} times as fast; matrix product {row['product_gflops']} "
        f"GFLOP/s; first call {compiling:.0f} s",
        flush=True,
    )
    return row


def matrix_product() -> Callable[[], Any]:
    product = jax.jit(jnp.matmul)
    matrix = jnp.ones((2048, 2048))
    return lambda: product(matrix, matrix).block_until_ready()


def images_and_boxes(config: Config) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    size, batch = config.image_size, config.global_batch_size
    images = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    return images, np.tile(np.int32([BOX]), (batch, 1))


def jax_steps(config: Config) -> dict[Phase, Callable[[], Any]]:
    """One step of each phase on a state that goes on from the step before."""
    mesh = make_mesh()
    images, boxes = images_and_boxes(config)
    batch = to_global({"image": images, "bbox": boxes}, mesh)
    state = [jax.jit(lambda: create_state(config), out_shardings=replicated(mesh))()]
    steps = make_steps(config, mesh)

    def run(phase: Phase) -> None:
        state[0], _ = jax.block_until_ready(steps[phase](state[0], batch))

    return {phase: lambda phase=phase: run(phase) for phase in Phase}


def torch_steps(config: Config, device: torch.device) -> dict[Phase, Callable[[], Any]]:
    """The same losses and updates, written for speed."""
    layout = torch.channels_last
    generator, discriminator = (
        network(config).to(device, memory_format=layout).train()
        for network in (Generator, Discriminator)
    )
    optimizers = [
        torch.optim.Adam(network.parameters(), config.optimizer.learning_rate)
        for network in (generator, discriminator)
    ]
    images, _ = images_and_boxes(config)
    image = torch.tensor(images / np.float32(127.5) - 1, device=device).permute(0, 3, 1, 2)
    top, left, height, width = BOX
    mask = torch.zeros_like(image[:, :1])
    mask[:, :, top : top + height, left : left + width] = 1
    masked = torch.cat([image * (1 - mask), mask], 1).contiguous(memory_format=layout)
    size = config.local_size
    y, x = top - (size - height) // 2, left - (size - width) // 2

    def judged(pictures: torch.Tensor, target: float) -> torch.Tensor:
        logits = discriminator(pictures, pictures[:, :, y : y + size, x : x + size])
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    def run(phase: Phase) -> None:
        with torch.set_grad_enabled(phase is not Phase.DISCRIMINATOR):
            prediction = generator(masked)
        completed = image * (1 - mask) + prediction * mask
        if phase is not Phase.COMPLETION:
            optimizers[1].zero_grad()
            (judged(completed.detach(), 0.0) + judged(image, 1.0)).backward()
            optimizers[1].step()
        if phase is not Phase.DISCRIMINATOR:
            optimizers[0].zero_grad()
            total = ((prediction - image).abs() * mask).sum() / (3 * mask.sum())
            if phase is Phase.JOINT:
                discriminator.requires_grad_(False)
                total = total + config.losses.adversarial * judged(completed, 1.0)
                discriminator.requires_grad_(True)
            total.backward()
            optimizers[0].step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return {phase: lambda phase=phase: run(phase) for phase in Phase}


def forward(
    config: Config, size: int, batch: int, device: torch.device
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The generator in evaluation mode."""
    network, _ = make_networks(config)
    image, mask = jnp.zeros((batch, size, size, 3)), jnp.zeros((batch, size, size, 1))
    variables = network.init(jax.random.key(0), image[:1, :16, :16], mask[:1, :16, :16], train=True)
    apply = jax.jit(lambda *arrays: network.apply(*arrays, train=False))
    theirs = Generator(config).to(device, memory_format=torch.channels_last).eval()
    inputs = torch.zeros(batch, 4, size, size, device=device)
    inputs = inputs.contiguous(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            theirs(inputs)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return lambda: apply(variables, image, mask).block_until_ready(), run


if __name__ == "__main__":
    main()
