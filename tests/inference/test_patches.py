"""Filling with patches: what repeats is found again, what is plain stays plain."""

import sys
import types

import cv2
import numpy as np
import pytest

from glinpaint_jax import Completer
from glinpaint_jax.inference import patches
from glinpaint_jax.inference.patches import fill_with_patches, is_plain

HEIGHT, WIDTH = 300, 360


def box(top, left, height, width=None):
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[top : top + height, left : left + (width or height)] = True
    return hole


def tiles():
    """A pattern of 20x20 pixels, repeated."""
    pattern = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    pattern = cv2.blur(np.tile(pattern, (3, 3, 1)), (3, 3))[20:40, 20:40]
    return np.tile(pattern, (HEIGHT // 20, WIDTH // 20, 1))


def sky(grain):
    """A gray gradient with grain."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    gray = 90 + rows / 6 + columns / 10 - (columns / 60) ** 2
    noise = cv2.blur(np.random.default_rng(1).normal(0, 3 * grain, gray.shape), (2, 2))
    return np.rint(gray + noise).clip(0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def fill(image, hole, *options):
    """Hides the hole's pixels first. Checks that no other pixel changes."""
    hidden = np.where(hole[..., None], np.uint8(0), image)
    filled, left = fill_with_patches(hidden, hole, *options)
    np.testing.assert_array_equal(filled[~hole | left], hidden[~hole | left])
    return filled, left


def error(filled, image, hole):
    return np.abs(filled[hole].astype(int) - image[hole]).mean()


@pytest.mark.parametrize("attempt", range(4))
def test_what_repeats_is_continued(attempt):
    image, hole = tiles(), box(100, 150, 40)
    filled, left = fill(image, hole, attempt)
    assert not left.any()
    network = Completer(method="network")(image, hole)
    assert error(filled, image, hole) < 0.2 * error(network, image, hole)
    np.testing.assert_array_equal(filled, fill(image, hole, attempt)[0])


def test_another_attempt_is_another_result():
    image = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    image = cv2.blur(image, (5, 5))
    results = [fill(image, box(100, 150, 40), attempt)[0] for attempt in range(4)]
    assert len({result.tobytes() for result in results}) == 4


@pytest.mark.parametrize("grain", [0, 1])
def test_plain_surroundings_stay_plain_and_grainy(grain):
    image, hole = sky(grain), box(100, 150, 60)
    filled, _ = fill(image, hole)
    assert is_plain(image, ~hole, hole)
    difference = filled[hole].astype(float) - image[hole]
    assert abs(difference.mean()) < 1
    np.testing.assert_array_equal(filled[..., 0], filled[..., 2])  # gray stays gray

    def roughness(pixels):
        return np.abs(np.diff(pixels[110:150, 160:200, 0].astype(int))).mean()

    assert roughness(filled) == pytest.approx(roughness(image), rel=0.2, abs=0.2)


def test_flat_colors_are_plain_and_edges_and_patterns_are_not():
    flat = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    dots = np.random.default_rng(3).random((HEIGHT, WIDTH)) < 0.002
    np.testing.assert_array_equal(fill(flat, dots)[0], flat)
    hole = box(100, 150, 60)
    flat[80:200, 140:143] = 255
    assert not is_plain(flat, ~hole, hole) and not is_plain(tiles(), ~hole, hole)


@pytest.mark.filterwarnings("ignore:the hole covers")
@pytest.mark.parametrize("margin", [0, 4])
def test_with_few_patches_the_network_fills(margin):
    image, hole = tiles(), box(margin, margin, HEIGHT - 2 * margin, WIDTH - 2 * margin)
    np.testing.assert_array_equal(fill(image, hole)[1], hole)
    network = Completer(method="network")
    np.testing.assert_array_equal(Completer()(image, hole), network(image, hole))
    hole = box(9, 9, 20)  # attempt 4 is the network's
    np.testing.assert_array_equal(Completer(attempt=4)(image, hole), network(image, hole))


def test_large_holes_are_filled_in_tiles_or_at_a_smaller_scale(monkeypatch):
    image, hole = tiles(), box(60, 100, 160)
    monkeypatch.setattr(patches, "TILE", 70)
    filled, left = fill(image, hole)
    assert not left.any()
    assert error(filled, image, hole) < image.std() / 3
    monkeypatch.setattr(patches, "MAX_SIZE", 80)
    filled, left = fill(image, hole)
    assert not left.any()
    assert filled[hole].std() > image.std() / 3


def test_cost_grows_with_the_hole(monkeypatch):
    """Only a part of a large photograph is searched, also for a long thin scratch."""
    image, sizes = np.tile(tiles(), (6, 6, 1)), []
    hole = np.zeros(image.shape[:2], bool)
    hole[900:904, 100:2000] = True

    def inpaint(crop, *_, **__):
        sizes.append(crop.shape[0] * crop.shape[1])
        return crop

    monkeypatch.setattr(patches.load_patchmatch(), "inpaint", inpaint)
    fill_with_patches(image, hole)
    assert len(sizes) == 4
    assert max(sizes) <= (512 + 2 * 256) * (4 + 2 * 256)


def test_without_the_library_the_network_fills(monkeypatch):
    patches.load_patchmatch.cache_clear()
    missing = types.SimpleNamespace(patchmatch_available=False)
    monkeypatch.setitem(sys.modules, "patchmatch", missing)
    image, hole = tiles(), box(100, 150, 20)
    with pytest.warns(match="PyPatchMatch does not work here"):
        filled = Completer()(image, hole)
    np.testing.assert_array_equal(filled, Completer(method="network")(image, hole))
    patches.load_patchmatch.cache_clear()


def test_the_grain_of_a_sky_is_not_taken_from_its_horizon():
    """Above the hole, as far away as its grain would come from, are rough mountains."""
    image, hole = sky(1), box(100, 150, 60)
    expected, _ = fill(image, hole)
    image[:85] = np.random.default_rng(0).integers(0, 256, image[:85].shape)
    filled, _ = fill(image, hole)
    assert is_plain(image, ~hole, hole)
    assert np.abs(filled[hole].astype(int) - expected[hole]).max() < 12
