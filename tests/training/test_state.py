"""Compares optimizers with PyTorch's, and schedules with their definitions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from glinpaint_jax.config import OptimizerConfig
from glinpaint_jax.training.state import learning_rate_at, make_optimizer
from tests.helpers.steps import make_state


@pytest.mark.parametrize(
    ("config", "optimizer"),
    [
        (OptimizerConfig(learning_rate=0.1), torch.optim.Adam),
        (OptimizerConfig(name="adadelta", learning_rate=0.5), torch.optim.Adadelta),
        (OptimizerConfig(learning_rate=0.1, clip_norm=0.5), torch.optim.Adam),
    ],
)
def test_optimizers_match_pytorch(config, optimizer):
    ours, weights = make_optimizer(config), {"w": jnp.ones(3)}
    state = ours.init(weights)
    theirs = torch.ones(3, dtype=torch.float64, requires_grad=True)
    updater = optimizer([theirs], lr=config.learning_rate)
    for gradient in np.random.default_rng(0).normal(size=(5, 3)):
        direction, state = ours.update({"w": jnp.asarray(gradient, jnp.float32)}, state, weights)
        weights = {"w": weights["w"] - config.learning_rate * direction["w"]}
        theirs.grad = torch.from_numpy(gradient)
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_([theirs], config.clip_norm)
        updater.step()
    np.testing.assert_allclose(weights["w"], theirs.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (OptimizerConfig(learning_rate=2.0), {0: 2, 50: 2, 100: 2}),
        (OptimizerConfig("adam", 2.0, 6.0, "cosine", 10), {0: 0.2, 50: 1, 100: 0}),
        (OptimizerConfig(learning_rate=2.0, warmup_steps=10), {0: 0.2, 4: 1, 9: 2, 80: 2}),
        (OptimizerConfig(learning_rate=2.0, schedule="cosine"), {0: 2, 50: 1, 100: 0}),
    ],
)
def test_schedules_follow_the_global_step(config, expected):
    for step, rate in expected.items():
        for discriminator in (False, True):
            found = learning_rate_at(jnp.asarray(step), config, 100, discriminator=discriminator)
            own = config.discriminator_learning_rate / 2 if discriminator else 0
            assert found == pytest.approx(own * rate or rate, abs=1e-6)


def test_new_states_depend_only_on_the_seed(initial_state, step_config, mesh8, mesh1):
    def first_kernel(state):
        return np.asarray(state.generator.params["encoder"]["enc1"]["conv"]["kernel"])

    again = make_state(step_config, mesh1)  # on another number of devices, too
    jax.tree.map(
        np.testing.assert_array_equal, again.generator.params, initial_state.generator.params
    )
    other = make_state(dataclasses.replace(step_config, seed=1), mesh8)
    assert (first_kernel(other) != first_kernel(initial_state)).any()
