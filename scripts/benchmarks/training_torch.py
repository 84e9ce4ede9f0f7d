"""The steps and the generator of training.py in PyTorch, tuned for speed.

channels_last; autocast for bfloat16; torch.compile if `compiled`. A file of its own, because our
steps are also measured where PyTorch is not installed.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from glinpaint_jax.config import Config
from glinpaint_jax.interop.torch_module import Discriminator, Generator
from glinpaint_jax.training.phases import Phase

LAYOUT = torch.channels_last
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.backends.cudnn.benchmark = True  # XLA, too, tries several algorithms


def make_step(
    config: Config, phase: Phase, batch: dict[str, np.ndarray], compiled: bool = False
) -> Callable[[], None]:
    """The phase's step, with the losses and updates of a default config.

    All images have the hole of the first.
    """
    networks = [make(network, config, compiled) for network in (Generator, Discriminator)]
    generator, discriminator = networks
    generator_adam, discriminator_adam = (
        torch.optim.Adam(network.parameters(), config.optimizer.learning_rate, fused=True)
        for network in networks
    )
    image = torch.tensor(batch["image"] / np.float32(127.5) - 1, device=DEVICE).permute(0, 3, 1, 2)
    top, left, height, width = batch["bbox"][0].tolist()
    mask = torch.zeros_like(image[:, :1])
    mask[:, :, top : top + height, left : left + width] = 1
    masked = torch.cat([image * (1 - mask), mask], 1).contiguous(memory_format=LAYOUT)
    size = config.local_size
    y, x = top - (size - height) // 2, left - (size - width) // 2

    def adversarial_loss(images: torch.Tensor, target: float) -> torch.Tensor:
        with autocast(config):
            logits = discriminator(images, images[:, :, y : y + size, x : x + size])
        logits = logits.float()
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    def run() -> None:
        with torch.set_grad_enabled(phase is not Phase.DISCRIMINATOR), autocast(config):
            prediction = generator(masked)
        completed = image * (1 - mask) + prediction * mask
        if phase is not Phase.COMPLETION:
            loss = adversarial_loss(completed.detach(), 0.0) + adversarial_loss(image, 1.0)
            update(discriminator_adam, loss)
        if phase is not Phase.DISCRIMINATOR:
            loss = ((prediction - image).abs() * mask).sum() / (3 * mask.sum())
            discriminator.requires_grad_(False)
            if phase is Phase.JOINT:
                loss = loss + config.losses.adversarial * adversarial_loss(completed, 1.0)
            update(generator_adam, loss)
            discriminator.requires_grad_(True)
        wait()

    return run


def make_forward(config: Config) -> Callable[[], None]:
    """The generator in evaluation mode, on one image."""
    generator = make(Generator, config).eval()
    image = torch.zeros(1, 4, config.image_size, config.image_size, device=DEVICE)
    image = image.contiguous(memory_format=LAYOUT)

    def run() -> None:
        with torch.inference_mode(), autocast(config):
            generator(image)
        wait()

    return run


def make(network: type[torch.nn.Module], config: Config, compiled: bool = False) -> torch.nn.Module:
    made = network(config).to(DEVICE, memory_format=LAYOUT).train()
    return torch.compile(made) if compiled else made


def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def multiply_in(precision: str) -> None:
    """How CUDA multiplies float32 from now on: "float32" or "tensorfloat32"."""
    allowed = precision == "tensorfloat32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def autocast(config: Config) -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=config.precision == "bfloat16")


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
