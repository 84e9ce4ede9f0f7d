"""Weights whose running statistics are not trivial, and the PyTorch networks that hold them."""

import jax
import numpy as np
import pytest
import torch

from glinpaint_jax.config import MaskConfig, ModelConfig
from glinpaint_jax.interop.mmagic import to_state_dict
from glinpaint_jax.interop.torch_module import load_networks
from glinpaint_jax.models.networks import Weights, init_variables
from tests.conftest import make_small_config


def make_weights(config, step=7):
    """As if trained: every vector moved away from its initial ones and zeros."""
    rng = np.random.default_rng(0)

    def moved(leaf):
        if leaf.ndim > 1:
            return leaf
        return (leaf + rng.uniform(-0.4, 0.4, leaf.shape)).astype(np.float32)

    generator, discriminator = jax.device_get(jax.jit(lambda: init_variables(config))())
    return Weights(config, step, *jax.tree.map(moved, (generator, discriminator)))


def torch_networks(weights):
    """The PyTorch generator and discriminator, of the weights' own type."""
    state = {key: torch.from_numpy(array) for key, array in to_state_dict(weights).items()}
    dtype = state["generator.encoder.enc1.conv.weight"].dtype
    networks = load_networks(weights.config, state)
    return [network.to(dtype) for network in networks if network is not None]


def to_torch(array):
    """NHWC, RGB -> NCHW, BGR; a single channel stays."""
    return torch.from_numpy(np.moveaxis(array, -1, 1)[:, ::-1].copy())


def from_torch(tensor):
    """The inverse."""
    return np.moveaxis(tensor.numpy()[:, ::-1], 1, -1)


@pytest.fixture(scope="session")
def torch_config():
    """64x64 images, so that the discriminators' last map is 1x1 and the windows 32x32."""
    return make_small_config(
        global_batch_size=4,
        image_size=64,
        model=ModelConfig(width=4),
        mask=MaskConfig(max_size=32, max_delta=8, margin=4),
    )


@pytest.fixture(scope="session")
def weights(torch_config):
    return make_weights(torch_config)
