"""Converts weights to and from MMagic's names and layouts. Numpy arrays only: no files, no torch.

MMagic's networks read and write BGR. Convolution kernels are (out, in, h, w); transposed ones are
(in, out, h, w) and spatially flipped. Linear kernels are (out, in); one that follows a flatten
orders its inputs channels first. Running variances are unbiased on both sides.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from glinpaint_jax.config import Config, from_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.models.discriminator import GLOBAL_BRANCH, LOCAL_BRANCH
from glinpaint_jax.models.generator import DECODER, DILATION_NECK, ENCODER
from glinpaint_jax.models.networks import Variables, Weights, abstract_variables

# PyTorch keeps a batch counter beside each running variance; nothing is computed from it.
COUNTER = "num_batches_tracked"
CONFIG = "glinpaint_jax_config"  # the key of the config in the meta of our own files


class ArrayLayout(NamedTuple):
    """Converts an array between flax's layout and PyTorch's."""

    to_torch: Callable[[Any], Any]
    to_flax: Callable[[Any], Any]


class Entry(NamedTuple):
    """One array: its key in MMagic's state dict, its path in the flax variables, and its layout."""

    key: str
    path: tuple[str, ...]
    layout: ArrayLayout


def _reverse_inputs(kernel: Any) -> Any:
    """Swaps RGB <-> BGR in a convolution's input channels; the mask's channel stays fourth."""
    return kernel[:, :, np.array([2, 1, 0, 3][: kernel.shape[2]])]


VECTOR = ArrayLayout(lambda v: v, lambda v: v)
LINEAR = ArrayLayout(lambda k: k.T, lambda w: w.T)
CONV = ArrayLayout(lambda k: k.transpose(3, 2, 0, 1), lambda w: w.transpose(2, 3, 1, 0))
TRANSPOSED_CONV = ArrayLayout(
    lambda k: k[::-1, ::-1].transpose(2, 3, 0, 1), lambda w: w.transpose(2, 3, 0, 1)[::-1, ::-1]
)
BGR_INPUT_CONV = ArrayLayout(
    lambda k: CONV.to_torch(_reverse_inputs(k)), lambda w: _reverse_inputs(CONV.to_flax(w))
)
BGR_OUTPUT_CONV = ArrayLayout(
    lambda k: CONV.to_torch(k[..., ::-1]), lambda w: CONV.to_flax(w)[..., ::-1]
)
BGR_VECTOR = ArrayLayout(lambda v: v[::-1], lambda v: v[::-1])


def linear_after_flatten(channels: int) -> ArrayLayout:
    """The layout of a linear layer that follows a flatten of [side, side, channels]."""

    def to_torch(kernel: Any) -> Any:
        side = math.isqrt(kernel.shape[0] // channels)
        pixels = kernel.reshape(side, side, channels, -1)
        return pixels.transpose(3, 2, 0, 1).reshape(kernel.shape[1], -1)

    def to_flax(weight: Any) -> Any:
        side = math.isqrt(weight.shape[1] // channels)
        pixels = weight.reshape(-1, channels, side, side)
        return pixels.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])

    return ArrayLayout(to_torch, to_flax)


def _conv_norm_entries(key: str, module: tuple[str, ...], conv: ArrayLayout) -> list[Entry]:
    return [
        Entry(f"{key}.conv.weight", ("params", *module, "conv", "kernel"), conv),
        Entry(f"{key}.bn.weight", ("params", *module, "bn", "scale"), VECTOR),
        Entry(f"{key}.bn.bias", ("params", *module, "bn", "bias"), VECTOR),
        Entry(f"{key}.bn.running_mean", ("batch_stats", *module, "bn", "mean"), VECTOR),
        Entry(f"{key}.bn.running_var", ("batch_stats", *module, "bn", "var"), VECTOR),
    ]


def generator_entries() -> list[Entry]:
    entries = []
    for part, layers in (
        ("encoder", ENCODER),
        ("dilation_neck", DILATION_NECK),
        ("decoder", DECODER),
    ):
        for layer in layers:
            conv = TRANSPOSED_CONV if layer.transposed else CONV
            if layer.name == "enc1":
                conv = BGR_INPUT_CONV
            key = f"generator.{part}.{layer.name.replace('convs_', 'convs.')}"
            entries += _conv_norm_entries(key, (part, layer.name), conv)
    dec7 = ("params", "decoder", "dec7")
    return [
        *entries,
        Entry("generator.decoder.dec7.conv.weight", (*dec7, "kernel"), BGR_OUTPUT_CONV),
        Entry("generator.decoder.dec7.conv.bias", (*dec7, "bias"), BGR_VECTOR),
    ]


def discriminator_entries(width: int) -> list[Entry]:
    entries = []
    for branch, layers in (("global_disc", GLOBAL_BRANCH), ("local_disc", LOCAL_BRANCH)):
        for layer in layers:
            conv = BGR_INPUT_CONV if layer.name == "conv1" else CONV
            key = f"disc.{branch}.{layer.name}"
            entries += _conv_norm_entries(key, (branch, layer.name), conv)
        fc = ("params", branch, "fc")
        linear = linear_after_flatten(layers[-1].features(width))
        entries.append(Entry(f"disc.{branch}.fc.linear.weight", (*fc, "kernel"), linear))
        entries.append(Entry(f"disc.{branch}.fc.linear.bias", (*fc, "bias"), VECTOR))
    return [
        *entries,
        Entry("disc.fc.weight", ("params", "fc", "kernel"), LINEAR),
        Entry("disc.fc.bias", ("params", "fc", "bias"), VECTOR),
    ]


def to_state_dict(weights: Weights) -> dict[str, np.ndarray]:
    """Returns MMagic's state dict: `generator.*` and, if there is a discriminator, `disc.*`.

    Batch counters are the imported ones; without any, the step.
    """
    networks = [(generator_entries(), weights.generator)]
    if weights.discriminator is not None:
        networks.append((discriminator_entries(weights.config.model.width), weights.discriminator))
    state = {}
    for entries, variables in networks:
        arrays = flatten_dict(variables)
        for entry in entries:
            state[entry.key] = np.array(entry.layout.to_torch(arrays[entry.path]), order="C")
            if counter := _counter_key(entry.key):
                count = weights.torch.get(COUNTER, {}).get(counter, weights.step)
                state[counter] = np.array(count, np.int64)
    return state


def from_state_dict(state: Mapping[str, np.ndarray], meta: dict[str, Any] | None = None) -> Weights:
    """The inverse of `to_state_dict`; `state` must have MMagic's keys only, and float32 arrays.

    `meta` is a PyTorch file's description of itself, kept for re-export. Raises UserError naming
    every key that is missing, unknown, of the wrong shape or type, or not finite.
    """
    meta = meta or {}
    config = _infer_config(state, meta)
    abstract_generator, abstract_discriminator = abstract_variables(config)
    networks = [(generator_entries(), abstract_generator)]
    if any(key.startswith("disc.") for key in state):
        networks.append((discriminator_entries(config.model.width), abstract_discriminator))
    _check_keys(state, networks)

    trees, counters = [], {}
    for entries, _ in networks:
        arrays = {entry.path: entry.layout.to_flax(state[entry.key]) for entry in entries}
        trees.append(unflatten_dict(jax.tree.map(np.ascontiguousarray, arrays)))
        for key in filter(None, (_counter_key(entry.key) for entry in entries)):
            counters[key] = int(state[key])
    step = meta.get("iter", 0)
    return Weights(
        config,
        step if type(step) is int and step >= 0 else 0,
        generator=trees[0],
        discriminator=trees[1] if len(trees) == 2 else None,
        torch={"meta": meta, COUNTER: counters},
    )


def _check_keys(
    state: Mapping[str, np.ndarray], networks: list[tuple[list[Entry], Variables]]
) -> None:
    expected = {}
    for entries, abstract in networks:
        leaves = flatten_dict(abstract)
        for entry in entries:
            leaf = jax.eval_shape(entry.layout.to_torch, leaves[entry.path])
            expected[entry.key] = np.broadcast_to(np.float32(0), leaf.shape)
            if counter := _counter_key(entry.key):
                expected[counter] = np.array(0, np.int64)

    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [f"{escape_unprintable(key)} is unknown" for key in state if key not in expected]
    for key in expected.keys() & state.keys():
        found, leaf = state[key], expected[key]
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            allowed = f"{leaf.dtype} {leaf.shape}"
            problems.append(f"{key} is {found.dtype} {found.shape}, must be {allowed}")
        elif not np.isfinite(found).all():
            problems.append(f"{key} is not finite")
    if problems:
        raise UserError("these weights do not fit Global&Local: " + "; ".join(sorted(problems)))


def escape_unprintable(name: Any) -> str:
    """Returns `name` as text that is safe to print on one line of a terminal."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def _counter_key(key: str) -> str | None:
    """The key of the batch counter beside a running variance; None for other keys."""
    return key.replace("running_var", COUNTER) if key.endswith(".running_var") else None


def _infer_config(state: Mapping[str, np.ndarray], meta: dict[str, Any]) -> Config:
    """The config in the meta of our own files; for other files, MMagic's."""
    if isinstance(meta.get(CONFIG), dict):
        return from_dict(meta[CONFIG]).validate()
    config = Config()
    shapes = {
        state[key].shape
        for branch in ("global_disc", "local_disc")
        if (key := f"disc.{branch}.fc.linear.weight") in state
    }
    # Six convolutions of stride 2 reduce the image to `side`; both branches must agree on it.
    for side in (1, 2, 8, 16):
        if shapes == {(16 * config.model.width, 8 * config.model.width * side**2)}:
            config.image_size = side * 2 ** len(GLOBAL_BRANCH)
    return config


def is_foreign(weights: Weights) -> bool:
    """Whether the weights come from a file that is not ours, which does not hold their config."""
    return bool(weights.torch) and CONFIG not in weights.torch.get("meta", {})


def mmagic_differences(config: Config) -> list[str]:
    """Describes how MMagic's networks differ from `config`'s; MMagic's files cannot record it."""
    width, output, fill = config.model.width, config.model.output, config.mask.fill
    notes = []
    if width != 64:
        notes.append(f"MMagic's networks have width 64, this one {width}: MMagic cannot load it")
    if output != "clip":
        notes.append(f"MMagic clips the output, this network was trained with {output}")
    if tuple(fill) != (127.5, 127.5, 127.5):
        notes.append(f"MMagic fills holes with grey, this network was trained with {fill}")
    return notes
