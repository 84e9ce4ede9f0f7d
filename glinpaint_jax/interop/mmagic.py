"""Converts weights to and from MMagic's names and layouts. Numpy arrays only: no files, no torch.

MMagic's networks read and write BGR. Convolution kernels are (out, in, h, w); transposed ones are
(in, out, h, w) and spatially flipped. Linear kernels are (out, in); one that follows a flatten
orders its inputs channels first. Running variances are unbiased on both sides.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from glinpaint_jax.config import Config, from_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.models.discriminator import GLOBAL_BRANCH
from glinpaint_jax.models.generator import DECODER
from glinpaint_jax.models.networks import Weights, abstract_variables

# PyTorch keeps a batch counter beside each running variance; nothing is computed from it.
VARIANCE, COUNTER = "running_var", "num_batches_tracked"
CONFIG = "glinpaint_jax_config"  # the key of the config in the meta of our own files
# Parts of our names -> parts of MMagic's keys.
RENAMED = {
    "discriminator.": "disc.",
    "convs_": "convs.",
    "dec7.": "dec7.conv.",
    "_disc.fc.": "_disc.fc.linear.",
    ".kernel": ".weight",
    ".scale": ".weight",
    ".mean": ".running_mean",
    ".var": ".running_var",
}
TRANSPOSED = {layer.name for layer in DECODER if layer.transposed}
ArrayPath = tuple[str, ...]  # such as generator, params, encoder, enc1, conv, kernel


def to_torch(array: np.ndarray, path: ArrayPath) -> np.ndarray:
    """Returns the array at `path` of our networks in PyTorch's layout."""
    _, _, *modules, _ = path
    if array.ndim == 1:
        return array[::-1] if "dec7" in modules else array
    if modules == ["fc"]:
        return array.T
    if array.ndim == 2:  # a branch's: [side * side * channels, 2 * channels]
        channels = array.shape[1] // 2
        side = math.isqrt(len(array) // channels)
        kernel = array.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
        return kernel.reshape(len(kernel), -1)
    if not TRANSPOSED.isdisjoint(modules):
        return array[::-1, ::-1].transpose(2, 3, 0, 1)
    if "enc1" in modules:  # RGB and mask
        array = array[:, :, np.array([2, 1, 0, 3])]
    elif "conv1" in modules:
        array = array[:, :, ::-1]
    elif "dec7" in modules:
        array = array[..., ::-1]
    return array.transpose(3, 2, 0, 1)


def to_flax(weight: np.ndarray, path: ArrayPath, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_torch`, to `shape`: numbers all elements and sees where each one goes."""
    destinations = to_torch(np.arange(weight.size).reshape(shape), path)
    array = np.empty(weight.size, weight.dtype)
    array[destinations] = weight
    return array.reshape(shape)


def to_key(path: ArrayPath) -> str:
    network, _, *rest = path  # _: params or batch_stats
    key = ".".join([network, *rest])
    for ours, theirs in RENAMED.items():
        key = key.replace(ours, theirs)
    return key


def to_state_dict(weights: Weights) -> dict[str, np.ndarray]:
    """Returns MMagic's state dict: `generator.*` and, if there is a discriminator, `disc.*`."""
    networks = {"generator": weights.generator}
    if weights.discriminator is not None:
        networks["discriminator"] = weights.discriminator
    state = {}
    for path, array in flatten_dict(networks).items():
        key = to_key(path)
        state[key] = np.array(to_torch(array, path), order="C")
        if key.endswith(VARIANCE):
            state[key.replace(VARIANCE, COUNTER)] = np.array(weights.step, np.int64)
    return state


def from_state_dict(state: Mapping[str, np.ndarray], meta: dict[str, Any] | None = None) -> Weights:
    """The inverse of `to_state_dict`; `state` must have MMagic's keys only, and float32 arrays.

    `meta` is a PyTorch file's description of itself.
    """
    meta = meta or {}
    config = _infer_config(state, meta)
    try:
        generator, discriminator = abstract_variables(config)
    except OverflowError:
        raise UserError(f"image_size={config.image_size} in its config is too large") from None
    networks = {"generator": generator}
    if any(key.startswith("disc.") for key in state):
        networks["discriminator"] = discriminator
    shapes = {path: leaf.shape for path, leaf in flatten_dict(networks).items()}
    _check_keys(state, shapes)

    networks = unflatten_dict(
        {path: to_flax(state[to_key(path)], path, shape) for path, shape in shapes.items()}
    )
    step = meta.get("iter", 0)
    return Weights(
        config,
        step if type(step) is int and step >= 0 else 0,
        networks["generator"],
        networks.get("discriminator"),
    )


def _check_keys(state: Mapping[str, np.ndarray], shapes: dict[ArrayPath, tuple[int, ...]]) -> None:
    expected = {}
    for path, shape in shapes.items():
        key = to_key(path)
        torch_shape = to_torch(np.broadcast_to(np.float32(0), shape), path).shape
        expected[key] = (np.dtype(np.float32), torch_shape)
        if key.endswith(VARIANCE):
            expected[key.replace(VARIANCE, COUNTER)] = (np.dtype(np.int64), ())

    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [f"{key!r} is unknown" for key in state if key not in expected]
    for key in expected.keys() & state.keys():
        found, (dtype, shape) = state[key], expected[key]
        if (found.dtype, found.shape) != (dtype, shape):
            problems.append(f"{key} is {found.dtype} {found.shape}, must be {dtype} {shape}")
        elif not np.isfinite(found).all():
            problems.append(f"{key} is not finite")
    if problems:
        raise UserError("these weights do not fit Global&Local: " + "; ".join(sorted(problems)))


def _infer_config(state: Mapping[str, np.ndarray], meta: dict[str, Any]) -> Config:
    """The config in the meta of our own files; for other files, MMagic's."""
    if isinstance(meta.get(CONFIG), dict):
        config = from_dict(meta[CONFIG]).validate()
        found = np.size(state.get("generator.encoder.enc1.bn.bias", ()))
        if config.model.width != found:
            raise UserError(f"its config has model.width={config.model.width}, its arrays {found}")
        return config
    config = Config()
    width = config.model.width
    layers = [f"disc.{branch}.fc.linear.weight" for branch in ("global_disc", "local_disc")]
    shapes = {state[layer].shape for layer in layers if layer in state}
    # Six convolutions of stride 2 reduce the image to `side`; both branches must agree on it.
    for side in (1, 2, 8, 16):
        if shapes == {(16 * width, 8 * width * side**2)}:
            config.image_size = side * 2 ** len(GLOBAL_BRANCH)
    return config


def mmagic_differences(config: Config) -> list[str]:
    """Describes how MMagic's networks differ from `config`'s; MMagic's files cannot record it."""
    width, output, fill = config.model.width, config.model.output, config.mask.fill
    notes = []
    if width != 64:
        notes.append(f"MMagic's networks have width 64, this one {width}: MMagic cannot load it")
    if output != "clip":
        notes.append(f"MMagic clips the output, this network was trained with {output}")
    if tuple(fill) != (127.5, 127.5, 127.5):
        notes.append(f"MMagic fills holes with gray, this network was trained with {fill}")
    if config.model.padding != "gray":
        notes.append("MMagic pads with gray, this network with mask.fill")
    return notes
