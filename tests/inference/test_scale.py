"""Working scales compared with brute force, and holes of 10, 40 and 200 pixels."""

import cv2
import numpy as np
import pytest
import skimage.data
from scipy import ndimage

from glinpaint_jax.config import MaskConfig
from glinpaint_jax.inference.completer import Completer
from glinpaint_jax.inference.scale import enlarge, hole_sizes, shrink, trained_size
from tests.helpers.completers import draw_hole
from tests.helpers.configs import make_small_config
from tests.helpers.laplace import solve_directly
from tests.helpers.networks import make_weights

TRAINED = 16  # mask.max_size of the small config


@pytest.fixture(scope="module")
def weights():
    return make_weights(make_small_config())


def boxes(*sides, size=(300, 320)):
    """A hole with square boxes in a row."""
    hole, left = np.zeros(size, bool), 20
    for side in sides:
        hole[30 : 30 + side, left : left + side] = True
        left += side + 15
    return hole


def largest_square(hole):
    """By dynamic programming over bottom right corners."""
    sides = np.zeros(np.add(hole.shape, 1), int)
    for y, x in np.argwhere(hole):
        sides[y + 1, x + 1] = 1 + min(sides[y, x], sides[y, x + 1], sides[y + 1, x])
    return sides.max()


def test_sizes_are_those_of_the_largest_squares():
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.normal(size=(80, 90)), 3) > 0.07
    blobs[[0, -1]] = blobs[:, [0, -1]] = False  # at the border, holes count beyond it
    labels, sizes = hole_sizes(blobs)
    assert len(sizes) > 5
    for label, size in enumerate(sizes, start=1):
        # Distances see odd squares only.
        assert size in (largest_square(labels == label), largest_square(labels == label) - 1)
    assert hole_sizes(draw_hole(50, 60, (0, 0, 50, 10)))[1].tolist() == [19]  # twice 10, but odd


def test_the_size_in_training_follows_from_the_config():
    for kind, expected in {"rectangle": 12, "free_form": 16, "mixed": 16}.items():
        mask = MaskConfig(kind, 12, 4, 2, mixed="square,free_form")
        assert trained_size(make_small_config(mask=mask)) == expected, kind


def test_much_larger_holes_than_in_training_get_a_word_of_advice(weights):
    network, patches = Completer(weights), Completer()
    assert network.advice(boxes(10, 2 * TRAINED)) is None
    assert "33 pixels wide, the network learned to fill up to 16" in network.advice(boxes(10, 33))
    assert patches.advice(boxes(200)) is None
    assert "up to 32" in patches.with_options("none", 1, attempt=4).advice(boxes(200))


def test_shrinking_averages_only_valid_pixels():
    image, hole = skimage.data.astronaut()[:64, :80], boxes(20, size=(64, 80))
    small, small_hole = shrink(image, hole, 0.25)
    for y in range(16):
        for x in range(20):
            block = np.s_[4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            valid = ~hole[block]
            assert small_hole[y, x] == (valid.mean() < 0.5)
            if valid.any():
                mean = image[block][valid].mean(axis=0)
                assert np.abs(small[y, x] - mean).max() <= 0.51


@pytest.mark.parametrize("sides", [(10,), (40,), (200,), (15, 40, 100)])
def test_the_generator_sees_no_hole_larger_than_in_training(sides, weights, monkeypatch):
    image, hole = skimage.data.astronaut()[:300, :320], boxes(*sides)
    masked, seen = np.where(hole[..., None], 0, image).astype(np.uint8), []
    completer = Completer(weights, blend="none")

    def paint_the_original(small, small_hole):
        if small_hole.any():
            seen.append(hole_sizes(small_hole)[1].max())
        original = cv2.resize(image, small.shape[1::-1], interpolation=cv2.INTER_AREA)
        return np.where(small_hole[..., None], original, small)

    monkeypatch.setattr(completer, "_independent_crops", lambda _: [np.s_[:, :]])
    monkeypatch.setattr(completer, "fill_unscaled", paint_the_original)
    completed = completer(masked, hole)
    assert 0 < max(seen) <= TRAINED
    np.testing.assert_array_equal(completed[~hole], image[~hole])
    scale = min(1, TRAINED / max(sides))
    blurred = ndimage.gaussian_filter(image.astype(float), (0.5 / scale, 0.5 / scale, 0))
    assert np.abs(completed - blurred)[hole].mean() < 10


def test_an_enlarged_hole_meets_the_pixels_around_it():
    image, hole = skimage.data.astronaut()[:120, :160], boxes(60, size=(120, 160))
    small = shrink(image, hole, 0.25)[0] // 2 + 60  # of other colors and contrast
    result = enlarge(small, image, hole)
    enlarged = cv2.resize(small, (160, 120), interpolation=cv2.INTER_CUBIC).astype(float)
    expected = enlarged + solve_directly(image - enlarged, hole)
    assert np.abs(result - expected.clip(0, 255))[hole].max() < 0.6
    np.testing.assert_array_equal(result[~hole], image[~hole])


@pytest.mark.filterwarnings("ignore:the hole covers")
@pytest.mark.parametrize("options", [{}, {"method": "smooth"}])
def test_a_hole_over_the_whole_image_has_the_same_color_at_any_scale(options):
    image, hole = skimage.data.astronaut()[:40, :60], np.ones((40, 60), bool)
    exact, half = (Completer(**options, scale=scale)(image, hole).mean() for scale in (1, 0.5))
    assert abs(exact - 128) < 2 and abs(half - exact) < 2


def test_a_number_is_the_scale_of_all_holes(weights):
    image, hole = skimage.data.astronaut()[:160, :160], boxes(10, 60, size=(160, 160))
    small, small_hole = shrink(image, hole, 0.5)
    expected = Completer(weights, scale=1, blend="none")(small, small_hole)
    completed = Completer(weights, scale=0.5, blend="none")(image, hole)
    # Inside a hole, every pair of pixels is around the small image's pixel.
    means = completed.reshape(80, 2, 80, 2, 3).mean(axis=(1, 3))
    inside = ndimage.binary_erosion(small_hole, iterations=2)
    assert np.abs(means - expected)[inside].mean() < 6
