"""Compares the metrics with numpy and scikit-image."""

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from glinpaint_jax.evaluation import metrics


def test_metrics_match_numpy_and_scikit_image():
    """For two photographs with noise."""
    images = np.stack([skimage.data.astronaut()[:64, 100:180], skimage.data.coffee()[:64, :80]])
    rng = np.random.default_rng(0)
    noise = rng.normal(0, [[[[5]]], [[[25]]]], images.shape)
    completed = np.clip(images + noise, 0, 255).astype(np.float32)
    mask = rng.integers(0, 2, (2, 64, 80, 1)).astype(np.float32)
    images = images.astype(np.float32)
    l1 = metrics.l1_error(*map(jnp.asarray, (completed, images, mask)))
    pair = jnp.asarray(completed), jnp.asarray(images)
    psnr, ssim = metrics.psnr(*pair), metrics.ssim(*pair)
    for i, (a, b, m) in enumerate(zip(completed, images, mask, strict=True)):
        hole = m[..., 0] > 0
        assert l1[i] == pytest.approx(100 * np.abs(a[hole] - b[hole]).mean() / 255, rel=1e-5)
        assert psnr[i] == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), abs=1e-4)
        # scikit-image pads; windows without padding start 5 pixels from the border.
        _, ssim_map = structural_similarity(
            b.astype(np.float64),
            a.astype(np.float64),
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        assert ssim[i] == pytest.approx(ssim_map[5:-5, 5:-5].mean(), abs=1e-4)
