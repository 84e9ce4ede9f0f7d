"""Compares one training step of each phase with PyTorch: autograd, BatchNorm2d, torch.optim.Adam.

The PyTorch step follows MMagic's GLInpaintor: same order, same losses. Ours runs on 8 devices, with
every loss. Also compares the trained discriminator; test_export.py compares the generator.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from glinpaint_jax.interop.mmagic import to_state_dict
from glinpaint_jax.models.inputs import make_inputs
from glinpaint_jax.models.networks import Weights, make_networks
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import create_state
from glinpaint_jax.training.step import make_steps
from tests.helpers.configs import make_small_config
from tests.helpers.networks import make_weights, to_torch, torch_networks
from tests.helpers.steps import make_batch, place


def torch_step(phase, networks, batch, config, dtype):
    """Returns losses; leaves gradients, new parameters and running statistics in the networks."""
    optimizer, weights = config.optimizer, config.losses
    generator, discriminator = (network.train().requires_grad_() for network in networks)
    bboxes = np.asarray(batch["bbox"])
    # Scale with XLA: its float32 division differs from PyTorch's in the last bit.
    inputs = jax.jit(make_inputs)(batch)
    image = to_torch(np.asarray(inputs.image, dtype))
    mask = torch.zeros_like(image[:, :1])
    for i, (top, left, height, width) in enumerate(bboxes):
        mask[i, :, top : top + height, left : left + width] = 1

    size, last = config.local_size, config.image_size - config.local_size
    around_holes = [
        (min(max(y - (size - height) // 2, 0), last), min(max(x - (size - width) // 2, 0), last))
        for y, x, height, width in bboxes
    ]
    key = jax.random.fold_in(jax.random.key(0), 0)
    anywhere = jax.random.randint(key, (len(bboxes), 2), 0, last + 1).tolist()

    def adversarial_loss(images, target, corners):
        windows = [
            one[:, y : y + size, x : x + size] for one, (y, x) in zip(images, corners, strict=True)
        ]
        logits = discriminator(images, torch.stack(windows))
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    def mean(values, region):
        return (values * region).sum() / (3 * region.sum())

    losses = {}
    prediction = generator(torch.cat([image * (1 - mask), mask], dim=1))
    completed = image * (1 - mask) + prediction * mask
    if phase is not Phase.COMPLETION:
        fake = adversarial_loss(completed.detach(), 0.0, around_holes)
        real = adversarial_loss(image, 1.0, anywhere)
        shift = (fake**2 + real**2) / 2
        losses |= {"discriminator_fake": fake, "discriminator_real": real, "disc_shift": shift}
        (fake + real + weights.disc_shift * shift).backward()
        torch.optim.Adam(discriminator.parameters(), optimizer.discriminator_learning_rate).step()
    if phase is not Phase.DISCRIMINATOR:
        error, down, right = prediction - image, completed.diff(dim=2), completed.diff(dim=3)
        terms = {
            "l1_hole": mean(error.abs(), mask),
            "mse_hole": mean(error**2, mask),
            "l1_valid": mean(error.abs(), 1 - mask),
            "tv": mean(down.abs(), mask[:, :, :-1]) + mean(right.abs(), mask[..., :-1]),
        }
        if phase is Phase.JOINT:
            discriminator.requires_grad_(False)
            terms["adversarial"] = adversarial_loss(completed, 1.0, around_holes)
        sum(getattr(weights, name) * term for name, term in terms.items()).backward()
        losses |= terms
        torch.optim.Adam(generator.parameters(), optimizer.learning_rate).step()
    return {name: loss.item() for name, loss in losses.items()}


def assert_close(got, expected, tolerance, name):
    expected = expected.detach().numpy()
    largest = np.abs(expected).max()
    assert np.abs(got - expected).max() <= tolerance * largest, name


@pytest.fixture(scope="module")
def weights(step_config):
    return make_weights(step_config)


@pytest.mark.parametrize("phase", Phase)
def test_a_step_matches_pytorch(phase, weights, step_config, mesh8):
    """In float64, where rounding errors hide nothing."""
    config, dtype = step_config, np.float64

    def cast(leaf):
        return leaf.astype(dtype) if leaf.dtype == np.float32 else leaf

    weights = dataclasses.replace(
        weights,
        generator=jax.tree.map(cast, weights.generator),
        discriminator=jax.tree.map(cast, weights.discriminator),
    )
    with jax.enable_x64():
        batch = make_batch(0, config, mesh8)
        networks = torch_networks(weights)
        expected = torch_step(phase, networks, batch, config, dtype)
        create = jax.jit(lambda *networks: create_state(config, *networks))
        state = place(create(weights.generator, weights.discriminator), mesh8)
        state, losses = make_steps(config, mesh8)[phase](state, batch)
        assert losses.pop("skipped") == 0
        assert {leaf.dtype for leaf in jax.tree.leaves(state.generator.params)} == {np.dtype(dtype)}
        after = jax.device_get((state.generator, state.discriminator))

    assert set(losses) == set(expected)
    for name, loss in expected.items():
        assert float(losses[name]) == pytest.approx(loss, rel=1e-8), name

    def torch_layout(part):
        """A state dict by MMagic's names, with `part` of both networks as the parameters."""
        variables = [{"params": part(net), "batch_stats": net.batch_stats} for net in after]
        return to_state_dict(Weights(config, 1, *variables))

    # Adam's first moment after one step is a tenth of the gradient.
    gradients = torch_layout(
        lambda net: jax.tree.map(lambda m: m / np.asarray(0.1, dtype), net.opt_state[1].mu)
    )
    parameters = torch_layout(lambda net: net.params)
    for prefix, network in zip(("generator", "disc"), networks, strict=True):
        for name, parameter in network.named_parameters():
            name = f"{prefix}.{name}"
            if parameter.grad is None:
                assert not gradients[name].any(), name
            else:
                assert_close(gradients[name], parameter.grad, 1e-8, name)
            assert_close(parameters[name], parameter, 1e-7, name)
        for name, buffer in network.named_buffers():
            if "running" in name:
                name = f"{prefix}.{name}"
                assert_close(parameters[name], buffer, 1e-8, name)


@pytest.mark.parametrize("size", [64, 200])
def test_discriminator_matches_pytorch(size):
    """With odd feature maps too: 200 -> 100, 50, 25, 13, 7, 4."""
    weights = make_weights(make_small_config(image_size=size))
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (3, size, size, 3)).astype(np.float32)
    window = image[:, size // 4 : size // 4 + size // 2, : size // 2]

    _, discriminator = make_networks(weights.config)
    predict = jax.jit(functools.partial(discriminator.apply, train=False))
    logits = predict(weights.discriminator, image, window)
    _, torch_network = torch_networks(weights)
    with torch.no_grad():
        expected = torch_network(to_torch(image), to_torch(window)).numpy()
    largest = np.abs(expected).max()
    assert np.ptp(expected) > 1e-3 * largest  # so the logits depend on the images
    assert np.abs(logits - expected).max() <= 1e-4 * largest
