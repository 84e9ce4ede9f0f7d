"""The steps and the networks of training.py in PyTorch, tuned for speed.

channels_last; autocast for bfloat16; torch.compile if `compiled`. A file of its own, because our
steps are also measured where PyTorch is not installed.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from glinpaint_jax.config import Config
from glinpaint_jax.interop.torch_module import Generator, make_layers, named
from glinpaint_jax.models.discriminator import GLOBAL_BRANCH, LOCAL_BRANCH
from glinpaint_jax.models.layers import Layer
from glinpaint_jax.training.phases import Phase

LAYOUT = torch.channels_last
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.backends.cudnn.benchmark = True  # XLA, too, tries several algorithms


def make_branch(table: tuple[Layer, ...], side: int, width: int) -> nn.Sequential:
    """Builds a branch of the discriminator, for images of `side` pixels."""
    for layer in table:
        side = -(-side // layer.stride)
    linear = nn.Linear(table[-1].features(width) * side**2, 16 * width)
    layers = make_layers(table, 3, width)
    return named(**layers, flatten=nn.Flatten(), fc=named(linear=linear, relu=nn.ReLU()))


class Discriminator(nn.Module):
    """MMagic's GLDiscs: image and local window (BGR, [-1, 1]) -> logits [b, 1]."""

    def __init__(self, config: Config):
        super().__init__()
        width = config.model.width
        self.global_disc = make_branch(GLOBAL_BRANCH, config.image_size, width)
        self.local_disc = make_branch(LOCAL_BRANCH, config.local_size, width)
        self.fc = nn.Linear(32 * width, 1)

    def forward(self, image: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.cat([self.global_disc(image), self.local_disc(window)], dim=1))


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


def make(network: type[nn.Module], config: Config, compiled: bool = False) -> nn.Module:
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
