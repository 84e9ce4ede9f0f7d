"""Filling without weights, compared with OpenCV and with a fill that is known exactly."""

import cv2
import numpy as np
import pytest
import skimage.data

import glinpaint_jax
from glinpaint_jax.inference.methods import METHODS


@pytest.fixture
def photo():
    return np.ascontiguousarray(skimage.data.astronaut()[100:180, 60:160])


@pytest.fixture
def hole():
    hole = np.zeros((80, 100), bool)
    hole[20:50, 30:70] = hole[60:63, 5:90] = hole[:4, :9] = True
    return hole


@pytest.mark.parametrize(
    ("method", "flag"), [("telea", cv2.INPAINT_TELEA), ("navier-stokes", cv2.INPAINT_NS)]
)
def test_opencvs_methods(method, flag, photo, hole):
    expected = cv2.inpaint(photo, hole.astype(np.uint8), 3, flag)
    completed = glinpaint_jax.Completer(method=method)(photo, hole)
    np.testing.assert_array_equal(completed[hole], expected[hole])
    np.testing.assert_array_equal(completed[~hole], photo[~hole])


def test_the_smooth_fill_continues_gradients(photo, hole):
    """A linear gradient is harmonic: inside the image, its fill is the gradient itself."""
    rows, columns = np.mgrid[:80, :100]
    gradient = np.stack([2 * columns, 2 * rows, rows + columns], axis=-1).astype(np.uint8)
    hole[:4, :9] = False  # at the border, a fill is level
    completed = glinpaint_jax.Completer(method="smooth")(
        np.where(hole[..., None], 0, gradient), hole
    )
    assert np.abs(completed.astype(int) - gradient).max() <= 1
    np.testing.assert_array_equal(completed[~hole], gradient[~hole])


@pytest.mark.filterwarnings("ignore:the hole covers")
@pytest.mark.parametrize("method", METHODS)
def test_a_hole_over_the_whole_image_becomes_grey(method, photo):
    completed = glinpaint_jax.Completer(method=method)(photo, np.ones((80, 100), bool))
    np.testing.assert_array_equal(completed, np.full_like(photo, 128))


def test_the_small_network_is_the_default_and_beats_the_methods():
    """On a photograph that it was not trained on, with thin and wide holes."""
    photo = cv2.cvtColor(skimage.data.coins(), cv2.COLOR_GRAY2RGB)
    hole = np.zeros(photo.shape[:2], np.uint8)
    for row in range(20, 300, 40):
        cv2.line(hole, (10, row), (370, row + 15), 1, thickness=2 + row // 60)
    hole = hole > 0

    def error(completer):
        completed = completer(photo, hole)
        np.testing.assert_array_equal(completed[~hole], photo[~hole])
        return np.abs(completed[hole].astype(int) - photo[hole]).mean()

    methods = [error(glinpaint_jax.Completer(method=method)) for method in METHODS]
    assert error(glinpaint_jax.Completer()) < 0.95 * min(methods)
