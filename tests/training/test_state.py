"""Compares optimizers and schedules with plain numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.config import OptimizerConfig
from glinpaint_jax.training.state import learning_rate_at, make_optimizer
from tests.helpers.steps import make_state

GRADIENTS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def run(config):
    optimizer = make_optimizer(config)
    weights = {"w": jnp.ones(3)}
    state = optimizer.init(weights)
    for gradient in GRADIENTS:
        direction, state = optimizer.update({"w": jnp.asarray(gradient)}, state, weights)
        weights = {"w": weights["w"] - config.learning_rate * direction["w"]}
    return np.asarray(weights["w"])


def test_adam_matches_pytorch():
    weights, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    for t, gradient in enumerate(GRADIENTS.astype(np.float64), start=1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        weights -= 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(run(OptimizerConfig(learning_rate=0.1)), weights, rtol=1e-5)


def test_adadelta_matches_pytorch():
    weights, square, delta = np.ones(3), np.zeros(3), np.zeros(3)
    for gradient in GRADIENTS.astype(np.float64):
        square = 0.9 * square + 0.1 * gradient**2
        step = np.sqrt(delta + 1e-6) / np.sqrt(square + 1e-6) * gradient
        delta = 0.9 * delta + 0.1 * step**2
        weights -= 0.5 * step
    config = OptimizerConfig(name="adadelta", learning_rate=0.5)
    np.testing.assert_allclose(run(config), weights, rtol=1e-5)


def test_clipping_limits_the_gradient_norm():
    config = OptimizerConfig(clip_norm=0.5)
    optimizer = make_optimizer(config)
    weights = {"w": jnp.ones(3)}
    gradient = {"w": jnp.array([3.0, 0.0, 4.0])}
    _, state = optimizer.update(gradient, optimizer.init(weights), weights)
    mean = next(leaf for leaf in jax.tree.leaves(state) if leaf.shape == (3,))
    np.testing.assert_allclose(mean, 0.1 * np.array([0.3, 0, 0.4]), rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (OptimizerConfig(learning_rate=2.0), {0: 2, 50: 2, 100: 2}),
        (OptimizerConfig(learning_rate=2.0, warmup_steps=10), {0: 0.2, 4: 1, 9: 2, 80: 2}),
        (OptimizerConfig(learning_rate=2.0, schedule="cosine"), {0: 2, 50: 1, 100: 0}),
    ],
)
def test_schedules_follow_the_global_step(config, expected):
    for step, rate in expected.items():
        assert learning_rate_at(jnp.asarray(step), config, 100) == pytest.approx(rate, abs=1e-6)


def test_new_states_depend_only_on_the_seed(initial_state, step_config, mesh8, mesh1):
    def first_kernel(state):
        return np.asarray(state.generator.params["encoder"]["enc1"]["conv"]["kernel"])

    again = make_state(step_config, mesh1)  # on another number of devices, too
    jax.tree.map(
        np.testing.assert_array_equal, again.generator.params, initial_state.generator.params
    )
    other = make_state(dataclasses.replace(step_config, seed=1), mesh8)
    assert (first_kernel(other) != first_kernel(initial_state)).any()
