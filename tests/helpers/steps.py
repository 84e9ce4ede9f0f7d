"""States and batches for training steps."""

import jax
import numpy as np

from glinpaint_jax.parallel import replicated, to_global
from glinpaint_jax.training.state import create_state


def make_state(config, mesh):
    return jax.jit(lambda: create_state(config), out_shardings=replicated(mesh))()


def place(state, mesh):
    """Copies a state to the devices of `mesh`; a step may donate the copy."""
    # device_get leaves PRNG keys on a device, and device_put might not copy them.
    return jax.device_put(state.replace(rng=jax.random.key(0)), replicated(mesh))


def make_batch(seed, config, mesh):
    """Random images and holes, the same on any mesh."""
    rng = np.random.default_rng(seed)
    b, size = config.global_batch_size, config.image_size
    boxes = np.concatenate([rng.integers(2, 12, (b, 2)), rng.integers(10, 17, (b, 2))], axis=1)
    images = rng.integers(0, 256, (b, size, size, 3), dtype=np.uint8)
    return to_global({"image": images, "bbox": boxes.astype(np.int32)}, mesh)
