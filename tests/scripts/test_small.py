"""The list of photographs of configs/small.py, and the statistics of scripts/compare_fills.py."""

import csv

import compare_fills
import numpy as np
import pytest

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


def test_bootstrap_interval_matches_the_normal_approximation():
    differences = np.random.default_rng(0).normal(-0.5, 1, 400)
    half = 1.96 * differences.std() / np.sqrt(400)
    wanted = differences.mean() - half, differences.mean() + half
    assert compare_fills.bootstrap_interval(differences) == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("config", compare_fills.HOLES.values(), ids=compare_fills.HOLES)
def test_all_methods_fill_the_same_holes(config):
    """A method that is perfect but for 51 in the hole has an l1 of 20 %."""
    photos = [np.random.default_rng(i).integers(0, 200, (150, 140, 3), np.uint8) for i in (0, 1)]
    fills = {
        "51 off": lambda image, hole: image + np.uint8(51) * hole[..., None],
        "perfect": lambda image, hole: image,
    }
    errors = compare_fills.measure(fills, photos, config, crops=2)
    assert errors["51 off"] == pytest.approx(20)
    assert (errors["perfect"] == 0).all()


def test_without_checkpoint_the_smooth_fill_is_compared(monkeypatch, capsys):
    """A square that is 51 brighter than its flat surroundings disappears."""
    photo = np.full((48, 48, 3), 100, np.uint8)
    photo[16:32, 16:32] += 51
    monkeypatch.setattr(compare_fills, "held_out_photos", lambda: [photo])
    monkeypatch.setattr(compare_fills, "BLEND_SIDE", 48)
    monkeypatch.setattr(compare_fills, "BLEND_HOLES", (16,))
    compare_fills.compare_blends([])
    row = capsys.readouterr().out.splitlines()[2]
    assert row.startswith("| --method smooth | box of 16 | 20.00 |")


def test_listed_photographs_are_unique_and_have_an_open_license():
    with (ROOT / "scripts" / "small_photos.tsv").open(newline="") as file:
        photos = list(csv.DictReader(file, delimiter="\t"))
    assert len({(photo["package"], photo["path"]) for photo in photos}) == len(photos)
    assert {photo["part"] for photo in photos} == {"train", "val"}
    for photo in photos:
        assert photo["licence"].startswith(OPEN_LICENSES) and photo["author"], photo
