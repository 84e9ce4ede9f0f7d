"""Handles uploaded files."""

import os
import time

import cv2
import numpy as np
import PIL.Image
import pytest
import skimage.data

from glinpaint_jax.errors import UserError
from glinpaint_jax.web.app import summarize
from glinpaint_jax.web.uploads import (
    PREVIEW,
    Limits,
    complete_upload,
    layer_to_hole,
    make_preview,
    remove_older,
)
from tests.helpers.completers import Whitener

LIMITS = Limits(megapixels=50, megabytes=50, queue=32)


def test_the_painted_layer_is_stretched_to_the_photograph():
    layer = np.zeros((50, 100, 4), np.uint8)
    layer[10:20, 30:60] = 255, 45, 120, 255
    layer[40:, 90:, :3] = 255  # coloured but transparent: erased
    hole = layer_to_hole(PIL.Image.fromarray(layer), 500, 1000)
    expected = np.zeros((500, 1000), bool)
    expected[100:200, 300:600] = True
    assert (hole != expected).mean() < 0.001
    np.testing.assert_array_equal(
        layer_to_hole(PIL.Image.fromarray(layer), 50, 100), layer[..., 3] > 0
    )


def test_previews_are_small_and_opaque():
    image = PIL.Image.new("LA", (3000, 1000), (0, 0))
    shown = make_preview(image)
    assert shown.size == (PREVIEW, PREVIEW // 3 + 1) and shown.mode == "RGB"
    assert shown.getpixel((5, 5)) == (255, 255, 255)
    assert image.size == (3000, 1000)
    assert make_preview(PIL.Image.new("RGB", (30, 20), "red")).getpixel((0, 0)) == (255, 0, 0)


def test_the_result_keeps_the_photographs_format_and_metadata(tmp_path):
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    exif[PIL.ExifTags.Base.Artist] = "somebody"
    photo = tmp_path / "photo.JPG"
    PIL.Image.new("RGB", (40, 30), "navy").save(photo, exif=exif)
    mask = np.zeros((40, 30), bool)
    mask[:10] = True
    PIL.Image.fromarray(mask).save(tmp_path / "mask.png")
    layer = np.zeros((20, 15, 4), np.uint8)
    layer[15:, :, 3] = 255
    mask_path, layer = str(tmp_path / "mask.png"), PIL.Image.fromarray(layer)
    result = complete_upload(Whitener(), str(photo), mask_path, layer, "none", tmp_path, LIMITS)
    assert result.before.size == result.after.size == (30, 40)
    hole = result.hole
    assert hole[:10].all() and hole[31:].all() and not hole[11:29].any()
    assert result.path.name == "photo-completed.jpg" and not result.lossless
    with PIL.Image.open(result.path) as written:
        assert written.size == (30, 40)
        assert dict(written.getexif()) == {PIL.ExifTags.Base.Artist: "somebody"}
        assert min(written.getpixel((15, 3))) > 240 > max(written.getpixel((15, 20)))


def test_a_photograph_and_a_hole_are_required(tmp_path):
    with pytest.raises(UserError, match="there is no photograph yet"):
        complete_upload(Whitener(), None, None, None, "none", tmp_path, LIMITS)
    PIL.Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="there is no hole yet"):
        complete_upload(Whitener(), str(tmp_path / "a.png"), None, None, "none", tmp_path, LIMITS)


def test_the_masks_rules_are_those_of_the_command(tmp_path):
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    for path in (photo, mask):
        PIL.Image.fromarray(skimage.data.coffee()[:30, :40]).save(path)
    arguments = str(photo), str(mask), None, "none", tmp_path, LIMITS
    with pytest.raises(UserError, match=r"^mask\.png is the photograph itself"):
        complete_upload(Whitener(), *arguments)
    for rows, note in ((30, " Note: the hole covers 100% of the image; is the mask"), (10, "")):
        hole = np.zeros((30, 40), np.uint8)
        hole[:rows] = 255
        PIL.Image.fromarray(hole).save(mask)
        summary = summarize(complete_upload(Whitener(), *arguments), 1.5)
        assert summary.startswith("**40 x 30**, ") and " filled in 1.5 s. All other" in summary
        assert note in summary and ("Note" in summary) == bool(note)


def test_alpha_in_a_format_without_alpha_gives_a_png(tmp_path):
    photo, mask = tmp_path / "alpha.bmp", tmp_path / "mask.png"
    pixels = np.full((20, 30, 4), 128, np.uint8)
    cv2.imwrite(str(photo), pixels)
    PIL.Image.new("L", (30, 20), 255).save(mask)
    result = complete_upload(Whitener(), str(photo), str(mask), None, "none", tmp_path, LIMITS)
    assert result.path.name == "alpha-completed.png" and result.lossless
    assert result.after.mode == "RGBA"


def test_errors_do_not_reveal_paths(tmp_path):
    photo, mask = tmp_path / "wide.png", tmp_path / "mask.png"
    for path in (photo, mask):
        PIL.Image.new("L", (1100, 1000), 255).save(path)
    limits = Limits(megapixels=1, megabytes=1, queue=1)
    for name, message in (
        ("gone.png", "gone.png has been deleted on the server"),
        ("wide.png", "wide.png has"),
    ):
        with pytest.raises(UserError, match="^" + message):
            path = str(tmp_path / name)
            complete_upload(Whitener(), path, str(mask), None, "none", tmp_path, limits)


def test_very_large_holes_are_not_blended(tmp_path):
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    PIL.Image.new("RGB", (3000, 2700)).save(photo)
    line = np.zeros((2700, 3000), np.uint8)
    cv2.line(line, (5, 5), (2990, 2690), 255, 3)
    cv2.imwrite(str(mask), line)
    arguments = Whitener(), str(photo), str(mask), None, "poisson", tmp_path, LIMITS
    completed = np.array(complete_upload(*arguments).after)
    assert (completed[line > 0] == 255).all()


def test_remove_older_removes_old_files_and_empty_folders(tmp_path):
    for name, age in (("old", 100), ("new", 10)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.png").touch()
        os.utime(tmp_path / name / "photo.png", times=(time.time() - age,) * 2)
    (tmp_path / "empty").mkdir()
    os.utime(tmp_path / "empty", times=(time.time() - 100,) * 2)
    remove_older(tmp_path, 50)
    assert {path.name for path in tmp_path.rglob("*")} == {"old", "new", "photo.png"}
    assert not (tmp_path / "old" / "photo.png").exists()
