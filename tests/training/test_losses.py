"""Compares adversarial losses with their definitions.

test_step_parity.py compares vanilla and the other losses with PyTorch.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.training import losses

LOGITS = np.random.default_rng(0).normal(0, 3, (8, 1)).astype(np.float32)


def test_an_empty_region_has_no_error():
    assert losses.l1(*jnp.ones((2, 4, 5, 6, 3)), jnp.zeros((4, 5, 6, 1))) == 0


@pytest.mark.parametrize(
    ("kind", "real", "discriminator", "expected"),
    [
        ("lsgan", True, True, np.mean((LOGITS - 1) ** 2)),
        ("lsgan", False, True, np.mean(LOGITS**2)),
        ("lsgan", True, False, np.mean((LOGITS - 1) ** 2)),
        ("hinge", True, True, np.mean(np.maximum(0, 1 - LOGITS))),
        ("hinge", False, True, np.mean(np.maximum(0, 1 + LOGITS))),
        ("hinge", True, False, -np.mean(LOGITS)),
        ("wgan", True, True, -np.mean(LOGITS)),
        ("wgan", False, True, np.mean(LOGITS)),
        ("wgan", True, False, -np.mean(LOGITS)),
    ],
)
def test_adversarial_losses(kind, real, discriminator, expected):
    got = losses.adversarial(jnp.asarray(LOGITS), kind, real=real, discriminator=discriminator)
    assert got == pytest.approx(expected, rel=1e-5)
