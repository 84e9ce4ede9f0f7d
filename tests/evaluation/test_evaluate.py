import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pytorch_msssim
import scipy.stats
import skimage.data
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from glinpaint_jax.data.datasets import open_sources
from glinpaint_jax.data.pipeline import FailureLog, eval_batches
from glinpaint_jax.evaluation import metrics
from glinpaint_jax.evaluation.evaluate import (
    evaluate,
    make_generator_completion,
    make_host_completion,
)
from glinpaint_jax.evaluation.pictures import draw_masks
from glinpaint_jax.models.networks import make_networks
from tests.helpers.configs import make_small_config
from tests.helpers.networks import make_weights


def mean_fill(record, image, mask):
    """Fills the hole with the mean color of the other pixels."""
    hole = mask[..., 0] > 0
    filled = image.copy()
    filled[hole] = np.rint(image[~hole].mean(axis=0)).astype(np.uint8)
    return filled


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
        completed = fill(0, batch["image"][0], mask[0])[None]
        completed = jnp.asarray(completed, jnp.float32)
        values = metrics.all_scores(completed, image, jnp.asarray(mask, jnp.float32))
        scores.append([values[name].item() for name in metrics.NAMES])
    return np.mean(scores, axis=0)


@pytest.mark.parametrize("kind", ["square", "free_form"])
@pytest.mark.parametrize("images", [5, 130])
def test_means_are_exact_with_a_partial_last_batch(kind, images, mesh8, mesh1):
    config = make_small_config()
    config.mask.kind = kind
    config.data.eval_images = images
    expected = expected_scores(config, mean_fill)
    for mesh in (mesh8, mesh1):
        complete_batch = make_host_completion(mean_fill, mesh)
        scores, _ = evaluate(complete_batch, open_held_out(config), config, mesh, no_failures())
        assert list(scores) == list(metrics.NAMES)
        np.testing.assert_allclose(list(scores.values()), expected, rtol=1e-5)


def test_generator_completions_change_only_the_hole(mesh8, mesh1):
    config = make_small_config()
    generator, _ = make_networks(config)
    variables, scores = make_weights(config).generator, []
    for mesh in (mesh8, mesh1):
        complete_batch = make_generator_completion(generator, config.mask.fill, mesh)(variables)
        source = open_held_out(config)
        means, rows = evaluate(complete_batch, source, config, mesh, no_failures())
        scores.append(means)
        masked, completed, original = rows
        assert rows.shape[0] == 3 and rows.shape[2:] == (32, 32, 3)
        outside = (masked == original).all(-1)
        np.testing.assert_array_equal(completed[outside], original[outside])
        assert (completed[~outside] != original[~outside]).mean() > 0.9
    np.testing.assert_allclose(list(scores[0].values()), list(scores[1].values()), rtol=1e-4)


@pytest.fixture(scope="module")
def scored():
    """Two photographs with noise, their masks, and all scores."""
    images = np.stack([skimage.data.astronaut()[:192, 100:300], skimage.data.coffee()[:192, :200]])
    rng = np.random.default_rng(0)
    noise = rng.normal(0, [[[[5]]], [[[25]]]], images.shape)
    completed = np.clip(images + noise, 0, 255).astype(np.float32)
    mask = np.zeros((2, 192, 200, 1), np.float32)
    mask[0, 40:90, 50:160] = mask[1, 100:, :40] = 1  # the second touches the border
    arrays = completed, images.astype(np.float32), mask
    return arrays, jax.jit(metrics.all_scores)(*arrays)


def test_metrics_match_numpy_and_scikit_image(scored):
    arrays, scores = scored
    for i, (a, b, m) in enumerate(zip(*arrays, strict=True)):
        hole = m[..., 0] > 0
        for name, part in (("l1", hole), ("l1_image", ...)):
            expected = 100 * np.abs(a[part] - b[part]).mean() / 255
            assert scores[name][i] == pytest.approx(expected, rel=1e-5)
        for name, part in (("psnr_hole", hole), ("psnr", ...)):
            expected = peak_signal_noise_ratio(b[part], a[part], data_range=255)
            assert scores[name][i] == pytest.approx(expected, abs=1e-4)
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
        whole = ssim_map[5:-5, 5:-5]
        assert scores["ssim"][i] == pytest.approx(whole.mean(), abs=1e-4)
        assert scores["ssim_hole"][i] == pytest.approx(whole[hole[5:-5, 5:-5]].mean(), abs=1e-4)


def test_multi_scale_ssim_matches_pytorchs(scored):
    (completed, images, _), scores = scored
    pair = (torch.from_numpy(x.transpose(0, 3, 1, 2)) for x in (completed, images))
    expected = pytorch_msssim.ms_ssim(*pair, data_range=255, size_average=False)
    np.testing.assert_allclose(scores["ms_ssim"], expected.numpy(), atol=1e-4)
    small = [jnp.asarray(x[:, :40, :40]) for x in (completed, images)]  # two scales fit
    assert 0 < metrics.ms_ssim(*small)[1] < metrics.ms_ssim(*small)[0] < 1


def test_the_patch_distance_is_a_mean_of_wasserstein_distances(scored):
    (completed, images, mask), scores = scored
    shape = 7 * 7 * 3, metrics.DIRECTIONS
    directions = np.array(jax.random.normal(jax.random.key(0), shape))
    directions /= np.linalg.norm(directions, axis=0)
    for i in range(2):
        centers = 3 * np.argwhere(mask[i, 3:-3:3, 3:-3:3, 0])
        pair = (completed[i], images[i])
        clouds = [np.stack([x[y : y + 7, c : c + 7].ravel() for y, c in centers]) for x in pair]
        distances = [
            scipy.stats.wasserstein_distance(*(cloud @ direction for cloud in clouds))
            for direction in directions.T
        ]
        assert scores["patches"][i] == pytest.approx(np.mean(distances), rel=1e-3)


def test_the_patch_distance_sees_blur_which_l1_prefers_to_moved_texture():
    texture = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.float32)
    mask = np.zeros((1, 64, 64, 1), np.float32)
    mask[:, 16:48, 16:48] = 1
    score = jax.jit(metrics.all_scores)
    moved = score(np.roll(texture, 5, axis=1), texture, mask)
    blurred = score(np.full_like(texture, 127), texture, mask)
    assert moved["l1"] > 1.2 * blurred["l1"]
    assert moved["patches"] < 0.3 * blurred["patches"]


def test_without_valid_pixels_images_become_gray(mesh1):
    batch = {
        "image": np.zeros((1, 16, 16, 3), np.uint8),
        "mask": np.ones((1, 16, 16, 1), np.uint8),
        "record": np.zeros(1, np.int32),
    }
    filled = make_host_completion(mean_fill, mesh1)(batch, {})
    np.testing.assert_array_equal(filled, np.full((1, 16, 16, 3), 128))
