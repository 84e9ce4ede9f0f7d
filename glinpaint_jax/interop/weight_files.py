"""Weight files of the PyTorch world, with MMagic's keys: `.pth` and `.safetensors`."""

import io
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

import glinpaint_jax
from glinpaint_jax.config import to_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.interop.extras import import_extra
from glinpaint_jax.interop.mmagic import CONFIG, from_state_dict, to_state_dict
from glinpaint_jax.models.networks import Weights

# In MMagic's files beside the networks: mean and std of the input, networks that only losses use.
IGNORED = ("data_preprocessor.", "loss_")

# What MMEngine keeps of its logs in training checkpoints. Nothing here asks for it, so each of
# these names stands for `Discarded`: the file is read and no code of theirs runs.
LOG_NAMES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "numpy.dtype",
    "numpy.ndarray",
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
)


class Discarded:
    """Takes the place of an unpickled object; keeps nothing and does nothing."""

    def __new__(cls, *_: Any) -> "Discarded":
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass


def read_weights(path: Path) -> tuple[Weights, list[str]]:
    """The weights in a file of `torch.save` (`.pth`) or of safetensors.

    Also returns the names of what the file holds beside them. Raises UserError for a file that
    cannot be read, carries code, or does not hold the whole network; the discriminator may lack.
    """
    try:
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"  # JSON after its length
        tensors, meta, ignored = (_read_safetensors if is_safetensors else _read_pth)(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    state = {}
    for name, tensor in tensors.items():
        key = name.removeprefix("module.")
        if key.startswith(IGNORED):
            ignored.append(name)
        else:
            state[key] = tensor
    try:
        return from_state_dict(state, meta), ignored
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def write_pth(weights: Weights, path: Path) -> None:
    """A file that MMagic loads: {"meta": ..., "state_dict": ...}."""
    torch = import_extra("torch")
    state = {key: torch.from_numpy(array) for key, array in to_state_dict(weights).items()}
    buffer = io.BytesIO()
    torch.save({"meta": _meta(weights), "state_dict": state}, buffer)
    path.write_bytes(buffer.getvalue())


def write_safetensors(weights: Weights, path: Path) -> None:
    """MMagic's keys; the meta is JSON text in the file's metadata."""
    safetensors_numpy = import_extra("safetensors.numpy")
    metadata = {"format": "pt", "meta": json.dumps(_meta(weights))}
    path.write_bytes(safetensors_numpy.save(to_state_dict(weights), metadata))


def _meta(weights: Weights) -> dict[str, Any]:
    """The imported one, else what MMEngine writes, and the config."""
    return weights.torch.get("meta") or {
        "iter": weights.step,
        "epoch": 0,
        "time": time.strftime("%Y%m%d_%H%M%S"),
        "glinpaint_jax_version": glinpaint_jax.__version__,
        CONFIG: to_dict(weights.config),
    }


def _read_pth(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]]:
    torch = import_extra("torch")
    harmless = [(Discarded, name) for name in LOG_NAMES]
    try:
        with torch.serialization.safe_globals(harmless):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make an unpickler fail in every way
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} carries code ({code[1]}), which a weight file never needs; refused"
            ) from None
        raise UserError(f"{path} is damaged or no PyTorch weight file") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no state dict but a {type(content).__name__}")

    state, meta, ignored = content, {}, []
    if isinstance(content.get("state_dict"), dict):
        state, meta = content["state_dict"], content.get("meta")
        ignored = [name for name in content if name not in ("state_dict", "meta")]
    tensors = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            ignored.append(str(name))
        elif value.layout is not torch.strided or value.is_quantized:
            raise UserError(f"{path}: {name} is a sparse or quantized tensor, must be a plain one")
        else:
            value = value.detach()
            tensors[name] = (value.float() if value.is_floating_point() else value).numpy()
    return tensors, _json_only(meta), ignored


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]]:
    safetensors = import_extra("safetensors")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            meta = json.loads((file.metadata() or {}).get("meta", "{}"))
    except (safetensors.SafetensorError, ValueError):
        raise UserError(f"{path} is damaged or no safetensors file") from None
    return tensors, meta if isinstance(meta, dict) else {}, []


def _json_only(meta: Any) -> dict[str, Any]:
    """The entries that survive in a checkpoint's JSON."""
    kept = {}
    for name, value in (meta or {}).items() if isinstance(meta, dict) else ():
        try:
            kept[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue
    return kept
