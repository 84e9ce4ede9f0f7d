"""Converts weights to and from MMagic's names and layouts. Numpy arrays only: no files, no torch.

MMagic's networks read and write BGR. Convolution kernels are (out, in, h, w); transposed ones are
(in, out, h, w) and spatially flipped. Linear kernels are (out, in); one that follows a flatten
orders its inputs channels first. Running variances are unbiased on both sides.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from glinpaint_jax.config import Config, from_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.models.discriminator import GLOBAL_BRANCH
from glinpaint_jax.models.generator import DECODER
from glinpaint_jax.models.networks import Weights, abstract_variables

# PyTorch keeps a batch counter beside each running variance; nothing is computed from it.
COUNTER = "num_batches_tracked"
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


class Layout(NamedTuple):
    """How a flax array becomes PyTorch's: indexed, then its axes permuted.

    With `channels`, its first axis is a flattened [side, side, channels], which PyTorch flattens
    channels first.
    """

    axes: tuple[int, ...]
    index: Any = ...
    channels: int = 0

    def to_torch(self, array: Any) -> Any:
        if self.channels:
            side = math.isqrt(len(array) // self.channels)
            array = array.reshape(side, side, self.channels, -1)
        moved = array[self.index].transpose(self.axes)
        return moved.reshape(len(moved), -1) if self.channels else moved

    def to_flax(self, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The inverse, to `shape`: numbers all elements and sees where each one goes."""
        destinations = self.to_torch(np.arange(weight.size).reshape(shape))
        array = np.empty(weight.size, weight.dtype)
        array[destinations] = weight
        return array.reshape(shape)


VECTOR = Layout((0,))
BGR_VECTOR = Layout((0,), np.s_[::-1])
LINEAR = Layout((1, 0))
CONV = Layout((3, 2, 0, 1))
CONV_OF_BGR = Layout((3, 2, 0, 1), np.s_[:, :, ::-1])
CONV_OF_BGR_AND_MASK = Layout((3, 2, 0, 1), np.s_[:, :, np.array([2, 1, 0, 3])])
CONV_TO_BGR = Layout((3, 2, 0, 1), np.s_[..., ::-1])
TRANSPOSED_CONV = Layout((2, 3, 0, 1), np.s_[::-1, ::-1])


CONVS = {"enc1": CONV_OF_BGR_AND_MASK, "conv1": CONV_OF_BGR, "dec7": CONV_TO_BGR}
CONVS |= {layer.name: TRANSPOSED_CONV for layer in DECODER if layer.transposed}


class Entry(NamedTuple):
    """One array: its path and shape in our networks, its layout and MMagic's key."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    layout: Layout
    key: str


def make_entries(config: Config, networks: Collection[str]) -> list[Entry]:
    """Lists the arrays of the networks, generator or discriminator."""
    abstract = dict(zip(("generator", "discriminator"), abstract_variables(config), strict=True))
    branch_channels = GLOBAL_BRANCH[-1].features(config.model.width)
    entries = []
    for path, leaf in flatten_dict({name: abstract[name] for name in networks}).items():
        network, _, *modules, name = path  # _: params or batch_stats
        key = ".".join([network, *modules, name])
        for ours, theirs in RENAMED.items():
            key = key.replace(ours, theirs)
        if leaf.ndim == 4:
            layout = next((CONVS[module] for module in modules if module in CONVS), CONV)
        elif leaf.ndim == 2:
            is_last = modules == ["fc"]
            layout = LINEAR if is_last else Layout((3, 2, 0, 1), channels=branch_channels)
        else:
            layout = BGR_VECTOR if "dec7" in modules else VECTOR
        entries.append(Entry(path, leaf.shape, layout, key))
    return entries


def to_state_dict(weights: Weights) -> dict[str, np.ndarray]:
    """Returns MMagic's state dict: `generator.*` and, if there is a discriminator, `disc.*`."""
    networks = {"generator": weights.generator}
    if weights.discriminator is not None:
        networks["discriminator"] = weights.discriminator
    arrays, state = flatten_dict(networks), {}
    for path, _, layout, key in make_entries(weights.config, networks):
        state[key] = np.array(layout.to_torch(arrays[path]), order="C")
        if counter := _counter_key(key):
            state[counter] = np.array(weights.step, np.int64)
    return state


def from_state_dict(state: Mapping[str, np.ndarray], meta: dict[str, Any] | None = None) -> Weights:
    """The inverse of `to_state_dict`; `state` must have MMagic's keys only, and float32 arrays.

    `meta` is a PyTorch file's description of itself.
    """
    meta = meta or {}
    config = _infer_config(state, meta)
    names = ["generator"]
    if any(key.startswith("disc.") for key in state):
        names.append("discriminator")
    try:
        entries = make_entries(config, names)
    except OverflowError:
        raise UserError(f"image_size={config.image_size} in its config is too large") from None
    _check_keys(state, entries)

    networks = unflatten_dict(
        {path: layout.to_flax(state[key], shape) for path, shape, layout, key in entries}
    )
    step = meta.get("iter", 0)
    return Weights(
        config,
        step if type(step) is int and step >= 0 else 0,
        networks["generator"],
        networks.get("discriminator"),
    )


def _check_keys(state: Mapping[str, np.ndarray], entries: list[Entry]) -> None:
    expected = {}
    for _, shape, layout, key in entries:
        torch_shape = layout.to_torch(np.broadcast_to(np.float32(0), shape)).shape
        expected[key] = (np.dtype(np.float32), torch_shape)
        if counter := _counter_key(key):
            expected[counter] = (np.dtype(np.int64), ())

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


def _counter_key(key: str) -> str | None:
    """The key of the batch counter beside a running variance; None for other keys."""
    return key.replace("running_var", COUNTER) if key.endswith(".running_var") else None


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
