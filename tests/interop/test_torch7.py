"""Reads the authors' networks from Torch7 files. The writer follows torch7's File.lua."""

import struct

import jax
import numpy as np
import pytest
import torch
from torch import nn

from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.completer import Completer
from glinpaint_jax.interop.export import export_weights
from glinpaint_jax.models.networks import make_complete_function
from glinpaint_jax.weights import load_weights

MEAN = np.float32([0.2, 0.5, 0.7])
# Output channels, kernel, stride, dilation of each convolution, for width 4; a negative stride is
# of a transposed one. Read in a conversion of completionnet_places2.t7 to PyTorch.
ROWS = [(4, 5, 1, 1), (8, 3, 2, 1), (8, 3, 1, 1), (16, 3, 2, 1), (16, 3, 1, 1), (16, 3, 1, 1)]
ROWS += [(16, 3, 1, dilation) for dilation in (2, 4, 8, 16, 1, 1)]
ROWS += [(8, 4, -2, 1), (8, 3, 1, 1), (4, 4, -2, 1), (2, 3, 1, 1), (3, 3, 1, 1)]


class Lua(dict):
    """An object of a class, with fields."""

    def __init__(self, kind, **fields):
        super().__init__(fields)
        self.kind = kind


class Strided:
    """A tensor whose elements lie apart, in another order and not at the start of its storage."""

    def __init__(self, array):
        self.sizes, count = array.shape, array.size
        self.storage = np.full(5 + 2 * count, np.nan, np.float32)
        self.storage[5::2] = array.T.ravel()
        self.strides = [2 * int(np.prod(array.shape[:axis])) for axis in range(array.ndim)]


class Writer:
    """Writes tables, objects, float tensors and plain values."""

    def __init__(self):
        self.parts, self.indices, self.alive = [], {}, []  # an id is that of a living object

    def ints(self, *values, kind="i"):
        self.parts.append(struct.pack(f"<{len(values)}{kind}", *values))

    def text(self, text):
        self.ints(len(text))
        self.parts.append(text.encode())

    def write(self, value):
        if value is None:
            self.ints(0)
        elif isinstance(value, bool):
            self.ints(5, value)
        elif isinstance(value, float | int):
            self.ints(1)
            self.ints(value, kind="d")
        elif isinstance(value, str):
            self.ints(2)
            self.text(value)
        elif isinstance(value, bytes):  # a Lua function
            self.parts.append(struct.pack("<iii", 8, 999, len(value)) + value)
        else:
            known = id(value) in self.indices
            index = self.indices.setdefault(id(value), len(self.indices) + 1)
            self.ints(3 if type(value) is dict else 4, index)
            if not known:
                self.alive.append(value)
                self.write_content(value)

    def write_content(self, value):
        if type(value) is dict:
            self.ints(len(value))
            for key, item in value.items():
                self.write(key)
                self.write(item)
            return
        self.text("V 1")
        if isinstance(value, Lua):
            self.text(value.kind)
            self.write(dict(value))
        elif isinstance(value, Strided):
            self.text("torch.FloatTensor")
            self.ints(len(value.sizes))
            self.ints(*value.sizes, *value.strides, 6, kind="q")
            self.write(value.storage)
        else:
            self.text("torch.FloatStorage")
            self.ints(len(value), kind="q")
            self.parts.append(value.tobytes())


def make_network():
    """The authors' network in PyTorch, with numbers that look trained."""
    modules, channels = [], 4
    for features, kernel, stride, dilation in ROWS:
        if stride < 0:
            modules.append(nn.ConvTranspose2d(channels, features, kernel, -stride, padding=1))
        else:
            padding = dilation * (kernel // 2)
            modules.append(nn.Conv2d(channels, features, kernel, stride, padding, dilation))
        modules += [nn.BatchNorm2d(features), nn.ReLU()]
        channels = features
    modules[-2:] = [nn.Sigmoid()]
    modules[4] = nn.BatchNorm2d(8, eps=1e-3, affine=False)
    modules[6].bias = None
    network = nn.Sequential(*modules).requires_grad_(False)
    rng = np.random.default_rng(0)
    for tensor in network.parameters():
        numbers = rng.normal(float(tensor.ndim == 1), 0.3, tensor.shape)
        tensor.copy_(torch.from_numpy(numbers.astype(np.float32)))
    for module in modules:
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics are those of what it has seen
    network(torch.from_numpy(rng.random((4, 4, 64, 64), np.float32) - 0.4))
    return network.eval()


def to_lua(network):
    """What the authors saved: {model = nn.Sequential, mean = a tensor}."""
    modules = {}
    for number, module in enumerate(network, 1):
        fields = {"train": False, "_type": "torch.FloatTensor", "output": Strided(np.zeros((0,)))}
        for name in ("weight", "bias", "running_mean", "running_var"):
            if (tensor := getattr(module, name, None)) is not None:
                fields[name] = Strided(tensor.numpy())
        kind = type(module).__name__
        if "Conv" in kind:
            for index, side in enumerate("HW"):
                fields[f"d{side}"] = module.stride[index]
                fields[f"pad{side}"] = module.padding[index]
                # Without dilation, too, some of the authors' convolutions are of that class.
                if is_dilated := 12 < number < 36:
                    fields[f"dilation{side}"] = module.dilation[index]
            kind = "FullConvolution" if "Transpose" in kind else "Convolution"
            kind = f"Spatial{'Dilated' * is_dilated}{kind}"
        elif "Norm" in kind:
            kind = "SpatialBatchNormalization"
            fields["eps"] = module.eps
        modules[number] = Lua(f"nn.{kind}", **fields)
    model = Lua("nn.Sequential", modules=modules, gradInput=None)
    return {"model": model, "mean": Strided(MEAN)}


def save(path, table):
    writer = Writer()
    writer.write(table)
    path.write_bytes(b"".join(writer.parts))
    return path


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    return save(tmp_path_factory.mktemp("torch7") / "completionnet_places2.t7", to_lua(network))


def make_photo(height=40, width=28):
    """An image in 0..1 and a mask, whose hole reaches the border."""
    mask = np.zeros((1, height, width, 1), np.float32)
    mask[:, 8:24, 12:] = 1
    return np.random.default_rng(0).random((1, height, width, 3), np.float32), mask


def complete_as_the_authors(network, image, mask):
    """As their inpaint.lua does."""
    known = (image - MEAN) * (1 - mask)
    x = np.moveaxis(np.concatenate([known, mask], axis=-1), -1, 1)
    prediction = np.moveaxis(network(torch.from_numpy(x)).numpy(), 1, -1)
    return image * (1 - mask) + prediction * mask


def test_the_network_equals_the_authors_also_at_the_border(network, path, tmp_path):
    weights, (image, mask) = load_weights(path), make_photo()
    expected = complete_as_the_authors(network, image, mask)
    completed = jax.jit(make_complete_function(weights))(image, mask)
    np.testing.assert_allclose(completed, expected, rtol=0, atol=1e-5)
    assert expected[mask[..., 0] > 0].std() > 0.02

    export_weights(weights, "safetensors", tmp_path / "model.safetensors")  # holds the padding
    again = load_weights(tmp_path)
    assert again.config == weights.config
    np.testing.assert_array_equal(jax.jit(make_complete_function(again))(image, mask), completed)
    again.config.model.padding = "gray"
    gray = jax.jit(make_complete_function(again))(image, mask)
    assert np.abs(gray - expected).max() > 0.01


def test_photographs_are_completed_and_exported_with_it(network, path, tmp_path):
    image, mask = make_photo()
    pixels, hole = np.rint(255 * image[0]).astype(np.uint8), mask[0, ..., 0] > 0
    expected = 255 * complete_as_the_authors(network, np.float32(pixels[None] / 255), mask)[0]
    completed = Completer.load(path, scale=1, blend="none")(pixels, hole)
    np.testing.assert_allclose(completed, expected, rtol=0, atol=0.51)
    assert export_weights(load_weights(path), "torchscript", tmp_path / "a.pt") < 1e-5


def change(number, **fields):
    def changed(table):
        table["model"]["modules"][number] |= fields

    return changed


def replace(number, kind):
    def replaced(table):
        table["model"]["modules"][number] = Lua(kind)

    return replaced


def reach_beyond(table):
    table["model"]["modules"][1]["weight"].strides = [1000, 1, 1, 1]


def share_a_tensor(table):
    """A tensor of one number, many times, as the storage of another tensor."""
    table["mean"].sizes, table["mean"].strides = (10_000,), (0,)
    table["model"]["modules"][1]["weight"].storage = table["mean"]


OTHER = "not the authors' completion network"


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (change(1, weight=b"\x1bLua"), "contains code .a Lua function. or is damaged"),
        (change(22, dilationW=3), "dilation_convs_1 has dilationW=3.*must be 4"),
        (change(22, weight=Strided(np.zeros((2, 2)))), "weight has the shape .2, 2., must be .16,"),
        (change(22, weight=None), OTHER),
        (replace(3, "nn.Tanh"), "module 3 is 'nn.Tanh', must be nn.ReLU"),
        (replace(50, "nn.ReLU"), "module 50 is 'nn.ReLU', must be nn.Sigmoid"),
        (reach_beyond, OTHER),
        (share_a_tensor, OTHER),
        (lambda table: table.pop("mean"), OTHER),
        (lambda table: table.pop("model"), OTHER),
        (lambda table: table["mean"].storage.fill(np.nan), "config.mask.fill is .nan"),
        (change(2, running_mean=Strided(np.full(4, np.nan))), "enc1.bn.running_mean is not fin"),
    ],
)
def test_other_files_are_rejected_in_one_line(alter, message, network, tmp_path):
    table = to_lua(network)
    alter(table)
    path = save(tmp_path / "a.t7", table)
    with pytest.raises(UserError, match=rf"a\.t7: .*{message}") as error:
        load_weights(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0005, 0.3, 0.9999])
def test_truncated_files_are_rejected(share, path, tmp_path):
    content = path.read_bytes()
    (tmp_path / "a.t7").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"a\.t7: it is not.*or is damaged"):
        load_weights(tmp_path / "a.t7")
