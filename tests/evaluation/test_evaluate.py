import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from glinpaint_jax.data.datasets import open_sources
from glinpaint_jax.data.pipeline import FailureLog, eval_batches
from glinpaint_jax.evaluation import metrics
from glinpaint_jax.evaluation.baselines import BASELINES, mean_fill
from glinpaint_jax.evaluation.evaluate import (
    draw_masks,
    evaluate,
    make_baseline_completion,
    make_generator_completion,
)
from glinpaint_jax.models.networks import make_networks
from tests.helpers.configs import make_small_config
from tests.helpers.networks import make_weights


def no_failures():
    return FailureLog(pytest.fail)


def open_held_out(config):
    return open_sources("photos", "", config.data.eval_images)[1]["held_out"]


def expected_scores(config, fill):
    """Mean scores, computed one image at a time with numpy masks."""
    scores = []
    batches = eval_batches(open_held_out(config), config, local_batch_size=1, process=0, count=1)
    for batch in batches:
        image = jnp.asarray(batch["image"], jnp.float32)
        mask = draw_masks(batch)
        completed = fill(batch["image"][0], mask[0])[None]
        completed = jnp.asarray(completed, jnp.float32)
        l1 = metrics.l1_error(completed, image, jnp.asarray(mask, jnp.float32))
        values = l1, metrics.psnr(completed, image), metrics.ssim(completed, image)
        scores.append([value.item() for value in values])
    return np.mean(scores, axis=0)


@pytest.mark.parametrize("kind", ["square", "free_form"])
@pytest.mark.parametrize("images", [5, 130])
def test_means_are_exact_with_a_partial_last_batch(kind, images, mesh8, mesh1):
    config = make_small_config()
    config.mask.kind = kind
    config.data.eval_images = images
    expected = expected_scores(config, mean_fill)
    for mesh in (mesh8, mesh1):
        complete_batch = make_baseline_completion(mean_fill, mesh)
        scores, _ = evaluate(complete_batch, open_held_out(config), config, mesh, no_failures())
        assert list(scores) == ["l1", "psnr", "ssim"]
        np.testing.assert_allclose(list(scores.values()), expected, rtol=1e-5)


def test_generator_completions_change_only_the_hole(mesh8, mesh1):
    config = make_small_config()
    generator, _ = make_networks(config)
    variables, scores = make_weights(config).generator, []
    for mesh in (mesh8, mesh1):
        complete_batch = make_generator_completion(config, generator, mesh)(variables)
        source = open_held_out(config)
        means, rows = evaluate(complete_batch, source, config, mesh, no_failures())
        scores.append(means)
        masked, completed, original = rows
        assert rows.shape[0] == 3 and rows.shape[2:] == (32, 32, 3)
        outside = (masked == original).all(-1)
        np.testing.assert_array_equal(completed[outside], original[outside])
        assert (completed[~outside] != original[~outside]).mean() > 0.9
    np.testing.assert_allclose(list(scores[0].values()), list(scores[1].values()), rtol=1e-4)


def test_baselines_use_only_valid_pixels():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = np.zeros((16, 16, 1), np.uint8)
    mask[4:9, 5:12] = 1
    hole = mask[..., 0] == 1
    changed = image.copy()
    changed[hole] = 255 - image[hole]
    for fill in BASELINES.values():
        filled = fill(image, mask)
        np.testing.assert_array_equal(filled[~hole], image[~hole])
        np.testing.assert_array_equal(filled, fill(changed, mask))  # ignores pixels in the hole
    np.testing.assert_allclose(mean_fill(image, mask)[6, 6], image[~hole].mean(0), atol=0.5)


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


def test_without_valid_pixels_baselines_fill_with_gray(mesh1):
    batch = {"image": np.zeros((1, 16, 16, 3), np.uint8), "mask": np.ones((1, 16, 16, 1), np.uint8)}
    filled = make_baseline_completion(mean_fill, mesh1)(batch, {})
    np.testing.assert_array_equal(filled, np.full((1, 16, 16, 3), 128))
