"""The list of photographs of configs/small.py."""

import csv

from tests.helpers.programs import ROOT

OPEN_LICENSES = (
    *("Apache-2.0 AND BSD-3-Clause", "CC-BY-", "CC0-", "GPL-2+", "LGPL-3"),
    *("no known copyright restrictions", "public domain"),
)


def test_listed_photographs_are_unique_and_have_an_open_license():
    with (ROOT / "scripts" / "small_photos.tsv").open(newline="") as file:
        photos = list(csv.DictReader(file, delimiter="\t"))
    assert len({(photo["package"], photo["path"]) for photo in photos}) == len(photos)
    assert {photo["part"] for photo in photos} == {"train", "val"}
    for photo in photos:
        assert photo["licence"].startswith(OPEN_LICENSES) and photo["author"], photo
