"""Compares the networks with their PyTorch versions, with equal weights."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from glinpaint_jax.config import MaskConfig
from glinpaint_jax.interop.mmagic import to_state_dict
from glinpaint_jax.interop.torch_module import CompletionModule, load_networks
from glinpaint_jax.models.networks import make_networks
from tests.helpers.configs import make_small_config
from tests.helpers.networks import from_torch, make_weights, to_torch, torch_networks


def assert_close(got, expected):
    """Within 1e-4 of the largest value."""
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def assert_statistics(network, prefix, weights):
    """The PyTorch network's running statistics equal those in `weights`."""
    state = to_state_dict(weights)
    for name, buffer in network.named_buffers():
        if "running" in name:
            assert_close(buffer.numpy(), state[f"{prefix}.{name}"])


def apply(network, train):
    return jax.jit(lambda *args: network.apply(*args, train=train, mutable=["batch_stats"]))


@pytest.mark.parametrize("output", ["clip", "sigmoid"])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (200, 264)])
def test_generator_matches_pytorch(size, train, output, weights):
    config = make_small_config(model=dataclasses.replace(weights.config.model, output=output))
    weights = dataclasses.replace(weights, config=config)
    rng = np.random.default_rng(0)
    mask = (rng.random((2, *size, 1)) > 0.7).astype(np.float32)
    image = rng.uniform(-1, 1, (2, *size, 3)).astype(np.float32) * (1 - mask)

    generator, _ = make_networks(config)
    prediction, updates = apply(generator, train)(weights.generator, image, mask)
    torch_network, _ = torch_networks(weights)
    with torch.no_grad():
        expected = torch_network.train(train)(torch.cat([to_torch(image), to_torch(mask)], dim=1))
    assert_close(prediction, from_torch(expected))
    if train:
        moved = {"params": weights.generator["params"], **jax.device_get(updates)}
        assert_statistics(torch_network, "generator", dataclasses.replace(weights, generator=moved))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", [64, 200])
def test_discriminator_matches_pytorch(size, train):
    """With odd feature maps too: 200 -> 100, 50, 25, 13, 7, 4."""
    weights = make_weights(make_small_config(image_size=size))
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (3, size, size, 3)).astype(np.float32)
    window = image[:, size // 4 : size // 4 + size // 2, : size // 2]

    _, discriminator = make_networks(weights.config)
    logits, updates = apply(discriminator, train)(weights.discriminator, image, window)
    _, torch_network = torch_networks(weights)
    with torch.no_grad():
        expected = torch_network.train(train)(to_torch(image), to_torch(window)).numpy()
    assert np.ptp(expected) > 1e-3 * np.abs(expected).max()  # so the logits depend on the images
    assert_close(logits, expected)
    if train:
        moved = {"params": weights.discriminator["params"], **jax.device_get(updates)}
        assert_statistics(torch_network, "disc", dataclasses.replace(weights, discriminator=moved))


def test_loading_rejects_missing_keys(weights):
    state = {key: torch.from_numpy(array) for key, array in to_state_dict(weights).items()}
    del state["disc.fc.bias"]
    with pytest.raises(RuntimeError, match=r"fc\.bias"):
        load_networks(weights.config, state)


@pytest.mark.parametrize("mask_type", [torch.int64, torch.float32, torch.bool, torch.uint8])
def test_completion_module_changes_only_the_hole(mask_type, weights):
    """It takes RGB in 0..1; its generator takes BGR in [-1, 1]."""
    generator, _ = torch_networks(weights)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((1, 3, 24, 32), np.float32))
    mask = torch.zeros(1, 1, 24, 32)
    mask[:, :, 5:17, 8:20] = 1
    config = dataclasses.replace(weights.config, mask=MaskConfig(fill=(255.0, 127.5, 0.0)))
    with torch.no_grad():
        completed = CompletionModule(generator, config)(image, mask.to(mask_type))
        bgr = (image * 2 - 1)[:, [2, 1, 0]]
        colour = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1)  # of the fill, BGR
        inputs = torch.cat([torch.where(mask > 0, colour, bgr), mask], dim=1)
        expected = (generator(inputs)[:, [2, 1, 0]] + 1) / 2
    hole = mask.bool().expand(1, 3, 24, 32)
    assert torch.equal(completed[~hole], image[~hole])
    torch.testing.assert_close(completed[hole], expected[hole])
