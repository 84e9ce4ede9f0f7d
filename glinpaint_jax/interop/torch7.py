"""Reads the completion networks of the paper's authors: binary files of Torch7, `.t7`.

The format is that of torch7's File.lua on a 64-bit machine. Nothing in a file is run.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from glinpaint_jax.config import Config, MaskConfig, ModelConfig, to_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.interop.mmagic import CONFIG, COUNTER, from_state_dict
from glinpaint_jax.models.batch_norm import EPSILON
from glinpaint_jax.models.generator import DECODER, DILATION_NECK, ENCODER, TO_RGB
from glinpaint_jax.models.layers import Layer
from glinpaint_jax.models.networks import Weights

NIL, NUMBER, STRING, TABLE, OBJECT, BOOLEAN = range(6)
CLASS, NOTHING = "__typename", "missing"  # where we keep the class of an object; if there is none
STORAGES = {"torch.DoubleStorage": "<f8", "torch.FloatStorage": "<f4", "torch.LongStorage": "<i8"}
TENSORS = [name.replace("Storage", "Tensor") for name in STORAGES]
CONVOLUTIONS = ("nn.SpatialConvolution", "nn.SpatialDilatedConvolution")
TRANSPOSED = ("nn.SpatialFullConvolution",)
DEFAULTS = {"dilationW": 1, "dilationH": 1, "adjW": 0, "adjH": 0}  # of plain convolutions
DAMAGED = (AttributeError, LookupError, OverflowError, TypeError, ValueError)
Fields = dict[Any, Any]


class Reader:
    """Reads Lua objects. Tables and objects are dicts; what appears twice is the same dict."""

    def __init__(self, content: bytes):
        self.content, self.position = content, 0
        self.known: dict[int, Any] = {}

    def read(self) -> Any:
        kind = self.int32()
        if kind == NIL:
            return None
        if kind == NUMBER:
            return self.numbers("<f8", 1).item()
        if kind == STRING:
            return self.text()
        if kind == BOOLEAN:
            return self.int32() == 1
        if kind not in (TABLE, OBJECT):
            raise UserError("it contains code (a Lua function) or is damaged; it was not loaded")
        if (index := self.int32()) not in self.known:
            # An object has a version, such as "V 1", and a class.
            self.read_object(index, "" if kind == TABLE else (self.text(), self.text())[1])
        return self.known[index]

    def read_object(self, index: int, name: str) -> None:
        if name in STORAGES:
            self.known[index] = self.numbers(STORAGES[name], self.numbers("<i8", 1).item())
        elif name in TENSORS:
            self.known[index] = self.tensor()
        elif name:
            self.known[index] = {CLASS: name}
            self.known[index].update(self.read())
        else:
            table = self.known[index] = {}
            for _ in range(self.int32()):
                key = self.read()
                table[key] = self.read()

    def tensor(self) -> np.ndarray:
        """A view of its storage, within which all its elements must lie."""
        dimensions = self.int32()
        sizes, strides = (self.numbers("<i8", dimensions).tolist() for _ in range(2))
        first, storage = self.numbers("<i8", 1).item(), self.read()  # counts from 1
        if storage is None or not sizes or 0 in sizes:
            return np.zeros(0, np.float32)
        last = first + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        is_inside = min(*sizes, *strides) >= 0 and 1 <= first <= last <= len(storage)
        if not is_inside or not storage.flags.c_contiguous:
            raise ValueError("a tensor reaches beyond its storage")
        strides = [stride * storage.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(storage[first - 1 :], sizes, strides)

    def numbers(self, kind: str, count: int) -> np.ndarray:
        array = np.frombuffer(self.content, kind, count, self.position)
        self.position += array.nbytes
        return array

    def int32(self) -> int:
        return self.numbers("<i4", 1).item()

    def text(self) -> str:
        return self.numbers("u1", self.int32()).tobytes().decode()


def read_torch7(content: bytes) -> Weights:
    """Returns the network in a table of a `model`, an nn.Sequential, and its `mean`.

    The model gets an RGB image in 0..1, minus the mean, and the mask. Raises UserError for anything
    else.
    """
    try:
        table = Reader(content).read()
        modules, mean = table["model"]["modules"], table["mean"]
        modules = [modules[i] for i in range(1, len(modules) + 1)]
        width = len(modules[1]["running_mean"])
        state = _make_state(modules, width)
        fill = [255 * float(mean[i]) for i in ((1, 2, 3) if isinstance(mean, dict) else range(3))]
    except DAMAGED:
        raise UserError("it is not the authors' completion network, or is damaged") from None
    # The paper's network, whose holes had sides of 96..128 pixels.
    model = ModelConfig(width=width, output="sigmoid", padding="fill")
    mask = MaskConfig(kind="rectangle", max_size=128, max_delta=64, margin=0, fill=tuple(fill))
    return from_state_dict(state, {CONFIG: to_dict(Config(model=model, mask=mask))})


def _make_state(modules: list[Fields], width: int) -> dict[str, np.ndarray]:
    """Returns MMagic's state dict. There, the biases before a batch norm are part of its mean."""
    numbered, state, channels = iter(enumerate(modules, 1)), {}, 4
    tables = {"encoder": ENCODER, "dilation_neck": DILATION_NECK, "decoder": (*DECODER, TO_RGB)}
    for stack, layer in ((stack, layer) for stack, table in tables.items() for layer in table):
        key = f"generator.{stack}.{layer.name}.".replace("convs_", "convs.")
        conv = _take(numbered, *(TRANSPOSED if layer.transposed else CONVOLUTIONS))
        features = layer.features(width) or 3
        weight = _read_kernel(conv, layer, channels, features)
        bias = _read(conv, "bias", 0, features)
        if layer is TO_RGB:
            _take(numbered, "nn.Sigmoid")
            _take(numbered, NOTHING)
            return state | {key + "conv.weight": weight[::-1], key + "conv.bias": bias[::-1]}
        if layer.name == "enc1":  # in [-1, 1], differences from the mean are twice as large
            weight = np.concatenate([weight[:, 2::-1] / 2, weight[:, 3:]], axis=1)
        norm = _take(numbered, "nn.SpatialBatchNormalization")
        variance = _read(norm, "running_var", None, features)
        _take(numbered, "nn.ReLU")
        state |= {
            key + "conv.weight": weight,
            key + "bn.weight": _read(norm, "weight", 1, features),
            key + "bn.bias": _read(norm, "bias", 0, features),
            key + "bn.running_mean": _read(norm, "running_mean", None, features) - bias,
            key + "bn.running_var": variance + np.float32(norm["eps"] - EPSILON),
            key + "bn." + COUNTER: np.array(0),
        }
        channels = features
    return state


def _take(numbered: Iterator[tuple[int, Fields]], *kinds: str) -> Fields:
    """Returns the next module, which must be of one of the kinds, or NOTHING."""
    number, module = next(numbered, (0, {CLASS: NOTHING}))
    if (found := module[CLASS]) not in kinds:
        raise UserError(f"its module {number} is {found!r}, must be {' or '.join(kinds)}")
    return module


def _read_kernel(conv: Fields, layer: Layer, channels: int, features: int) -> np.ndarray:
    """Returns the kernel as PyTorch has it, too, if the convolution is that of our row."""
    wanted = {"d": layer.stride, "pad": layer.padding, "dilation": layer.dilation, "adj": 0}
    for side, value in ((name + side, value) for name, value in wanted.items() for side in "WH"):
        if (found := conv.get(side, DEFAULTS.get(side))) != value:
            raise UserError(f"its {layer.name} has {side}={found}, must be {value}")
    both = (channels, features) if layer.transposed else (features, channels)
    return _read(conv, "weight", None, *both, layer.kernel, layer.kernel)


def _read(fields: Fields, name: str, default: int | None, *shape: int) -> np.ndarray:
    array = fields[name] if default is None else fields.get(name, np.full(shape, default))
    if array.size != math.prod(shape):
        raise UserError(f"a {name} has the shape {array.shape}, must be {shape}")
    return array.reshape(shape).astype(np.float32)
