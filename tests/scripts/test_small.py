"""The list of photographs of configs/small.py, and the statistics of scripts/compare_fills.py."""

import csv

import compare_fills
import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from tests.helpers.programs import ROOT

OPEN_LICENSES = (
    "Apache-2.0 AND BSD-3-Clause",
    "CC-BY-",
    "CC0-",
    "GPL-2+",
    "LGPL-3",
    "no known copyright restrictions",
    "public domain",
)


def test_patch_distance_is_a_wasserstein_distance():
    """Of one-dimensional distributions: scipy's, averaged over the directions."""
    image, other = (np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8) for i in (0, 1))
    hole = np.zeros((9, 9), bool)
    hole[2:7, 2:7] = True

    def patches(pixels):
        return [
            pixels[y - 2 : y + 3, x - 2 : x + 3].transpose(2, 0, 1).ravel()
            for y, x in np.argwhere(hole)
        ]

    directions = np.random.default_rng(0).normal(size=(75, compare_fills.DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    wanted = np.mean(
        [
            wasserstein_distance(patches(image) @ axis, patches(other) @ axis)
            for axis in directions.T
        ]
    )
    found = compare_fills.patch_distance(other, image, hole)
    assert found == pytest.approx(wanted / 2.55)


def test_listed_photographs_are_unique_and_have_an_open_license():
    with (ROOT / "scripts" / "small_photos.tsv").open(newline="") as file:
        photos = list(csv.DictReader(file, delimiter="\t"))
    assert len({(photo["package"], photo["path"]) for photo in photos}) == len(photos)
    assert {photo["part"] for photo in photos} == {"train", "val"}
    for photo in photos:
        assert photo["licence"].startswith(OPEN_LICENSES) and photo["author"], photo
