"""Weights with non-trivial running statistics."""

import pytest

from glinpaint_jax.config import MaskConfig, ModelConfig
from tests.helpers.configs import make_small_config
from tests.helpers.networks import make_weights


@pytest.fixture(scope="session")
def torch_config():
    """64x64 images and 32x32 windows: both branches of the discriminator end in 1x1 maps."""
    return make_small_config(
        global_batch_size=4,
        image_size=64,
        model=ModelConfig(width=4),
        mask=MaskConfig(max_size=32, max_delta=8, margin=4),
    )


@pytest.fixture(scope="session")
def weights(torch_config):
    return make_weights(torch_config)
