"""MMagic's names and layouts of the weights. Numpy arrays in and out, no files, no torch.

Their networks eat and give BGR; convolution kernels are (out, in, h, w), transposed ones
(in, out, h, w) and spatially flipped; linear kernels are (out, in), and where one follows a flatten
its inputs count channels first. Running variances are the unbiased ones, here as there.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from glinpaint_jax.config import Config, from_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.models import discriminator
from glinpaint_jax.models.generator import DECODER, DILATION_NECK, ENCODER
from glinpaint_jax.models.networks import Variables, Weights, abstract_variables

# PyTorch counts batches beside each running variance; nothing is computed from it.
COUNTER = "num_batches_tracked"
CONFIG = "glinpaint_jax_config"  # where a file of ours keeps its config, in its meta


class Layout(NamedTuple):
    """An array as flax holds it -> as PyTorch does, and back."""

    to_torch: Callable[[Any], Any]
    to_flax: Callable[[Any], Any]


class Entry(NamedTuple):
    """One array: its key in MMagic's state dict, its path in the flax variables, its layout."""

    key: str
    path: tuple[str, ...]
    layout: Layout


def _reversed_inputs(kernel: Any) -> Any:
    """RGB <-> BGR among the inputs of a convolution; a mask's channel stays the fourth."""
    return kernel[:, :, np.array([2, 1, 0, 3][: kernel.shape[2]])]


VECTOR = Layout(lambda v: v, lambda v: v)
LINEAR = Layout(lambda k: k.T, lambda w: w.T)
CONV = Layout(lambda k: k.transpose(3, 2, 0, 1), lambda w: w.transpose(2, 3, 1, 0))
TRANSPOSED_CONV = Layout(
    lambda k: k[::-1, ::-1].transpose(2, 3, 0, 1), lambda w: w.transpose(2, 3, 0, 1)[::-1, ::-1]
)
BGR_INPUT_CONV = Layout(
    lambda k: CONV.to_torch(_reversed_inputs(k)), lambda w: _reversed_inputs(CONV.to_flax(w))
)
BGR_OUTPUT_CONV = Layout(
    lambda k: CONV.to_torch(k[..., ::-1]), lambda w: CONV.to_flax(w)[..., ::-1]
)
BGR_VECTOR = Layout(lambda v: v[::-1], lambda v: v[::-1])


def flattened_linear(channels: int) -> Layout:
    """Of the linear layer that follows a flatten of [side, side, channels]."""

    def to_torch(kernel: Any) -> Any:
        side = math.isqrt(kernel.shape[0] // channels)
        pixels = kernel.reshape(side, side, channels, -1)
        return pixels.transpose(3, 2, 0, 1).reshape(kernel.shape[1], -1)

    def to_flax(weight: Any) -> Any:
        side = math.isqrt(weight.shape[1] // channels)
        pixels = weight.reshape(-1, channels, side, side)
        return pixels.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])

    return Layout(to_torch, to_flax)


def _conv_norm(key: str, module: tuple[str, ...], conv: Layout) -> list[Entry]:
    return [
        Entry(f"{key}.conv.weight", ("params", *module, "conv", "kernel"), conv),
        Entry(f"{key}.bn.weight", ("params", *module, "bn", "scale"), VECTOR),
        Entry(f"{key}.bn.bias", ("params", *module, "bn", "bias"), VECTOR),
        Entry(f"{key}.bn.running_mean", ("batch_stats", *module, "bn", "mean"), VECTOR),
        Entry(f"{key}.bn.running_var", ("batch_stats", *module, "bn", "var"), VECTOR),
    ]


def generator_table() -> list[Entry]:
    entries = []
    for part, layers in (
        ("encoder", ENCODER),
        ("dilation_neck", DILATION_NECK),
        ("decoder", DECODER),
    ):
        for name, *_, transposed in layers:
            conv = TRANSPOSED_CONV if transposed else BGR_INPUT_CONV if name == "enc1" else CONV
            key = f"generator.{part}.{name.replace('convs_', 'convs.')}"
            entries += _conv_norm(key, (part, name), conv)
    dec7 = ("params", "decoder", "dec7")
    return [
        *entries,
        Entry("generator.decoder.dec7.conv.weight", (*dec7, "kernel"), BGR_OUTPUT_CONV),
        Entry("generator.decoder.dec7.conv.bias", (*dec7, "bias"), BGR_VECTOR),
    ]


def discriminator_table(width: int) -> list[Entry]:
    entries = []
    for branch, layers in (
        ("global_disc", discriminator.GLOBAL_LAYERS),
        ("local_disc", discriminator.LOCAL_LAYERS),
    ):
        for i in range(1, layers + 1):
            conv = BGR_INPUT_CONV if i == 1 else CONV
            entries += _conv_norm(f"disc.{branch}.conv{i}", (branch, f"conv{i}"), conv)
        fc = ("params", branch, "fc")
        linear = flattened_linear(8 * width)
        entries.append(Entry(f"disc.{branch}.fc.linear.weight", (*fc, "kernel"), linear))
        entries.append(Entry(f"disc.{branch}.fc.linear.bias", (*fc, "bias"), VECTOR))
    return [
        *entries,
        Entry("disc.fc.weight", ("params", "fc", "kernel"), LINEAR),
        Entry("disc.fc.bias", ("params", "fc", "bias"), VECTOR),
    ]


def to_state_dict(weights: Weights) -> dict[str, np.ndarray]:
    """MMagic's state dict, `generator.*` and, where there is one, `disc.*`.

    The counters of batches are the imported ones, else the step.
    """
    networks = [(generator_table(), weights.generator)]
    if weights.discriminator is not None:
        networks.append((discriminator_table(weights.config.model.width), weights.discriminator))
    state = {}
    for table, variables in networks:
        arrays = flatten_dict(variables)
        for entry in table:
            state[entry.key] = np.array(entry.layout.to_torch(arrays[entry.path]), order="C")
            if counter := _counter_beside(entry.key):
                count = weights.torch.get(COUNTER, {}).get(counter, weights.step)
                state[counter] = np.array(count, np.int64)
    return state


def from_state_dict(state: Mapping[str, np.ndarray], meta: dict[str, Any] | None = None) -> Weights:
    """The inverse of `to_state_dict`: float32 arrays by MMagic's keys, without other keys.

    `meta` is what a PyTorch file says of itself; it is kept and given back. Raises UserError naming
    every key that is missing, unknown, of another shape or type, or not finite.
    """
    meta = meta or {}
    config = _config_of(state, meta)
    abstract_generator, abstract_discriminator = abstract_variables(config)
    networks = [(generator_table(), abstract_generator)]
    if any(key.startswith("disc.") for key in state):
        networks.append((discriminator_table(config.model.width), abstract_discriminator))
    _refuse_other_keys(state, networks)

    trees, counters = [], {}
    for table, _ in networks:
        arrays = {entry.path: entry.layout.to_flax(state[entry.key]) for entry in table}
        trees.append(unflatten_dict(jax.tree.map(np.ascontiguousarray, arrays)))
        for key in filter(None, (_counter_beside(entry.key) for entry in table)):
            counters[key] = int(state[key])
    step = meta.get("iter", 0)
    return Weights(
        config,
        step if type(step) is int and step >= 0 else 0,
        generator=trees[0],
        discriminator=trees[1] if len(trees) == 2 else None,
        torch={"meta": meta, COUNTER: counters},
    )


def _refuse_other_keys(
    state: Mapping[str, np.ndarray], networks: list[tuple[list[Entry], Variables]]
) -> None:
    expected = {}
    for table, abstract in networks:
        leaves = flatten_dict(abstract)
        for entry in table:
            leaf = jax.eval_shape(entry.layout.to_torch, leaves[entry.path])
            expected[entry.key] = np.broadcast_to(np.float32(0), leaf.shape)
            if counter := _counter_beside(entry.key):
                expected[counter] = np.array(0, np.int64)

    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [f"{printable(key)} is unknown" for key in state if key not in expected]
    for key in expected.keys() & state.keys():
        found, leaf = state[key], expected[key]
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            must = f"{leaf.dtype} {leaf.shape}"
            problems.append(f"{key} is {found.dtype} {found.shape}, must be {must}")
        elif not np.isfinite(found).all():
            problems.append(f"{key} is not finite")
    if problems:
        raise UserError("weights that do not fit Global&Local: " + "; ".join(sorted(problems)))


def printable(name: Any) -> str:
    """A key as it may stand in one line of a terminal."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def _counter_beside(key: str) -> str | None:
    return key.replace("running_var", COUNTER) if key.endswith(".running_var") else None


def _config_of(state: Mapping[str, np.ndarray], meta: dict[str, Any]) -> Config:
    """That of the run the file comes from, if it was one of ours; else MMagic's."""
    if isinstance(meta.get(CONFIG), dict):
        return from_dict(meta[CONFIG]).validate()
    config = Config()
    shapes = {
        state[key].shape
        for branch in ("global_disc", "local_disc")
        if (key := f"disc.{branch}.fc.linear.weight") in state
    }
    # What six convolutions of stride 2 leave of the image, if both branches agree on it.
    for side in (1, 2, 8, 16):
        if shapes == {(16 * config.model.width, 8 * config.model.width * side**2)}:
            config.image_size = side * 2**discriminator.GLOBAL_LAYERS
    return config


def unlike_mmagic(config: Config) -> list[str]:
    """What MMagic's networks do otherwise than those of `config`; its files cannot say it."""
    width, output, fill = config.model.width, config.model.output, config.mask.fill
    notes = []
    if width != 64:
        notes.append(f"MMagic's networks have width 64, this one {width}: MMagic cannot load it")
    if output != "clip":
        notes.append(f"MMagic clips the output, this network was trained with {output}")
    if tuple(fill) != (127.5, 127.5, 127.5):
        notes.append(f"MMagic fills holes with grey, this network was trained with {fill}")
    return notes
