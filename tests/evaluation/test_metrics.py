"""Compares the metrics with numpy and scikit-image."""

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from glinpaint_jax.evaluation import metrics


@pytest.fixture(scope="module")
def pair():
    """Two photographs with noise, the originals, and masks."""
    images = np.stack([skimage.data.astronaut()[:64, 100:180], skimage.data.coffee()[:64, :80]])
    rng = np.random.default_rng(0)
    noise = rng.normal(0, [[[[5]]], [[[25]]]], images.shape)
    completed = np.clip(images + noise, 0, 255).astype(np.float32)
    mask = rng.integers(0, 2, (2, 64, 80, 1)).astype(np.float32)
    return completed, images.astype(np.float32), mask


def test_l1_error_is_the_mean_over_the_hole_in_percent(pair):
    completed, image, mask = pair
    got = metrics.l1_error(*map(jnp.asarray, pair))
    for i in range(2):
        hole = mask[i, ..., 0] > 0
        expected = 100 * np.abs(completed[i][hole] - image[i][hole]).mean() / 255
        assert got[i] == pytest.approx(expected, rel=1e-5)


def test_psnr_matches_scikit_image(pair):
    completed, image, _ = pair
    got = metrics.psnr(jnp.asarray(completed), jnp.asarray(image))
    for i in range(2):
        expected = peak_signal_noise_ratio(image[i], completed[i], data_range=255)
        assert got[i] == pytest.approx(expected, abs=1e-4)


def test_ssim_matches_scikit_image(pair):
    completed, image, _ = pair
    got = metrics.ssim(jnp.asarray(completed), jnp.asarray(image))
    for i in range(2):
        # scikit-image pads; windows without padding start 5 pixels from the border.
        _, ssim_map = structural_similarity(
            image[i].astype(np.float64),
            completed[i].astype(np.float64),
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        assert got[i] == pytest.approx(ssim_map[5:-5, 5:-5].mean(), abs=1e-4)


def test_scores_of_equal_images(pair):
    _, image, mask = (jnp.asarray(part) for part in pair)
    np.testing.assert_array_equal(metrics.l1_error(image, image, mask), 0)
    np.testing.assert_allclose(metrics.ssim(image, image), 1, atol=1e-5)
    assert np.isposinf(metrics.psnr(image, image)).all()
