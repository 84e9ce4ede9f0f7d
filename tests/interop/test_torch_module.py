"""Compares the networks with their PyTorch versions; test_step_parity.py compares training."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch

from glinpaint_jax.models.networks import make_networks
from tests.helpers.configs import make_small_config
from tests.helpers.networks import from_torch, make_weights, to_torch, torch_networks


def assert_close(got, expected):
    """Within 1e-4 of the largest value."""
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def apply(network, *arguments):
    return jax.jit(functools.partial(network.apply, train=False))(*arguments)


@pytest.mark.parametrize("output", ["clip", "sigmoid"])
@pytest.mark.parametrize("size", [(64, 96), (200, 264)])
def test_generator_matches_pytorch(size, output, weights):
    config = make_small_config(model=dataclasses.replace(weights.config.model, output=output))
    weights = dataclasses.replace(weights, config=config)
    rng = np.random.default_rng(0)
    mask = (rng.random((2, *size, 1)) > 0.7).astype(np.float32)
    image = rng.uniform(-1, 1, (2, *size, 3)).astype(np.float32) * (1 - mask)

    generator, _ = make_networks(config)
    prediction = apply(generator, weights.generator, image, mask)
    torch_network, _ = torch_networks(weights)
    with torch.no_grad():
        expected = torch_network(torch.cat([to_torch(image), to_torch(mask)], dim=1))
    assert_close(prediction, from_torch(expected))


@pytest.mark.parametrize("size", [64, 200])
def test_discriminator_matches_pytorch(size):
    """With odd feature maps too: 200 -> 100, 50, 25, 13, 7, 4."""
    weights = make_weights(make_small_config(image_size=size))
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (3, size, size, 3)).astype(np.float32)
    window = image[:, size // 4 : size // 4 + size // 2, : size // 2]

    _, discriminator = make_networks(weights.config)
    logits = apply(discriminator, weights.discriminator, image, window)
    _, torch_network = torch_networks(weights)
    with torch.no_grad():
        expected = torch_network(to_torch(image), to_torch(window)).numpy()
    assert np.ptp(expected) > 1e-3 * np.abs(expected).max()  # so the logits depend on the images
    assert_close(logits, expected)
