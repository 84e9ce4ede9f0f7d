"""The list of photographs of configs/small.py, and the statistics of scripts/compare_fills.py."""

import csv
from pathlib import Path

import compare_fills
import numpy as np
import PIL.Image
import pytest
import skimage

from glinpaint_jax import Completer
from tests.helpers.programs import ROOT

PHOTOS = Path(skimage.__file__).parent / "data"
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

    def add_51(image, hole):
        return image + np.uint8(51) * hole[..., None]

    fills = {"51 off": add_51, "perfect": lambda image, hole: image}
    config = compare_fills.HOLES[kind]
    errors = compare_fills.measure(fills, photos, config, crops=2)
    again = compare_fills.measure(fills, photos, config, crops=2)
    assert all((errors[name] == again[name]).all() for name in fills)
    assert errors["51 off"] == pytest.approx(20)
    assert (errors["perfect"] == 0).all()


def test_without_checkpoint_the_smooth_fill_is_compared(monkeypatch, capsys):
    """The mean of the errors of each photograph, computed here."""
    monkeypatch.setattr(compare_fills, "BLEND_SIDE", 48)
    monkeypatch.setattr(compare_fills, "BLEND_HOLES", (16,))
    compare_fills.compare_blends([])
    row = capsys.readouterr().out.splitlines()[2]
    completer, errors = Completer(method="smooth", blend="none"), []
    hole = np.zeros((48, 48), bool)
    hole[16:32, 16:32] = True
    for name in ("camera.png", "coins.png", "rocket.jpg"):
        with PIL.Image.open(PHOTOS / name) as image:
            photo = np.array(image.convert("RGB"))
        for y in np.linspace(0, photo.shape[0] - 48, 3, dtype=int):
            for x in np.linspace(0, photo.shape[1] - 48, 4, dtype=int):
                crop = photo[y : y + 48, x : x + 48]
                away = np.float64(completer(crop, hole)) - crop
                errors.append(100 / 255 * np.abs(away[16:32, 16:32]).mean())
    assert row.startswith(f"| --method smooth | box of 16 | {np.mean(errors):.2f} |")


def test_listed_photographs_are_unique_and_have_an_open_license():
    with (ROOT / "scripts" / "small_photos.tsv").open(newline="") as file:
        photos = list(csv.DictReader(file, delimiter="\t"))
    assert len({(photo["package"], photo["path"]) for photo in photos}) == len(photos)
    assert {photo["part"] for photo in photos} == {"train", "val"}
    for photo in photos:
        assert photo["licence"].startswith(OPEN_LICENSES) and photo["author"], photo
