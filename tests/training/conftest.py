"""A state and a batch, and the three steps compiled once for all tests."""

import jax
import pytest

from glinpaint_jax.training.step import make_steps
from tests.helpers.configs import make_small_config
from tests.helpers.steps import make_state


@pytest.fixture(scope="session")
def step_config():
    """All losses on."""
    config = make_small_config(ema_decay=0.9)
    config.optimizer.learning_rate = 4e-3
    config.losses.l1_valid = 0.5
    config.losses.mse_hole = 0.3
    config.losses.tv = 0.1
    config.losses.disc_shift = 0.1
    config.losses.random_real_window = True
    return config


@pytest.fixture(scope="session")
def initial_state(step_config, mesh8):
    """Host copies, since steps donate what they are given."""
    return jax.device_get(make_state(step_config, mesh8))


@pytest.fixture(scope="session")
def steps(step_config, mesh8):
    return make_steps(step_config, mesh8)
