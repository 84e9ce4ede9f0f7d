"""Weights with non-trivial running statistics, and PyTorch networks with these weights."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import torch
from training_torch import Discriminator

from glinpaint_jax.interop.mmagic import to_state_dict
from glinpaint_jax.interop.torch_module import load_generator
from glinpaint_jax.models.networks import Weights, init_variables


def make_weights(config, step=7):
    """Weights that look trained, on large images: no vector keeps its initial ones or zeros."""
    rng = np.random.default_rng(0)

    def perturb(leaf):
        if leaf.ndim > 1 and leaf.any():
            return leaf
        return (leaf + rng.uniform(-0.4, 0.4, leaf.shape)).astype(np.float32)

    large = dataclasses.replace(config, image_size=128)
    initialize = jax.jit(lambda: (init_variables(large)[0], init_variables(config)[1]))
    generator, discriminator = jax.device_get(initialize())
    return Weights(config, step, *jax.tree.map(perturb, (generator, discriminator)))


def torch_networks(weights):
    """The PyTorch generator and discriminator, in the dtype of the weights."""
    state = {key: torch.from_numpy(array) for key, array in to_state_dict(weights).items()}
    dtype = state["generator.encoder.enc1.conv.weight"].dtype
    discriminator, prefix = Discriminator(weights.config), "disc."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    discriminator.load_state_dict(own)
    networks = load_generator(weights), discriminator.eval().requires_grad_(False)
    return [network.to(dtype) for network in networks]


def to_torch(array):
    """NHWC, RGB -> NCHW, BGR; a single channel stays as it is."""
    return torch.from_numpy(np.moveaxis(array, -1, 1)[:, ::-1].copy())


# Keys and shapes of MMagic's own modules.
KEYS_FILE = Path(__file__).parent.parent / "interop" / "mmagic_gl_state_dict.json"
REFERENCE = json.loads(KEYS_FILE.read_text())
