"""Weight files of the PyTorch world, with MMagic's keys: `.pth` and `.safetensors`."""

import contextlib
import io
import json
import re
import time
import warnings
from pathlib import Path
from typing import Any

import glinpaint_jax
from glinpaint_jax.config import to_dict
from glinpaint_jax.errors import UserError, import_extra
from glinpaint_jax.interop.mmagic import CONFIG, from_state_dict, printable, to_state_dict
from glinpaint_jax.models.networks import Weights

NETWORKS = ("generator.", "disc.")  # all else in a state dict serves losses and preprocessing

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
    cannot be read, carries code, or does not hold the whole generator and, if anything of it, the
    whole discriminator.
    """
    torch = import_extra("torch")
    try:
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"  # JSON after its length
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    state, meta, ignored = (_read_safetensors if is_safetensors else _read_pth)(path)

    arrays = {}
    for name, tensor in state.items():
        key = str(name).removeprefix("module.")
        if not key.startswith(NETWORKS) or not isinstance(tensor, torch.Tensor):
            ignored.append(printable(name))
            continue
        try:
            tensor = tensor.detach()
            arrays[key] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        except (RuntimeError, TypeError):
            raise UserError(f"{path}: {printable(key)} is not a plain tensor") from None
    if not arrays:
        raise UserError(f"{path} holds no Global&Local weights: none is named generator.*")
    try:
        return from_state_dict(arrays, meta), ignored
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def pth_bytes(weights: Weights) -> bytes:
    """A file that MMagic loads: {"meta": ..., "state_dict": ...}, as torch.save writes it."""
    torch = import_extra("torch")
    state = {key: torch.from_numpy(array) for key, array in to_state_dict(weights).items()}
    buffer = io.BytesIO()
    torch.save({"meta": _meta(weights), "state_dict": state}, buffer)
    return buffer.getvalue()


def safetensors_bytes(weights: Weights) -> bytes:
    """MMagic's keys; the meta is JSON text in the file's metadata."""
    metadata = {"format": "pt", "meta": json.dumps(_meta(weights))}
    return import_extra("safetensors.numpy").save(to_state_dict(weights), metadata)


def _meta(weights: Weights) -> dict[str, Any]:
    """The imported one, else what MMEngine writes, and the config."""
    return weights.torch.get("meta") or {
        "iter": weights.step,
        "epoch": 0,
        "time": time.strftime("%Y%m%d_%H%M%S"),
        "glinpaint_jax_version": glinpaint_jax.__version__,
        CONFIG: to_dict(weights.config),
    }


def unpickle(path: Path) -> Any:
    """What torch.save wrote, if it is tensors and plain values; else raises UserError."""
    torch = import_extra("torch")
    harmless = [(Discarded, name) for name in LOG_NAMES]
    try:
        with (
            path.open("rb") as file,  # by a path alone, torch would go by its suffix
            warnings.catch_warnings(),
            torch.serialization.safe_globals(harmless),
        ):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make an unpickler fail in every way
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} carries code ({code[1]}), which a weight file never needs; refused"
            ) from None
        raise UserError(f"{path} is no PyTorch weight file, or a damaged one") from None


def _read_pth(path: Path) -> tuple[dict[Any, Any], dict[str, Any], list[str]]:
    """State dict, meta, and the names of all else; the state dict may be the whole file."""
    content = unpickle(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no state dict but a {type(content).__name__}")
    if not isinstance(content.get("state_dict"), dict):
        return content, {}, []
    ignored = [printable(name) for name in content if name not in ("state_dict", "meta")]
    return content["state_dict"], _json_only(content.get("meta")), ignored


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    safetensors = import_extra("safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            meta = (file.metadata() or {}).get("meta", "")
    except safetensors.SafetensorError:
        raise UserError(f"{path} is no safetensors file, or a damaged one") from None
    try:
        return tensors, _json_only(json.loads(meta)), []
    except ValueError:  # of someone else's
        return tensors, {}, []


def _json_only(meta: Any) -> dict[str, Any]:
    """The entries that survive in a checkpoint's JSON."""
    kept = {}
    for name, value in meta.items() if isinstance(meta, dict) else ():
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            kept |= json.loads(json.dumps({name: value}))
    return kept
