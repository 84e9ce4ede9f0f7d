"""Reads weight files from MMagic, MMEditing and PyTorch, and damaged or malicious ones."""

import io
import json
import os
import sys
import types

import jax
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from glinpaint_jax.errors import UserError
from glinpaint_jax.interop import weight_files
from glinpaint_jax.interop.mmagic import to_state_dict
from glinpaint_jax.interop.weight_files import pth_bytes, read_weights, safetensors_bytes
from tests.helpers.networks import REFERENCE


@pytest.fixture
def content(weights):
    """Of our own file. Its meta holds the config: these networks are not full-size."""
    return torch.load(io.BytesIO(pth_bytes(weights)))


def save(path, content, **options):
    torch.save(content, path, **options)
    return path


def assert_same(read, weights):
    for name in ("generator", "discriminator"):
        jax.tree.map(np.testing.assert_array_equal, getattr(read, name), getattr(weights, name))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a"])
@pytest.mark.parametrize("to_bytes", [pth_bytes, safetensors_bytes])
def test_own_files_round_trip_under_any_name(to_bytes, name, weights, tmp_path):
    (tmp_path / name).write_bytes(to_bytes(weights))
    read = read_weights(tmp_path / name)
    assert_same(read, weights)
    assert (read.config, read.step) == (weights.config, weights.step)


def test_other_contents_are_ignored(content, weights, tmp_path):
    """As MMEditing saved them in 2020: legacy format, parallel wrapper, optimizer."""
    surroundings = {
        "data_preprocessor.mean": torch.zeros(3),
        "loss_gan.real_label": torch.ones(1),
        "step_counter": torch.ones(()).to_sparse(),
        (1, 2): "no tensor",
    }
    state = content["state_dict"] | surroundings
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])
    content |= {"state_dict": wrapped, "optimizer": {"disc": adam.state_dict()}}
    content["meta"] |= {"tensor": torch.zeros(2), "iter": "seven", 3: "three"}
    path = save(tmp_path / "a.pth", content, _use_new_zipfile_serialization=False)
    read = read_weights(path)
    assert_same(read, weights)
    assert (read.config, read.step) == (weights.config, 0)


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_a_bare_state_dict_in_half_precision_loads(kind, tmp_path):
    """Tensors only, with gradients enabled: read as MMagic's full-size network, in float32."""
    state = {
        key: torch.zeros(shape, dtype=torch.int64)
        if "tracked" in key
        else torch.nn.Parameter(torch.full(shape, 0.5, dtype=torch.bfloat16))
        for key, shape in REFERENCE.items()
        if key.startswith("generator.")
    }
    if kind == "torch":
        torch.save(state, tmp_path / "a")
    else:
        safetensors.torch.save_file(state, tmp_path / "a", {"meta": "of someone else's"})
    read = read_weights(tmp_path / "a")
    assert read.discriminator is None
    assert to_state_dict(read).keys() == state.keys()
    leaves = jax.tree.leaves(read.generator)
    assert {str(leaf.dtype) for leaf in leaves} == {"float32"}
    assert {value for leaf in leaves for value in (leaf.min(), leaf.max())} == {0.5}
    (tmp_path / "again").write_bytes(safetensors_bytes(read))
    assert read_weights(tmp_path / "again").config == read.config


def test_mmengines_log_objects_are_discarded(content, weights, tmp_path, monkeypatch):
    """Its training checkpoints pickle objects of its own class, with numpy arrays inside."""

    class HistoryBuffer:
        def __init__(self):
            self.values = np.arange(3.0)
            self.last = np.float64(2)

        def mean(self):
            return self.values.mean()

        def __getstate__(self):
            return self.__dict__ | {"methods": {"mean": HistoryBuffer.mean}}

    name = "mmengine.logging.history_buffer"
    module = types.ModuleType(name)
    module.HistoryBuffer = HistoryBuffer
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = name, "HistoryBuffer"
    HistoryBuffer.mean.__module__ = name
    HistoryBuffer.mean.__qualname__ = "HistoryBuffer.mean"
    for part in ("mmengine", "mmengine.logging", name):
        monkeypatch.setitem(sys.modules, part, module)
    path = save(tmp_path / "a.pth", content | {"message_hub": {"loss": HistoryBuffer()}})
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path)  # the check applies
    monkeypatch.undo()
    assert_same(read_weights(path), weights)


class Malice:
    """Runs a command when unpickled."""

    def __init__(self, call, *arguments):
        self.call = (call, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("call", "argument", "named"),
    [(os.system, "touch {}", "system"), (eval, "open({!r}, 'w')", "eval")],
)
def test_code_is_rejected_and_not_run(call, argument, named, zipped, content, tmp_path):
    trace = tmp_path / "trace"
    content["meta"] = Malice(call, argument.format(str(trace)))
    path = save(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=f"contains code .*{named}.*not loaded"):
        read_weights(path)
    assert not trace.exists()


def test_getattr_is_discarded(tmp_path):
    """It is allowed for the log objects, but as `Discarded`."""
    path = save(tmp_path / "a.pth", {"a": Malice(getattr, "text", "upper")})
    content = weight_files.unpickle(path)
    assert type(content["a"]) is weight_files.Discarded
    assert vars(content["a"]) == {}


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files_raise_one_line_with_the_path(kind, share, weights, content, tmp_path):
    path = tmp_path / "a.pth"
    if kind == "safetensors":
        path.write_bytes(safetensors_bytes(weights))
    else:
        save(path, content, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError) as error:
        read_weights(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"no weights at all", b"\x89PNG\r\n\x1a\n0000", b"12345678{}", b"PK\x03\x04junk"]
)
def test_files_of_other_kinds_are_rejected_without_pytorch(content, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pth: it is not a weight file .*, or is damaged$"):
        read_weights(path)


PLAIN = r"'disc\.fc\.weight' is not a plain tensor"
ESCAPED = r"'generator\.a\\x1b\[31m\\n' is"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "it contains a list, must contain a state dict"),
        (torch.zeros(3), "it contains a Tensor, must contain a state dict"),
        ({}, "no key starts with generator"),
        ({"state_dict": {}}, "no key starts with generator"),
        ({"disc.fc.weight": torch.zeros(2).to_sparse()}, PLAIN),
        ({"disc.fc.weight": torch.zeros(2).to("meta")}, PLAIN),
        ({"generator.a\x1b[31m\n": "text"}, f"{ESCAPED} not a plain tensor"),
        ({"generator.a\x1b[31m\n": torch.zeros(1)}, f"{ESCAPED} unknown"),
    ],
)
def test_files_without_usable_weights_are_rejected_in_one_line(content, message, tmp_path):
    with pytest.raises(UserError, match=rf"a\.pth: .*{message}") as error:
        read_weights(save(tmp_path / "a.pth", content))
    assert "\n" not in str(error.value)


def test_8_bit_floats_are_rejected(tmp_path):
    state = {"generator.a": torch.zeros(2).to(torch.float8_e4m3fn)}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"a\.safetensors: it has 8-bit floats; save its"):
        read_weights(tmp_path / "a.safetensors")


def test_pth_files_need_pytorch(content, tmp_path, monkeypatch):
    """test_export.py reads safetensors files without it."""
    save(tmp_path / "a.pth", content)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"this needs torch, .* pip install -e '\.\[torch\]'"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torchscript_is_rejected_without_warnings(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), tmp_path / "a.pt")
    with pytest.raises(UserError, match="not a PyTorch weight file"):
        read_weights(tmp_path / "a.pt")


def save_with_meta(path, weights, meta):
    """Writes a safetensors file with any text as its meta."""
    arrays = to_state_dict(weights)
    path.write_bytes(safetensors.numpy.save(arrays, {"format": "pt", "meta": meta}))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"width": 10**9}}, "config.model.width is 1000000000, must be"),
        ({"model": {"width": 10**30}}, "config.model.width is 10{30}, must be"),
        ({"image_size": 4 * 10**9}, "image_size=4000000000 in its config is too large"),
        ({"model": {"width": [10**9]}}, "width"),
        ({"model": 1e9}, "model"),
        ({"model": {"width": 8}}, "its config has model.width=8, its arrays 4"),
        ({"no_such_field": 1}, "does not know: no_such_field"),
        ({"mask": {"fill": ["a", "b", "c"]}}, "config.mask.fill"),
    ],
)
def test_wrong_configs_are_rejected_in_one_line(change, message, content, weights, tmp_path):
    meta = content["meta"]
    meta["glinpaint_jax_config"] |= change
    with pytest.raises(UserError, match=message) as error:
        read_weights(save_with_meta(tmp_path / "a", weights, json.dumps(meta)))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("depth", [500, 900, 100_000])
def test_metadata_nested_deeply_is_rejected_in_one_line(depth, weights, tmp_path):
    nested = '{"a":' * depth + "1" + "}" * depth
    text = '{"glinpaint_jax_config": ' + nested + "}"
    with pytest.raises(UserError, match=r"nested too deeply|not know: a") as error:
        read_weights(save_with_meta(tmp_path / "a", weights, text))
    assert "\n" not in str(error.value)


def test_import_then_export_keeps_all_tensors(content, tmp_path):
    state = content["state_dict"]
    for key in state:
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(90_000)
    content["meta"]["iter"] = 90_000
    path = save(tmp_path / "a.pth", content)
    again = torch.load(io.BytesIO(pth_bytes(read_weights(path))), weights_only=True)
    assert again["meta"]["iter"] == 90_000
    assert again["state_dict"].keys() == state.keys()
    for key, tensor in state.items():
        assert again["state_dict"][key].dtype == tensor.dtype
        assert torch.equal(again["state_dict"][key], tensor), key
