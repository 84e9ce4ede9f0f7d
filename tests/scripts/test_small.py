"""The list of photographs of configs/small.py, and the statistics of scripts/compare_fills.py."""

import csv
import sys

import numpy as np
import pytest

from tests.helpers.programs import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import compare_fills

OPEN_LICENCES = (
    "Apache-2.0 AND BSD-3-Clause",
    "CC-BY-",
    "CC0-",
    "GPL-2+",
    "LGPL-3",
    "no known copyright restrictions",
    "public domain",
)


def test_bootstrap_interval_matches_the_normal_approximation():
    differences = np.random.default_rng(0).normal(-0.5, 1, 400)
    low, high = compare_fills.bootstrap_interval(differences)
    half = 1.96 * differences.std() / np.sqrt(400)
    assert low == pytest.approx(differences.mean() - half, abs=0.01)
    assert high == pytest.approx(differences.mean() + half, abs=0.01)


def test_bootstrap_interval_of_equal_differences_is_a_point():
    assert compare_fills.bootstrap_interval(np.full(9, 0.25)) == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize("kind", compare_fills.HOLES)
def test_all_methods_fill_the_same_holes(kind):
    """A method that is perfect but for 51 in the hole has an l1 of 20 %."""
    photos = [np.random.default_rng(i).integers(0, 200, (150, 140, 3), np.uint8) for i in (0, 1)]

    def add_51(image, mask):
        return image + np.uint8(51) * mask

    fills = {compare_fills.NETWORK: add_51, "perfect": lambda image, mask: image}
    config = compare_fills.HOLES[kind]
    errors = compare_fills.measure(fills, photos, config, crops=2)
    again = compare_fills.measure(fills, photos, config, crops=2)
    rows = compare_fills.summarize(errors)
    assert all((errors[name] == again[name]).all() for name in fills)
    assert rows["perfect"]["l1"] == 0
    assert rows["perfect"]["difference"] == pytest.approx(20)
    assert rows["perfect"]["interval"] == pytest.approx((20, 20))


def test_every_baseline_leaves_known_pixels():
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    mask = np.zeros((24, 24, 1), np.uint8)
    mask[8:14, 9:15] = 1
    for name, fill in compare_fills.BASELINES.items():
        filled = fill(image, mask)
        assert (filled == image)[mask[..., 0] == 0].all(), name
        assert (filled != image)[mask[..., 0] == 1].any(), name


def test_listed_photographs_are_unique_and_have_an_open_licence():
    with (ROOT / "scripts" / "small_photos.tsv").open(newline="") as file:
        photos = list(csv.DictReader(file, delimiter="\t"))
    assert len({(photo["package"], photo["path"]) for photo in photos}) == len(photos)
    assert {photo["part"] for photo in photos} == {"train", "val"}
    for photo in photos:
        assert photo["licence"].startswith(OPEN_LICENCES) and photo["author"], photo
