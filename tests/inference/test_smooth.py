"""The smooth fill of photographs, computed around the holes only, against a direct solver."""

import jax
import numpy as np
import pytest
import skimage

from glinpaint_jax.config import ModelConfig
from glinpaint_jax.inference import smooth
from glinpaint_jax.inference.completer import Completer
from glinpaint_jax.inference.smooth import smooth_fill_photo
from glinpaint_jax.models.networks import make_networks
from tests.helpers.completers import draw_hole
from tests.helpers.configs import make_small_config
from tests.helpers.laplace import solve_directly
from tests.helpers.networks import make_weights

HEIGHT, WIDTH = 397, 511


@pytest.fixture(scope="module")
def photo_and_hole():
    """Holes at borders and corners, far apart, close to each other and larger than a tile."""
    far = (0, 0, 20, 30), (390, 480, 397, 511), (300, 20, 305, 23), (50, 505, 90, 511)
    hole = draw_hole(HEIGHT, WIDTH, *far, (100, 100, 210, 330), (230, 200, 240, 201))
    return np.ascontiguousarray(skimage.data.astronaut()[:HEIGHT, :WIDTH]), hole


@pytest.fixture(scope="module")
def base(photo_and_hole):
    """The fill of the whole photograph at once, in [-1, 1]."""
    image, hole = photo_and_hole
    return solve_directly(image.astype(np.float32) / 127.5 - 1, hole).astype(np.float32)


@pytest.mark.parametrize("square", [64, 512])
def test_crops_are_filled_as_the_whole_photograph_is(square, photo_and_hole, base, monkeypatch):
    monkeypatch.setattr(smooth, "SQUARE", square)
    image, hole = photo_and_hole
    filled = smooth_fill_photo(image, hole)
    np.testing.assert_array_equal(filled[~hole], image[~hole])
    np.testing.assert_allclose(filled, base * 127.5 + 127.5, atol=0.01)
    rounded = Completer(method="smooth")(image, hole)
    np.testing.assert_allclose(rounded, base * 127.5 + 127.5, atol=0.51)


@pytest.mark.parametrize("method", ["auto", "network"])
def test_dots_are_filled_smoothly(method):
    """On flat gray, a network leaves specks."""
    image = np.ascontiguousarray(skimage.data.astronaut()[:120, :160])
    dots = draw_hole(120, 160, *((y, x, y + 3, x + 2) for y in (0, 60) for x in range(5, 150, 9)))
    hole = dots | draw_hole(120, 160, (90, 30, 110, 34))
    expected = solve_directly(image.astype(np.float32), dots)
    completed = Completer(method=method)(image, hole)
    assert np.abs(completed - expected)[dots].max() < 0.6
    flat = Completer(method=method)(np.full_like(image, 128), dots)
    assert (flat == 128).all()


def test_regions_equal_the_whole_photograph(photo_and_hole, base):
    image, hole = photo_and_hole
    weights = make_weights(make_small_config(model=ModelConfig(width=4, base="smooth")))
    generator, _ = make_networks(weights.config)
    padding = ((0, -HEIGHT % 4), (0, -WIDTH % 4), (0, 0))
    inputs = (base, hole[..., None].astype(np.float32))
    padded, mask = (np.pad(array, padding, mode="edge")[None] for array in inputs)
    predict = jax.jit(lambda *args: generator.apply(weights.generator, *args, train=False))
    expected = np.asarray(predict(padded, mask))[0, :HEIGHT, :WIDTH] * 127.5 + 127.5
    completed = Completer(weights, tile=96, scale=1, blend="none")(image, hole)
    np.testing.assert_array_equal(completed[~hole], image[~hole])
    assert np.abs(completed[hole] - expected[hole]).max() < 0.55
    assert np.abs(expected[hole] - (base[hole] * 127.5 + 127.5)).max() > 1  # not the base alone
