"""Compares every loss with numpy code written from its definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.training import losses

rng = np.random.default_rng(0)
PREDICTION, IMAGE = rng.uniform(-1, 1, (2, 4, 5, 6, 3)).astype(np.float32)
MASK = rng.integers(0, 2, (4, 5, 6, 1)).astype(np.float32)
LOGITS = rng.normal(0, 3, (8, 1)).astype(np.float32)
HOLE = np.broadcast_to(MASK > 0, IMAGE.shape)


def test_l1_and_mse_average_over_the_region():
    """An empty one gives 0."""
    difference = (PREDICTION - IMAGE).astype(np.float64)
    for region, weight in ((HOLE, MASK), (~HOLE, 1 - MASK)):
        arguments = [jnp.asarray(a) for a in (PREDICTION, IMAGE, weight)]
        assert losses.l1(*arguments) == pytest.approx(np.abs(difference[region]).mean(), rel=1e-5)
        assert losses.mse(*arguments) == pytest.approx((difference[region] ** 2).mean(), rel=1e-5)
    assert losses.l1(*arguments[:2], jnp.zeros_like(arguments[2])) == 0


def test_total_variation_of_the_hole():
    down, right = [], []
    for b, i, j in np.ndindex(4, 5, 6):
        if MASK[b, i, j, 0]:
            if i < 4:
                down.append(np.abs(PREDICTION[b, i, j] - PREDICTION[b, i + 1, j]))
            if j < 5:
                right.append(np.abs(PREDICTION[b, i, j] - PREDICTION[b, i, j + 1]))
    got = losses.total_variation(jnp.asarray(PREDICTION), jnp.asarray(MASK))
    assert got == pytest.approx(np.mean(down) + np.mean(right), rel=1e-5)


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
