"""Files as MMagic, MMEditing, PyTorch and the careless leave them."""

import dataclasses
import os
import sys
import types
from collections import OrderedDict

import jax
import numpy as np
import pytest
import torch

from glinpaint_jax.errors import UserError
from glinpaint_jax.interop.mmagic import to_state_dict
from glinpaint_jax.interop.weight_files import read_weights, write_pth, write_safetensors


@pytest.fixture
def state(weights):
    return OrderedDict(
        (key, torch.from_numpy(array.copy())) for key, array in to_state_dict(weights).items()
    )


@pytest.fixture
def meta(weights, tmp_path):
    """As our own files have it, since these networks are no full-size ones."""
    write_pth(weights, tmp_path / "own.pth")
    return torch.load(tmp_path / "own.pth")["meta"]


def save(path, content, **options):
    torch.save(content, path, **options)
    return path


def assert_same(read, weights):
    for name in ("generator", "discriminator"):
        jax.tree.map(np.testing.assert_array_equal, getattr(read, name), getattr(weights, name))


@pytest.mark.parametrize(
    ("write", "name"), [(write_pth, "a.pth"), (write_safetensors, "a"), (write_pth, "a.ckpt")]
)
def test_own_files_read_back_exactly(write, name, weights, tmp_path):
    write(weights, tmp_path / name)
    read, ignored = read_weights(tmp_path / name)
    assert_same(read, weights)
    assert (read.config, read.step, ignored) == (weights.config, weights.step, [])


def test_import_then_export_gives_the_same_tensors_and_meta(state, meta, tmp_path):
    for number, key in enumerate(key for key in state if key.endswith("num_batches_tracked")):
        state[key] = torch.tensor(1000 + number)
    meta |= {"experiment_name": "gl", "epoch": 3, "iter": 90_000}
    path = save(tmp_path / "a.pth", {"meta": meta, "state_dict": state})
    write_pth(read_weights(path)[0], tmp_path / "b.pth")
    again = torch.load(tmp_path / "b.pth", weights_only=True)
    assert again["meta"] == meta
    assert again["state_dict"].keys() == state.keys()
    for key, tensor in state.items():
        assert again["state_dict"][key].dtype == tensor.dtype
        assert torch.equal(again["state_dict"][key], tensor), key


def test_surroundings_are_tolerated_and_listed(state, meta, weights, tmp_path):
    """The way MMEditing of 2020 saved them: legacy format, parallel wrapper, optimizer."""
    surroundings = {"data_preprocessor.mean": torch.zeros(3), "loss_gan.real_label": torch.ones(1)}
    wrapped = {f"module.{key}": tensor for key, tensor in (state | surroundings).items()}
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])
    content = {"meta": meta, "state_dict": wrapped, "optimizer": {"disc": adam.state_dict()}}
    path = save(tmp_path / "a.pth", content, _use_new_zipfile_serialization=False)
    read, ignored = read_weights(path)
    assert_same(read, weights)
    assert set(ignored) == {
        "optimizer",
        "module.data_preprocessor.mean",
        "module.loss_gan.real_label",
    }


def test_a_bare_state_dict_of_parameters_will_do(tmp_path):
    """Nothing but the tensors, half precision, gradients on: read as MMagic's full-size network."""
    from tests.interop.test_mmagic import REFERENCE

    state = {
        key: torch.zeros(shape, dtype=torch.int64)
        if "tracked" in key
        else torch.nn.Parameter(torch.full(shape, 0.5, dtype=torch.bfloat16))
        for key, shape in REFERENCE.items()
        if key.startswith("generator.")
    }
    read, _ = read_weights(save(tmp_path / "a.pth", state))
    assert read.discriminator is None
    leaves = jax.tree.leaves(read.generator)
    assert {str(leaf.dtype) for leaf in leaves} == {"float32"}
    assert {value for leaf in leaves for value in (leaf.min(), leaf.max())} == {0.5}


def test_log_objects_of_mmengine_are_left_out(state, meta, weights, tmp_path, monkeypatch):
    """Its training checkpoints hold buffers of a class of its own, with numpy arrays in them."""

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
    content = {"meta": meta, "state_dict": state, "message_hub": {"loss": HistoryBuffer()}}
    path = save(tmp_path / "a.pth", content)
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path)  # so there is something
    monkeypatch.undo()
    read, ignored = read_weights(path)
    assert_same(read, weights)
    assert ignored == ["message_hub"]


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
def test_code_is_refused_and_not_run(call, argument, named, zipped, state, tmp_path):
    trace = tmp_path / "trace"
    content = {"state_dict": state, "meta": Malice(call, argument.format(str(trace)))}
    path = save(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=f"carries code .*{named}.*refused"):
        read_weights(path)
    assert not trace.exists()


def test_getattr_is_no_way_in(state, tmp_path):
    """It is let through for log objects, but does nothing."""
    trace = tmp_path / "trace"
    system = Malice(getattr, Malice(__import__, "os"), "system")
    save(tmp_path / "a.pth", {"state_dict": state, "meta": {"a": system}})
    with pytest.raises(UserError, match="carries code"):
        read_weights(tmp_path / "a.pth")
    assert not trace.exists()


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_named(kind, share, weights, state, meta, tmp_path):
    path = tmp_path / "a.pth"
    if kind == "safetensors":
        write_safetensors(weights, path)
    else:
        content = {"meta": meta, "state_dict": state}
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
def test_other_files_are_named(content, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pth") as error:
        read_weights(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {}, torch.zeros(3), "text"])
def test_other_contents_are_named(content, tmp_path):
    with pytest.raises(UserError, match=r"a\.pth"):
        read_weights(save(tmp_path / "a.pth", content))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            read_weights(path)


def test_sparse_tensors_are_refused(state, meta, tmp_path):
    state["disc.fc.weight"] = state["disc.fc.weight"].to_sparse()
    path = save(tmp_path / "a.pth", {"meta": meta, "state_dict": state})
    with pytest.raises(UserError, match=r"disc\.fc\.weight is a sparse"):
        read_weights(path)


def test_what_does_not_survive_in_a_checkpoint_is_left_out_of_the_meta(state, meta, tmp_path):
    meta |= {"tensor": torch.zeros(2), "tuple": (1, 2), 3: "three"}
    path = save(tmp_path / "a.pth", {"meta": meta, "state_dict": state})
    read = read_weights(path)[0].torch["meta"]
    assert "tensor" not in read
    assert read["tuple"] == [1, 2]


def test_the_averaged_or_alone_generator_is_written_alone(weights, tmp_path):
    write_pth(dataclasses.replace(weights, discriminator=None), tmp_path / "a.pth")
    keys = torch.load(tmp_path / "a.pth")["state_dict"]
    assert all(key.startswith("generator.") for key in keys)
