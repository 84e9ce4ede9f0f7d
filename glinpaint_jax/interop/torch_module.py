"""The two networks in plain PyTorch. They have MMagic's names, so they load its weight files as is.

Tensors are NCHW. Like MMagic's, the networks read and write BGR in [-1, 1]. Exported files contain
`CompletionModule`, which wraps the generator: RGB in 0..1, and it fills the hole itself.
"""

import torch
from torch import Tensor, nn

from glinpaint_jax.config import Config
from glinpaint_jax.models.discriminator import GLOBAL_BRANCH, LOCAL_BRANCH
from glinpaint_jax.models.generator import DECODER, DILATION_NECK, ENCODER
from glinpaint_jax.models.layers import Layer


class ConvNormRelu(nn.Module):
    def __init__(self, channels: int, layer: Layer, width: int):
        super().__init__()
        features, shape = layer.features(width), (layer.kernel, layer.stride)
        if layer.transposed:
            self.conv = nn.ConvTranspose2d(channels, features, *shape, padding=1, bias=False)
        else:
            padding = layer.dilation * (layer.kernel // 2)
            self.conv = nn.Conv2d(channels, features, *shape, padding, layer.dilation, bias=False)
        self.bn = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class LastConv(nn.Module):
    """Convolution with bias, no norm. A module of its own, because MMagic names it dec7.conv."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def make_stack(table: tuple[Layer, ...], channels: int, width: int) -> nn.Sequential:
    """Builds the layers of one of the generator's tables, in order."""
    layers = nn.Sequential()
    for layer in table:
        layers.add_module(layer.name, ConvNormRelu(channels, layer, width))
        channels = layer.features(width)
    return layers


class DilationNeck(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.dilation_convs = nn.Sequential(*make_stack(DILATION_NECK, 4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.dilation_convs(x)


class Generator(nn.Module):
    """MMagic's GLEncoderDecoder: masked image (BGR) and mask -> prediction (BGR), in [-1, 1]."""

    def __init__(self, config: Config):
        super().__init__()
        width = config.model.width
        self.sigmoid = config.model.output == "sigmoid"
        self.encoder = make_stack(ENCODER, 4, width)
        self.dilation_neck = DilationNeck(width)
        self.decoder = make_stack(DECODER, 4 * width, width)
        self.decoder.add_module("dec7", LastConv(width // 2))

    def forward(self, x: Tensor) -> Tensor:
        """[b, 4, h, w] -> [b, 3, h, w]; sides are multiples of 4."""
        x = self.decoder(self.dilation_neck(self.encoder(x)))
        return 2 * torch.sigmoid(x) - 1 if self.sigmoid else x.clamp(-1, 1)


class Branch(nn.Module):
    def __init__(self, table: tuple[Layer, ...], side: int, width: int):
        super().__init__()
        self.names = [layer.name for layer in table]
        channels = 3
        for layer in table:
            self.add_module(layer.name, ConvNormRelu(channels, layer, width))
            channels, side = layer.features(width), -(-side // layer.stride)
        self.fc = nn.Module()
        self.fc.linear = nn.Linear(channels * side**2, 16 * width)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = self.get_submodule(name)(x)
        return torch.relu(self.fc.linear(x.flatten(1)))


class Discriminator(nn.Module):
    """MMagic's GLDiscs: image and local window (BGR, [-1, 1]) -> logits [b, 1]."""

    def __init__(self, config: Config):
        super().__init__()
        width = config.model.width
        self.global_disc = Branch(GLOBAL_BRANCH, config.image_size, width)
        self.local_disc = Branch(LOCAL_BRANCH, config.local_size, width)
        self.fc = nn.Linear(32 * width, 1)

    def forward(self, image: Tensor, window: Tensor) -> Tensor:
        return self.fc(torch.cat([self.global_disc(image), self.local_disc(window)], dim=1))


class CompletionModule(nn.Module):
    """(image, mask) -> completed image: the module in exported files.

    The interface is IOPaint's: image float32 [b, 3, h, w], RGB, 0..1, unmasked; mask [b, 1, h, w]
    of any number type, 1 = hole; sides are multiples of 4. Pixels outside the hole stay unchanged.
    """

    def __init__(self, generator: Generator, fill: tuple[float, float, float]):
        super().__init__()
        self.generator = generator
        bgr = torch.tensor(fill[::-1]).reshape(1, 3, 1, 1)
        self.register_buffer("fill", (bgr - 127.5) / 127.5)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        hole = (mask > 0.5).type_as(image)
        bgr = 2 * image.flip(1) - 1
        masked_image = bgr * (1 - hole) + self.fill * hole
        prediction = self.generator(torch.cat([masked_image, hole], dim=1))
        return image * (1 - hole) + (prediction.flip(1) + 1) / 2 * hole


def load_networks(
    config: Config, state: dict[str, Tensor]
) -> tuple[Generator, Discriminator | None]:
    """Builds both networks with an MMagic state dict's weights, in evaluation mode.

    Raises RuntimeError unless the keys match exactly. Without `disc.*` keys, the discriminator is
    None.
    """

    def load(network: nn.Module, prefix: str) -> nn.Module:
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        network.load_state_dict(own, strict=True)
        return network.eval().requires_grad_(False)

    generator = load(Generator(config), "generator.")
    if not any(key.startswith("disc.") for key in state):
        return generator, None
    return generator, load(Discriminator(config), "disc.")
