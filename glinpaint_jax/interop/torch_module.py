"""The two networks in plain PyTorch, with MMagic's names, so that its weight files fit as they are.

Tensors are NCHW. As MMagic's, the networks eat and give BGR in [-1, 1]; `Completion` around the
generator is what is exported: RGB in 0..1, hole filled inside.
"""

import torch
from torch import Tensor, nn

from glinpaint_jax.config import Config
from glinpaint_jax.models.discriminator import GLOBAL_LAYERS, LOCAL_LAYERS
from glinpaint_jax.models.generator import DECODER, DILATION_NECK, ENCODER


class ConvNormRelu(nn.Module):
    def __init__(
        self,
        channels: int,
        features: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        transposed: bool = False,
    ):
        super().__init__()
        if transposed:
            self.conv = nn.ConvTranspose2d(channels, features, kernel, stride, 1, bias=False)
        else:
            padding = dilation * (kernel // 2)
            self.conv = nn.Conv2d(channels, features, kernel, stride, padding, dilation, bias=False)
        self.bn = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class LastConv(nn.Module):
    """Convolution with bias, no norm; a module of its own for MMagic's name dec7.conv."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def stack(table: tuple, channels: int, width: int) -> nn.Sequential:
    """The layers of one of the generator's tables, in order."""
    layers = nn.Sequential()
    for name, multiple, *shape in table:
        features = int(multiple * width)
        layers.add_module(name, ConvNormRelu(channels, features, *shape))
        channels = features
    return layers


class DilationNeck(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.dilation_convs = nn.Sequential(*stack(DILATION_NECK, 4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.dilation_convs(x)


class Generator(nn.Module):
    """MMagic's GLEncoderDecoder: masked image (BGR) and mask -> prediction (BGR), in [-1, 1]."""

    def __init__(self, config: Config):
        super().__init__()
        width = config.model.width
        self.sigmoid = config.model.output == "sigmoid"
        self.encoder = stack(ENCODER, 4, width)
        self.dilation_neck = DilationNeck(width)
        self.decoder = stack(DECODER, 4 * width, width)
        self.decoder.add_module("dec7", LastConv(width // 2))

    def forward(self, x: Tensor) -> Tensor:
        """[b, 4, h, w] -> [b, 3, h, w]; sides are multiples of 4."""
        x = self.decoder(self.dilation_neck(self.encoder(x)))
        return 2 * torch.sigmoid(x) - 1 if self.sigmoid else x.clamp(-1, 1)


class Branch(nn.Module):
    def __init__(self, layers: int, side: int, width: int):
        super().__init__()
        self.layers = layers
        channels = 3
        for i in range(layers):
            features = min(width * 2**i, 8 * width)
            self.add_module(f"conv{i + 1}", ConvNormRelu(channels, features, 5, 2))
            channels, side = features, (side + 1) // 2
        self.fc = nn.Module()
        self.fc.linear = nn.Linear(channels * side**2, 16 * width)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.layers):
            x = self.get_submodule(f"conv{i + 1}")(x)
        return torch.relu(self.fc.linear(x.flatten(1)))


class Discriminator(nn.Module):
    """MMagic's GLDiscs: image and local window (BGR, [-1, 1]) -> logits [b, 1]."""

    def __init__(self, config: Config):
        super().__init__()
        width = config.model.width
        self.global_disc = Branch(GLOBAL_LAYERS, config.image_size, width)
        self.local_disc = Branch(LOCAL_LAYERS, config.local_size, width)
        self.fc = nn.Linear(32 * width, 1)

    def forward(self, image: Tensor, window: Tensor) -> Tensor:
        return self.fc(torch.cat([self.global_disc(image), self.local_disc(window)], dim=1))


class Completion(nn.Module):
    """What users of an exported file call: image and mask in, completed image out.

    The contract is IOPaint's: image float32 [b, 3, h, w], RGB, 0..1, not masked beforehand; mask of
    any number type [b, 1, h, w], 1 = hole; sides are multiples of 4. Pixels outside the hole come
    back as they were.
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
    """Both networks with the weights of a state dict of MMagic's, in evaluation mode.

    Raises RuntimeError where its keys are not exactly theirs; `disc.*` may lack.
    """

    def load(network: nn.Module, prefix: str) -> nn.Module:
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        network.load_state_dict(own, strict=True)
        return network.eval().requires_grad_(False)

    generator = load(Generator(config), "generator.")
    if not any(key.startswith("disc.") for key in state):
        return generator, None
    return generator, load(Discriminator(config), "disc.")
