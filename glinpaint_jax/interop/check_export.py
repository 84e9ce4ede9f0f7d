"""Runs exported files and compares their output with JAX."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from glinpaint_jax.interop.weight_files import read_weights
from glinpaint_jax.models.complete import make_complete_function
from glinpaint_jax.models.networks import Weights, make_networks

TEST_SHAPES = ((1, 64, 96), (2, 132, 204))  # batch, height, width


class Networks(NamedTuple):
    """What a file computes. Arrays are NHWC and RGB."""

    # Image in 0..1 and mask, 1 = hole -> completed image.
    complete: Callable[[np.ndarray, np.ndarray], Any]
    # Image [b, s, s, 3] and its local window [b, s / 2, s / 2, 3] in [-1, 1] -> logits.
    discriminate: Callable[[np.ndarray, np.ndarray], Any] | None = None


def find_difference(weights: Weights, exported: Networks) -> float:
    """Returns the largest difference from JAX, of any completed pixel or any logit.

    Logits are divided by the largest one if that exceeds 1.
    """
    expected = run_jax(weights)
    differences = []
    for seed, (batch, height, width) in enumerate(TEST_SHAPES):
        image = np.random.default_rng(seed).random((batch, height, width, 3), np.float32)
        mask = np.zeros((batch, height, width, 1), np.float32)
        mask[:, height // 4 : height // 2, width // 3 :] = 1
        completed = (
            np.asarray(networks.complete(image, mask)) for networks in (exported, expected)
        )
        differences.append(np.abs(np.subtract(*completed)).max())
    if exported.discriminate is not None:
        size, local_size = weights.config.image_size, weights.config.local_size
        images = np.random.default_rng(0).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
        windows = images[:, :local_size, :local_size]
        logits, reference = (n.discriminate(images, windows) for n in (exported, expected))
        differences.append(np.abs(logits - reference).max() / max(1, np.abs(reference).max()))
    return float(np.max(differences))  # NaN if any is


def run_jax(weights: Weights) -> Networks:
    """In float32, whatever the precision of the training."""
    _, discriminator = make_networks(dataclasses.replace(weights.config, precision="float32"))
    apply = jax.jit(partial(discriminator.apply, train=False))

    def discriminate(images: np.ndarray, windows: np.ndarray) -> np.ndarray:
        with jax.default_matmul_precision("highest"):
            return np.asarray(apply(weights.discriminator, images, windows))

    complete = jax.jit(make_complete_function(weights))
    return Networks(complete, None if weights.discriminator is None else discriminate)


def run_safetensors(weights: Weights, path: Path) -> Networks:
    """Needs no PyTorch."""
    return run_jax(read_weights(path))


def run_pth(weights: Weights, path: Path) -> Networks:
    """The PyTorch networks, which take all weights or raise an error."""
    import torch

    from glinpaint_jax.interop import torch_module

    state = torch.load(path, weights_only=True)["state_dict"]
    generator, discriminator = torch_module.load_networks(weights.config, state)
    complete = _from_torch(torch_module.CompletionModule(generator, weights.config))
    if discriminator is None:
        return Networks(complete)

    def discriminate(images: np.ndarray, windows: np.ndarray) -> np.ndarray:
        return discriminator(_to_torch(images[..., ::-1]), _to_torch(windows[..., ::-1])).numpy()

    return Networks(complete, discriminate)


def run_torchscript(weights: Weights, path: Path) -> Networks:
    import torch

    return Networks(_from_torch(torch.jit.load(path)))


def run_onnx(weights: Weights, path: Path) -> Networks:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: it warns of constants in loops
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def complete(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"image": image.transpose(0, 3, 1, 2), "mask": mask.transpose(0, 3, 1, 2)}
        return session.run(None, inputs)[0].transpose(0, 2, 3, 1)

    return Networks(complete)


def run_stablehlo(weights: Weights, path: Path) -> Networks:
    return Networks(jax.export.deserialize(bytearray(path.read_bytes())).call)


def _from_torch(module: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def complete(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        # PyTorch's masks are often integers.
        completed = module(_to_torch(image), _to_torch(mask).long())
        return completed.numpy().transpose(0, 2, 3, 1)

    return complete


def _to_torch(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
