"""Runs exported files and compares their output with JAX."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from glinpaint_jax.interop.weight_files import read_weights
from glinpaint_jax.models.complete import make_complete_function
from glinpaint_jax.models.networks import Weights, make_networks

TEST_SHAPES = ((1, 64, 96), (2, 132, 204))  # batch, height, width

# Image [b, h, w, 3] in 0..1 and mask [b, h, w, 1], 1 = hole -> completed image.
CompleteFn = Callable[[np.ndarray, np.ndarray], Any]
# Image [b, s, s, 3] and its local window [b, s / 2, s / 2, 3] in [-1, 1] -> logits.
DiscriminateFn = Callable[[np.ndarray, np.ndarray], np.ndarray]


def compare_torchscript(weights: Weights, path: Path) -> float:
    import torch

    module = torch.jit.load(path)

    def complete(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return to_numpy(module(to_torch(image), to_torch(mask).long()))

    return _compare_completions(weights, complete)


def compare_onnx(weights: Weights, path: Path) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: it warns of constants in loops
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def complete(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"image": image.transpose(0, 3, 1, 2), "mask": mask.transpose(0, 3, 1, 2)}
        return session.run(None, inputs)[0].transpose(0, 2, 3, 1)

    return _compare_completions(weights, complete)


def compare_stablehlo(weights: Weights, path: Path) -> float:
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    return _compare_completions(weights, exported.call)


def compare_pth(weights: Weights, path: Path) -> float:
    """Runs the PyTorch networks, loaded strictly from the file."""
    import torch

    from glinpaint_jax.interop import torch_module

    state = torch.load(path, weights_only=True)["state_dict"]
    generator, discriminator = torch_module.load_networks(weights.config, state)
    module = torch_module.CompletionModule(generator, weights.config)

    def complete(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return to_numpy(module(to_torch(image), to_torch(mask)))

    difference = _compare_completions(weights, complete)
    if discriminator is None:
        return difference

    def discriminate(images: np.ndarray, windows: np.ndarray) -> np.ndarray:
        return discriminator(to_torch(images[..., ::-1]), to_torch(windows[..., ::-1])).numpy()

    return max(difference, _compare_logits(weights, discriminate))


def compare_safetensors(weights: Weights, path: Path) -> float:
    """Runs the networks that `read_weights` finds in the file; needs no PyTorch."""
    found, _ = read_weights(path)
    difference = _compare_completions(weights, jax.jit(make_complete_function(found)))
    if found.discriminator is None:
        return difference
    return max(difference, _compare_logits(weights, _make_discriminate(found)))


def _compare_completions(weights: Weights, complete: CompleteFn) -> float:
    reference = jax.jit(make_complete_function(weights))
    differences = []
    for number, (batch, height, width) in enumerate(TEST_SHAPES):
        rng = np.random.default_rng(number)
        image = rng.random((batch, height, width, 3), np.float32)
        mask = np.zeros((batch, height, width, 1), np.float32)
        mask[:, height // 4 : height // 2, width // 3 :] = 1
        expected = np.asarray(reference(image, mask))
        differences.append(np.abs(np.asarray(complete(image, mask)) - expected).max())
    return float(max(differences))


def _compare_logits(weights: Weights, discriminate: DiscriminateFn) -> float:
    config = weights.config
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, config.image_size, config.image_size, 3)).astype(np.float32)
    windows = images[:, : config.local_size, : config.local_size]
    expected = _make_discriminate(weights)(images, windows)
    scale = max(1, np.abs(expected).max())
    return float(np.abs(discriminate(images, windows) - expected).max() / scale)


def _make_discriminate(weights: Weights) -> DiscriminateFn:
    """Makes a function: images and local windows in [-1, 1] -> logits, in float32."""
    _, discriminator = make_networks(dataclasses.replace(weights.config, precision="float32"))
    apply = jax.jit(partial(discriminator.apply, train=False))

    def discriminate(images: np.ndarray, windows: np.ndarray) -> np.ndarray:
        with jax.default_matmul_precision("highest"):
            return np.asarray(apply(weights.discriminator, images, windows))

    return discriminate


def to_torch(array: np.ndarray) -> Any:
    """NHWC -> NCHW."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def to_numpy(tensor: Any) -> np.ndarray:
    """NCHW -> NHWC."""
    return tensor.numpy().transpose(0, 2, 3, 1)
