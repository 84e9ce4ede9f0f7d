"""Reads and writes weight files with MMagic's keys, `.pth` and `.safetensors`; reads `.t7`."""

import io
import json
import re
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

import glinpaint_jax
from glinpaint_jax.config import to_dict
from glinpaint_jax.downloads import find_fault, find_format, hide_secrets
from glinpaint_jax.errors import UserError, import_extra
from glinpaint_jax.interop.mmagic import CONFIG, from_state_dict, to_state_dict
from glinpaint_jax.interop.torch7 import read_torch7
from glinpaint_jax.models.networks import Weights

NETWORKS = ("generator.", "disc.")  # other keys belong to losses and preprocessing

# Names that MMEngine's training checkpoints need for their logs. We do not use the logs, so each
# name is mapped to `Discarded`: the file loads, and none of its code runs.
LOG_NAMES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
)


class Discarded:
    """Replaces an unpickled object; stores nothing and does nothing."""

    def __new__(cls, *_: Any) -> "Discarded":
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass


def read_weights(path: Path) -> Weights:
    """Reads the weights in a `.pth`, safetensors or `.t7` file; ignores all else in it.

    Raises UserError if the file cannot be read, contains code, or lacks weights of the generator.
    The discriminator may be missing, but only as a whole.
    """
    if fault := find_fault(path):
        raise UserError(f"{path}: {fault}")
    try:
        kind = find_format(path)
        if kind == "t7":
            return read_torch7(path.read_bytes())
        state, meta = _read_pth(path) if kind == "pth" else _read_safetensors(path)
        named = ((str(name).removeprefix("module."), value) for name, value in state.items())
        arrays = {key: _to_array(key, value) for key, value in named if key.startswith(NETWORKS)}
        if not arrays:
            raise UserError("it contains no Global&Local weights: no key starts with generator.")
        return from_state_dict(arrays, meta if isinstance(meta, dict) else {})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: its metadata is nested too deeply") from None


def pth_bytes(weights: Weights) -> bytes:
    """Returns a file that MMagic loads: {"meta": ..., "state_dict": ...}, by torch.save."""
    torch = import_extra("torch")
    state = {key: torch.from_numpy(array) for key, array in to_state_dict(weights).items()}
    buffer = io.BytesIO()
    torch.save({"meta": _meta(weights), "state_dict": state}, buffer)
    return buffer.getvalue()


def safetensors_bytes(weights: Weights) -> bytes:
    """Returns a file with MMagic's keys; the meta is JSON text in the file's metadata."""
    metadata = {"format": "pt", "meta": json.dumps(_meta(weights))}
    return safetensors.numpy.save(to_state_dict(weights), metadata)


def _meta(weights: Weights) -> dict[str, Any]:
    """What MMEngine writes, and our config."""
    config = weights.config
    return {
        "iter": weights.step,
        "epoch": 0,
        "time": time.strftime("%Y%m%d_%H%M%S"),
        "glinpaint_jax_version": glinpaint_jax.__version__,
        CONFIG: to_dict(config) | {"init_from": hide_secrets(config.init_from)},
    }


def _to_array(key: str, value: Any) -> np.ndarray:
    """Returns a torch tensor or numpy array as an array, floats as float32."""
    try:
        if not isinstance(value, np.ndarray):
            tensor = value.detach()
            return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except (AttributeError, RuntimeError, TypeError):  # no tensor, sparse, or without data
        raise UserError(f"{key!r} is not a plain tensor") from None
    is_float = jax.dtypes.issubdtype(value.dtype, np.floating)  # includes bfloat16
    return value.astype(np.float32) if is_float else value


def _read_pth(path: Path) -> tuple[dict[Any, Any], Any]:
    """Returns the state dict and the meta, if any. The file may also be a bare state dict."""
    content = unpickle(path)
    if not isinstance(content, dict):
        raise UserError(f"it contains a {type(content).__name__}, must contain a state dict")
    if not isinstance(content.get("state_dict"), dict):
        return content, None
    return content["state_dict"], content.get("meta")


def unpickle(path: Path) -> Any:
    """Loads a torch.save file of tensors and plain values; raises UserError for anything else."""
    torch = import_extra("torch")
    discarded = [(Discarded, name) for name in LOG_NAMES]
    try:
        with (
            path.open("rb") as file,  # given a path, torch would go by its suffix
            warnings.catch_warnings(),
            torch.serialization.safe_globals(discarded),
        ):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise all kinds of errors
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"it contains code ({code[1]}); weight files need none, so it was not loaded"
            ) from None
        raise UserError("it is not a PyTorch weight file, or is damaged") from None


def _read_safetensors(path: Path) -> tuple[dict[str, Any], Any]:
    with safetensors.safe_open(path, framework="np") as file:
        try:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (AttributeError, TypeError):  # a number type that numpy does not have
            raise UserError("it has 8-bit floats; save its tensors as float32") from None
        text = (file.metadata() or {}).get("meta", "")
    try:
        return arrays, json.loads(text)
    except ValueError:  # not our meta
        return arrays, None
