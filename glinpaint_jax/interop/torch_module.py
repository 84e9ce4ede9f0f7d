"""The generator in plain PyTorch. It has MMagic's names, so it loads its weight files as is.

Tensors are NCHW. Like MMagic's, it reads and writes BGR in [-1, 1]. Exported files contain
`CompletionModule`, which wraps it: RGB in 0..1, and it fills the hole itself.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from typing import no_type_check

import torch
from torch import Tensor, nn
from torch._higher_order_ops import while_loop
from torch.nn import functional

from glinpaint_jax.config import Config
from glinpaint_jax.interop.mmagic import to_state_dict
from glinpaint_jax.models import smooth
from glinpaint_jax.models.generator import DECODER, DILATION_NECK, ENCODER, STRIDE
from glinpaint_jax.models.layers import Layer
from glinpaint_jax.models.networks import Weights, padding_color


def named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def make_layers(table: tuple[Layer, ...], channels: int, width: int) -> dict[str, nn.Module]:
    """Builds convolution, batch norm and ReLU for each row, by name."""
    layers = {}
    for layer in table:
        features, shape = layer.features(width), (layer.kernel, layer.stride, layer.padding)
        make_conv = nn.ConvTranspose2d if layer.transposed else nn.Conv2d
        conv = make_conv(channels, features, *shape, dilation=layer.dilation, bias=False)
        layers[layer.name] = named(conv=conv, bn=nn.BatchNorm2d(features), relu=nn.ReLU())
        channels = features
    return layers


class Generator(nn.Module):
    """MMagic's GLEncoderDecoder: masked image (BGR) and mask -> prediction (BGR), in [-1, 1]."""

    def __init__(self, config: Config):
        super().__init__()
        width = config.model.width
        self.sigmoid = config.model.output == "sigmoid"
        self.residual = config.model.base == "smooth"
        bgr = torch.tensor(padding_color(config)[::-1]).reshape(1, 3, 1, 1)
        self.register_buffer("padding", bgr, persistent=False)
        self.encoder = named(**make_layers(ENCODER, 4, width))
        dilated = make_layers(DILATION_NECK, 4 * width, width).values()
        self.dilation_neck = named(dilation_convs=nn.Sequential(*dilated))
        dec7 = named(conv=nn.Conv2d(width // 2, 3, 3, padding=1))
        self.decoder = named(**make_layers(DECODER, 4 * width, width), dec7=dec7)

    def forward(self, x: Tensor) -> Tensor:
        """[b, 4, h, w] -> [b, 3, h, w]; sides are multiples of 4."""
        masked_image, mask = x[:, :3], x[:, 3:]
        x = torch.cat([masked_image - self.padding, mask], dim=1)
        x = self.decoder(self.dilation_neck(self.encoder(x)))
        if self.residual:
            x = masked_image + mask * x
        return 2 * torch.sigmoid(x) - 1 if self.sigmoid else x.clamp(-1, 1)


@no_type_check  # PyTorch cannot trace the checks of our tests
class SmoothFill(nn.Module):
    """models/smooth.py in PyTorch, for any size. Channels are separate images, [b * c, 1, h, w].

    Convolutions keep the exported graphs small.
    """

    def __init__(self):
        super().__init__()
        neighbors = torch.eye(9)[[3, 5, 1, 7]].reshape(4, 1, 3, 3)  # left, right, above, below
        between = torch.zeros(4, 1, 2, 2)  # sums only the links that leave a block of 2x2 pixels
        between[0, 0, :, 0] = between[1, 0, :, 1] = between[2, 0, 0] = between[3, 0, 1] = 1
        self.register_buffer("neighbors", neighbors)
        self.register_buffer("between", between)
        self.register_buffer("block", torch.ones(1, 1, 2, 2))

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        channels = image.shape[1]
        mask = mask.expand_as(image).flatten(0, 1).unsqueeze(1)
        known = image.flatten(0, 1).unsqueeze(1) * (1 - mask)
        levels = self.make_levels(mask)
        residual = mask * self.around(known).sum(1, keepdim=True)
        direction = self.cycle(levels, residual)

        def iterate(
            solution: Tensor, residual: Tensor, direction: Tensor, energy: Tensor
        ) -> tuple[Tensor, ...]:
            change = self.apply_level(levels[0], direction)
            step = self.divide(energy, self.dot(direction, change))[:, None, None, None]
            solution, residual = solution + step * direction, residual - step * change
            correction = self.cycle(levels, residual)
            new_energy = self.dot(residual, correction)
            ratio = self.divide(new_energy, energy)[:, None, None, None]
            direction = correction + ratio * direction
            return solution, residual, direction, new_energy

        state = torch.zeros_like(known), residual, direction, self.dot(residual, direction)
        state = repeat(iterate, state, smooth.CYCLES)
        return (known + state[0]).squeeze(1).unflatten(0, (-1, channels))

    def make_levels(self, mask: Tensor) -> list[smooth.Level]:
        links = mask * self.around(mask)
        known = self.around(torch.ones_like(mask)).sum(1, keepdim=True)
        anchor = mask * known - links.sum(1, keepdim=True)
        levels = []
        for _ in range(smooth.UNKNOWN_SIZE_LEVELS):
            levels.append(smooth.Level(links, links.sum(1, keepdim=True) + anchor))
            links = smooth.COARSE_LINK * self.pool(links, self.between)
            anchor = smooth.COARSE_ANCHOR * self.pool(anchor, self.block)
        return levels

    def cycle(self, levels: list[smooth.Level], residual: Tensor) -> Tensor:
        level, *coarser = levels
        rate = smooth.DAMPING * self.divide(torch.ones_like(level.weight), level.weight)

        def relax(solution: Tensor, steps: int) -> Tensor:
            for _ in range(steps):
                solution = solution + rate * (residual - self.apply_level(level, solution))
            return solution

        if not coarser:
            return relax(rate * residual, smooth.COARSEST_SMOOTHINGS - 1)
        solution = relax(rate * residual, smooth.SMOOTHINGS - 1)
        rest = residual - self.apply_level(level, solution)
        coarse = self.cycle(coarser, self.pool(rest, self.block))
        spread = functional.conv_transpose2d(coarse, self.block, stride=2)
        spread = spread[:, :, : residual.shape[2], : residual.shape[3]]
        return relax(solution + spread * (level.weight > 0), smooth.SMOOTHINGS)

    def apply_level(self, level: smooth.Level, x: Tensor) -> Tensor:
        return level.weight * x - (level.links * self.around(x)).sum(1, keepdim=True)

    def around(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.neighbors, padding=1)

    @staticmethod
    def pool(x: Tensor, kernel: Tensor) -> Tensor:
        """Sums blocks of 2x2 pixels; a last odd row or column has its own."""
        padded = functional.pad(x, (0, 1, 0, 1))
        return functional.conv2d(padded, kernel, stride=2, groups=x.shape[1])

    @staticmethod
    def dot(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum((1, 2, 3))

    @staticmethod
    def divide(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(y > 0, x / torch.where(y > 0, y, 1.0), 0.0)


def repeat(iterate: Callable[..., tuple], state: tuple[Tensor, ...], times: int) -> tuple:
    """Applies `iterate` to the state. An ONNX graph gets a loop: unrolled, it takes minutes."""
    if torch.compiler.is_exporting():
        counter = torch.zeros((), dtype=torch.int64)
        return while_loop(
            lambda counter, *_: counter < times,
            lambda counter, *state: (counter + 1, *iterate(*state)),
            (counter, *state),
        )[1:]
    for _ in range(times):
        state = iterate(*state)
    return state


class CompletionModule(nn.Module):
    """(image, mask) -> completed image: the module in exported files.

    The interface is IOPaint's: image float32 [b, 3, h, w], RGB, 0..1, unmasked; mask [b, 1, h, w]
    of any number type, 1 = hole; sides are multiples of 4. Pixels outside the hole stay unchanged.
    """

    def __init__(self, weights: Weights):
        super().__init__()
        self.generator = load_generator(weights)
        self.smooth_fill = SmoothFill() if weights.config.model.base == "smooth" else None
        fill = torch.tensor(weights.config.mask.fill[::-1]).reshape(1, 3, 1, 1)
        self.register_buffer("fill", (fill - 127.5) / 127.5)
        self.eval()

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        hole = (mask > 0.5).type_as(image)
        prediction = self.generator(self.fill_hole(2 * image.flip(1) - 1, hole))
        return image * (1 - hole) + (prediction.flip(1) + 1) / 2 * hole

    def fill_hole(self, bgr: Tensor, hole: Tensor) -> Tensor:
        """Returns the generator's input."""
        if self.smooth_fill is not None:
            masked_image = self.smooth_fill(bgr, hole)
        else:
            masked_image = bgr * (1 - hole) + self.fill * hole
        return torch.cat([masked_image, hole], dim=1)


class PipelineModule(CompletionModule):
    """(image, mask) -> completed image, as Completer.fill_unscaled does.

    The images are uint8 [h, w, 3], RGB, of any size; the mask is uint8 [h, w], above 127 = hole.
    """

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        hole, pixels = (mask > 127).unsqueeze(-1), image.float()
        bgr = pixels.flip(2).permute(2, 0, 1).unsqueeze(0) / 127.5 - 1
        x = self.fill_hole(bgr, hole.permute(2, 0, 1).unsqueeze(0).float())
        for axis in (2, 3):  # repeats the last row and column
            size = x.shape[axis]
            padded = torch.arange((size + STRIDE - 1) // STRIDE * STRIDE)
            x = x.index_select(axis, padded.clamp(max=size - 1))
        prediction = self.generator(x)[0, :, : image.shape[0], : image.shape[1]]
        filled = (prediction.flip(0).permute(1, 2, 0) * 127.5 + 127.5).round()
        known = torch.where(hole, pixels[..., :1], pixels)
        is_gray = (known == known[..., :1]).all() & ~hole.all()  # networks know only colors
        gray = (filled * torch.tensor([0.299, 0.587, 0.114])).sum(2, keepdim=True).round()
        return torch.where(hole, torch.where(is_gray, gray, filled).to(torch.uint8), image)


def load_generator(weights: Weights) -> Generator:
    """Builds the generator with these weights, in evaluation mode."""
    prefix, generator = "generator.", Generator(weights.config)
    state = to_state_dict(dataclasses.replace(weights, discriminator=None))
    state = {key.removeprefix(prefix): torch.from_numpy(array) for key, array in state.items()}
    generator.load_state_dict(state, strict=True)
    return generator.eval().requires_grad_(False)
