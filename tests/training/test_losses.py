"""Compares adversarial losses with their definitions.

test_step_parity.py compares the others with PyTorch.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.training import losses

LOGITS = np.random.default_rng(0).normal(0, 3, (8, 1)).astype(np.float32)


def test_an_empty_region_has_no_error():
    assert losses.l1(*jnp.ones((2, 4, 5, 6, 3)), jnp.zeros((4, 5, 6, 1))) == 0


def binary_cross_entropy(logits, target):
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return -np.mean(target * np.log(probability) + (1 - target) * np.log(1 - probability))


@pytest.mark.parametrize(
    ("kind", "real", "discriminator", "expected"),
    [
        ("vanilla", True, True, binary_cross_entropy(LOGITS, 1)),
        ("vanilla", False, True, binary_cross_entropy(LOGITS, 0)),
        ("vanilla", True, False, binary_cross_entropy(LOGITS, 1)),
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
