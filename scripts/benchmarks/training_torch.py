"""Training steps and forward passes of the same networks in PyTorch, tuned for speed.

Used by training.py. channels_last; autocast for bfloat16; torch.compile if `compiled`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from glinpaint_jax.config import Config
from glinpaint_jax.interop.torch_module import Discriminator, Generator
from glinpaint_jax.training.phases import Phase

LAYOUT = torch.channels_last
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.backends.cudnn.benchmark = True  # XLA, too, tries several algorithms


def networks(config: Config, *, compiled: bool) -> list[torch.nn.Module]:
    made = [
        network(config).to(DEVICE, memory_format=LAYOUT) for network in (Generator, Discriminator)
    ]
    return [torch.compile(network) for network in made] if compiled else made


def make_steps(
    config: Config, batch: dict[str, np.ndarray], *, compiled: bool
) -> dict[Phase, Callable[[], Any]]:
    """One step per phase, with the losses and updates of a default config.

    All images have the hole of the first.
    """
    generator, discriminator = (network.train() for network in networks(config, compiled=compiled))
    optimizers = [
        torch.optim.Adam(network.parameters(), config.optimizer.learning_rate, fused=True)
        for network in (generator, discriminator)
    ]
    image = torch.tensor(batch["image"] / np.float32(127.5) - 1, device=DEVICE).permute(0, 3, 1, 2)
    top, left, height, width = batch["bbox"][0].tolist()
    mask = torch.zeros_like(image[:, :1])
    mask[:, :, top : top + height, left : left + width] = 1
    masked = torch.cat([image * (1 - mask), mask], 1).contiguous(memory_format=LAYOUT)
    size = config.local_size
    y, x = top - (size - height) // 2, left - (size - width) // 2

    def judged(pictures: torch.Tensor, target: float) -> torch.Tensor:
        with autocast(config):
            logits = discriminator(pictures, pictures[:, :, y : y + size, x : x + size])
        logits = logits.float()
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    def run(phase: Phase) -> None:
        with torch.set_grad_enabled(phase is not Phase.DISCRIMINATOR), autocast(config):
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
        wait()

    return {phase: lambda phase=phase: run(phase) for phase in Phase}


def make_forward(config: Config, size: int, batch: int, *, compiled: bool) -> Callable[[], Any]:
    """The generator in evaluation mode."""
    generator = networks(config, compiled=compiled)[0].eval()
    inputs = torch.zeros(batch, 4, size, size, device=DEVICE).contiguous(memory_format=LAYOUT)

    def run() -> None:
        with torch.inference_mode(), autocast(config):
            generator(inputs)
        wait()

    return run


def multiply_in(precision: str) -> None:
    """How CUDA multiplies float32 from now on: "float32" or "tensorfloat32"."""
    allowed = precision == "tensorfloat32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def autocast(config: Config) -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=config.precision == "bfloat16")


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
