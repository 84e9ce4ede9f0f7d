"""A state and a batch, and the three steps compiled once for all tests."""

import jax
import numpy as np
import pytest

from glinpaint_jax.distributed import replicated, to_global
from glinpaint_jax.training.state import create_state
from glinpaint_jax.training.step import make_steps
from tests.conftest import make_small_config


def make_state(config, mesh):
    return jax.jit(lambda: create_state(config), out_shardings=replicated(mesh))()


def place(state, mesh):
    """A copy on the devices that a step may donate."""
    # device_get leaves PRNG keys on a device, where placing them again need not copy.
    return jax.device_put(state.replace(rng=jax.random.key(0)), replicated(mesh))


def make_batch(seed, config, mesh):
    """Random images; on any mesh the same."""
    rng = np.random.default_rng(seed)
    b, size = config.global_batch_size, config.image_size
    boxes = np.concatenate([rng.integers(2, 12, (b, 2)), rng.integers(10, 17, (b, 2))], axis=1)
    images = rng.integers(0, 256, (b, size, size, 3), dtype=np.uint8)
    return to_global({"image": images, "bbox": boxes.astype(np.int32)}, mesh)


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
