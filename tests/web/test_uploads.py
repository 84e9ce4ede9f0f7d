"""Reads and completes uploaded files."""

import io
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import skimage.data
from starlette.datastructures import FormData, UploadFile

from glinpaint_jax.errors import UserError
from glinpaint_jax.inference import methods
from glinpaint_jax.inference.completer import Completer
from glinpaint_jax.web import uploads
from tests.helpers.completers import Whitener
from tests.helpers.programs import run_here
from tests.helpers.sources import encode

METHODS = {"white": Whitener()} | {name: Completer(method=name) for name in methods.METHODS}
IMAGE = np.ascontiguousarray(skimage.data.coffee()[:50, :130])
HOLE = np.zeros((50, 130), bool)
HOLE[:5] = True
PHOTO, MASK = encode(IMAGE), encode(HOLE)


def complete(photo=PHOTO, mask=MASK, name="cup.png", check=bool, **fields):
    """Completes files of up to 1 MB and megapixel; returns the content, the name, the summary."""
    files = {"photo": (photo, name), "mask": (mask, "mask.png")}
    form = {
        field: UploadFile(io.BytesIO(file), size=len(file), filename=filename)
        for field, (file, filename) in files.items()
    }
    job = uploads.read_job(FormData(form | fields), 10**6, 10**6)
    return uploads.complete(METHODS, job, check)[:3]


@pytest.mark.parametrize(
    ("name", "channels", "expected", "file_format"),
    [
        ("photo.JPG", 3, "photo-completed.jpg", "JPEG"),
        ("../../a-completed.tiff", 4, "a-completed.tif", "TIFF"),
        ("alpha.bmp", 4, "alpha-completed.png", "PNG"),
    ],
)
def test_the_result_has_the_photographs_format_if_possible(name, channels, expected, file_format):
    alpha = np.full((50, 130, channels - 3), 128, np.uint8)
    pixels = np.concatenate([IMAGE, alpha], axis=-1)
    photo = cv2.imencode(Path(name).suffix, pixels)[1].tobytes()  # PIL writes no alpha to BMP
    content, completed, summary = complete(photo, name=name)
    assert completed == expected
    with PIL.Image.open(io.BytesIO(content)) as image:
        assert (image.format, len(image.getbands())) == (file_format, channels)
        assert np.array(image)[HOLE, :3].min() > 200
    assert summary.startswith("white: 10 % filled in 0.0 s. ")
    lossy = file_format == "JPEG"
    assert summary.endswith("may change slightly." if lossy else "All other pixels are unchanged.")


def test_the_summary_says_what_is_unusual():
    _, _, summary = complete(mask=encode(np.ones_like(HOLE)), method="telea")
    assert summary.startswith("Telea: 100 % filled in ")
    assert summary.endswith("Note: the hole covers 100% of the image; is the mask inverted?")


LARGE, BOXES = encode(skimage.data.coffee()[:400, :600]), np.zeros((400, 600), bool)
BOXES[20:100, 20:100] = BOXES[20:100, 480:500] = True


def test_the_summary_says_what_filled_the_hole_and_what_helps():
    for attempt, way in enumerate(("", ", from nearby", ", another search")):
        found = complete(LARGE, encode(BOXES), method="auto", attempt=str(attempt))[2]
        assert found.startswith(f"Automatic{way}: ") and found.endswith("pixels are unchanged.")
    found = complete(LARGE, encode(BOXES), method="network")[2]
    assert "a hole is about 79 pixels wide, the network learned to fill up to 32" in found
    assert "smaller holes help, and the method auto keeps texture" in found
    assert found.endswith("; Places (200 MB) on this server would help, too")


def test_a_fill_ends_before_a_region_if_the_visitor_has_left():
    with pytest.raises(IndexError):
        complete(LARGE, encode(BOXES), check=[1].pop, method="network")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"photo": b"no image", "name": "a/text.jpg"}, "text.jpg is not an image"),
        ({"photo": b"\0\0\0\x18ftypheic"}, "cup.png is not an image, is damaged, or is not JPEG"),
        ({"mask": encode(np.ones((10, 10), bool))}, "cup.png is 130x50, mask.png 10x10; make"),
        ({"mask": encode(np.zeros_like(HOLE))}, "there is no hole yet"),
        ({"photo": encode(np.zeros((1000, 1200), bool))}, "cup.png has 1.2 megapixels, at most 1"),
        ({"photo": PHOTO + bytes(10**6)}, "cup.png has 1.0 MB, at most 1 are allowed"),
        ({"method": "places"}, "method='places' must be one of white, auto, patches, network"),
        ({"blend": "blur"}, "blend='blur' must be one of auto, none"),
        ({"quality": "0"}, "quality='0' must be a whole number in 1..100"),
        ({"colour": "red"}, "unknown field 'colour'; allowed: photo, mask, method"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(fields, message):
    with pytest.raises(UserError) as raised:
        complete(**fields)
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def test_options_are_those_of_the_command_line(tmp_path):
    lines = np.full((200, 300), 255, np.uint8)
    lines[60] = lines[:, 123] = 0
    photo, mask = encode(IMAGE, "JPEG"), encode(lines)
    (tmp_path / "photo.jpg").write_bytes(photo)
    (tmp_path / "mask.png").write_bytes(mask)
    names = {"image": "photo.jpg", "mask": "mask.png", "output": "out.jpg"}
    options = {"method": "telea", "scale": "0.5", "blend": "telea-poisson", "dilate_mask": "6"}
    options["quality"] = "40"
    flags = {name: tmp_path / file for name, file in names.items()} | options
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    done = run_here("complete", *flags, "--resize-mask", "--invert-mask")
    assert done.returncode == 0, done.stderr
    expected = (tmp_path / "out.jpg").read_bytes()
    options |= {"resize_mask": "1", "invert_mask": "1"}
    assert complete(photo, mask, **options)[0] == expected
    others = {"method": "smooth", "scale": "auto", "blend": "none", "quality": "95"}
    for name, value in (others | {"dilate_mask": "0", "invert_mask": "0"}).items():
        assert complete(photo, mask, **options | {name: value})[0] != expected, name


def test_checkpoints_get_short_names(tmp_path, monkeypatch):
    assert uploads.name_checkpoint("http://localhost/a/model.pth") == "model.pth"
    assert uploads.name_checkpoint("places") == "places"
    assert uploads.name_checkpoint("hf://anna/places") == "anna/places"  # not MMagic's
    (tmp_path / "places").mkdir()
    monkeypatch.chdir(tmp_path)
    assert uploads.name_checkpoint("places") == f"{tmp_path.name}/places"
