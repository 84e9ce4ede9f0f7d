"""Compares blending with known images and with the paper's method, written out with OpenCV."""

import cv2
import numpy as np
import pytest

from glinpaint_jax.inference.blend import KINDS, blend
from tests.helpers.completers import draw_hole

HEIGHT, WIDTH = 150, 200


def smooth_image():
    y, x = np.mgrid[:HEIGHT, :WIDTH] / 30.0
    waves = [np.sin(x + 0.3 * y), np.cos(y), np.sin(x - y)]
    return np.uint8(np.rint(120 + 40 * np.stack(waves, -1)))


def hole_at(*boxes):
    return draw_hole(HEIGHT, WIDTH, *boxes)


HOLES = {
    "inside": [(40, 50, 90, 120)],
    "several, two of them close": [(20, 20, 50, 60), (20, 63, 50, 80), (100, 120, 130, 180)],
    "one ring": [(40, 50, 90, 60), (40, 110, 90, 120), (40, 50, 50, 120), (80, 50, 90, 120)],
    "border": [(60, 0, 100, 30), (0, 120, 20, 160)],
    "corner": [(0, 0, 40, 50)],
    "nearly at the border": [(3, 60, 40, 100), (100, 150, 148, 197)],
    "across": [(0, 80, HEIGHT, 120)],
    "frame": [(0, 0, HEIGHT, 12), (0, WIDTH - 12, HEIGHT, WIDTH), (0, 0, 12, WIDTH)],
}


@pytest.mark.parametrize("name", HOLES)
def test_blending_removes_a_color_shift(name):
    """The completion is the true image, but darker in the hole."""
    truth, hole = smooth_image(), hole_at(*HOLES[name])
    completed = truth.copy()
    completed[hole] -= np.uint8([30, 10, 50])
    blended = blend(completed, hole, "telea-poisson")
    np.testing.assert_array_equal(blended[~hole], truth[~hole])
    difference = np.abs(blended.astype(int) - truth)[hole]
    assert difference.mean() <= 4 and difference.max() <= 10  # before: 30 and 50


def test_blending_keeps_the_completions_detail():
    """Stripes that exist only in the completion keep their contrast."""
    hole = hole_at((40, 50, 110, 150))
    completed = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    stripes = np.uint8(40 * (np.arange(WIDTH) // 5 % 2))[None, :, None]
    completed[hole] = np.broadcast_to(130 + stripes, completed.shape)[hole]
    inner = blend(completed, hole, "telea-poisson")[60:90, 70:130].astype(int)
    assert np.abs(np.diff(inner, axis=1)).max(axis=1).min() >= 35
    assert abs(inner.mean() - 100) < 30 < abs(completed[60:90, 70:130].mean() - 100)


def test_blending_matches_the_papers_method():
    """For one inner hole: Telea with radius 1 as the destination, then a normal seamless clone."""
    rng = np.random.default_rng(0)
    completed, hole = smooth_image(), hole_at((40, 50, 90, 120))
    completed[hole] = rng.integers(0, 256, (hole.sum(), 3))
    mask = hole.astype(np.uint8) * 255
    destination = cv2.inpaint(completed, mask, 1, cv2.INPAINT_TELEA)
    expected = cv2.seamlessClone(completed, destination, mask, (85, 65), cv2.NORMAL_CLONE)
    np.testing.assert_array_equal(blend(completed, hole, "telea-poisson")[hole], expected[hole])


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 40), (20, 20)])
@pytest.mark.parametrize("kind", KINDS)
def test_valid_pixels_and_full_holes_stay_as_they_are(size, kind):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for height, width in ((0, 0), (1, size[1] // 2), (size[0], size[1] // 2), size):
        hole = draw_hole(*size, (0, 0, height, width))
        may_change = hole & (kind != "none") & (not hole.all())
        blended = blend(image, hole, kind)
        np.testing.assert_array_equal(blended[~may_change], image[~may_change])


def test_holes_with_a_large_box_are_not_blended(monkeypatch):
    """Here the second, whose box has 60 x 30 pixels."""
    truth, hole = smooth_image(), hole_at((20, 20, 50, 60), (100, 120, 130, 180))
    completed = np.where(hole[..., None], truth - np.uint8(30), truth)
    monkeypatch.setattr("glinpaint_jax.inference.blend.MAX_BLENDED", 40 * 30)
    with pytest.warns(UserWarning, match="a hole of 60x30 pixels is too large to blend"):
        blended = blend(completed, hole, "telea-poisson")
    np.testing.assert_array_equal(blended[100:], completed[100:])
    assert np.abs(blended[:100].astype(int) - truth[:100]).max() <= 10
