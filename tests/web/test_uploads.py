"""Completes uploaded files."""

import io

import cv2
import numpy as np
import PIL.Image
import pytest
import skimage.data
from starlette.datastructures import FormData, UploadFile

from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.blend import KINDS
from glinpaint_jax.web import uploads
from glinpaint_jax.web.methods import Methods, name_checkpoint
from tests.helpers.completers import Whitener
from tests.helpers.programs import run_here

METHODS = Methods({"white": Whitener()})
IMAGE = np.ascontiguousarray(skimage.data.coffee()[:50, :130])
HOLE = np.zeros((50, 130), bool)
HOLE[:5] = True


def complete(photo, mask, **fields):
    """Completes two files; returns the content, the name and the summary of the result."""
    files = {"photo": photo, "mask": mask}
    form = {
        name: UploadFile(io.BytesIO(path.read_bytes()), filename=path.name)
        for name, path in files.items()
    }
    return uploads.complete(METHODS, uploads.read_job(FormData(form | fields), 10**8, 10**8))


@pytest.fixture
def save(tmp_path):
    def save(name, pixels, **options):
        PIL.Image.fromarray(pixels).save(tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize(
    ("name", "channels", "expected"),
    [
        ("photo.JPG", 3, "photo-completed.jpg"),
        ("a-completed.tiff", 4, "a-completed.tif"),
        ("alpha.bmp", 4, "alpha-completed.png"),
    ],
)
def test_the_result_has_the_photographs_format_if_that_can_hold_it(name, channels, expected, save):
    alpha = np.full((50, 130, channels - 3), 128, np.uint8)
    mask = save("mask.png", HOLE)
    photo = mask.with_name(name)
    cv2.imwrite(str(photo), np.concatenate([IMAGE, alpha], axis=-1))  # PIL writes no alpha to BMP
    content, completed, summary = complete(photo, mask)
    assert completed == expected
    with PIL.Image.open(io.BytesIO(content)) as image:
        assert f".{image.format.lower()[:3]}" == expected[-4:].replace("jpg", "jpe")
        assert len(image.getbands()) == channels
        assert np.array(image)[HOLE, :3].min() > 200
    assert summary.startswith("white: 10 % filled in 0.0 s. ")
    re_encoded = "JPEG is re-encoded, so other pixels may change slightly."
    unchanged = "All other pixels are unchanged."
    assert summary.endswith(re_encoded if expected.endswith("jpg") else unchanged)


def test_the_summary_says_what_is_unusual(save):
    full = np.ones((50, 130), bool)
    _, _, summary = complete(save("a.png", IMAGE), save("mask.png", full), method="telea")
    assert summary.startswith("Telea: 100 % filled in ")
    assert summary.endswith("Note: the hole covers 100% of the image; is the mask inverted?")


def test_options_are_those_of_the_command_line(save, tmp_path):
    photo = save("photo.jpg", IMAGE)
    lines = np.full((200, 300), 255, np.uint8)
    lines[60] = lines[:, 123] = 0
    mask, output = save("mask.png", lines), tmp_path / "out.jpg"
    paths = [f"--image={photo}", f"--mask={mask}", f"--output={output}"]
    options = {"method": "telea", "scale": "0.5", "blend": "poisson", "dilate_mask": "1"}
    options["quality"] = "40"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    done = run_here("complete", *paths, *flags, "--resize-mask", "--invert-mask")
    assert done.returncode == 0, done.stderr
    options |= {"resize_mask": "1", "invert_mask": "1"}
    assert complete(photo, mask, **options)[0] == output.read_bytes()
    others = {"method": "smooth", "scale": "auto", "blend": "none", "quality": "95"}
    for name, value in (others | {"dilate_mask": "0", "invert_mask": "0"}).items():
        assert complete(photo, mask, **options | {name: value})[0] != output.read_bytes(), name


def test_very_large_holes_are_not_blended(save, monkeypatch):
    files = save("photo.png", IMAGE), save("mask.png", HOLE)
    plain, blended = (complete(*files, method="telea", blend=kind)[0] for kind in KINDS[:2])
    assert plain != blended
    monkeypatch.setattr(uploads, "MAX_BLENDED", 100)
    assert complete(*files, method="telea", blend="poisson")[0] == plain


def test_a_method_that_cannot_be_loaded_shows_no_path(monkeypatch, capsys):
    def locate(name, report):
        raise UserError(f"cannot download {name}: no network; put it at /root/.cache/{name}")

    monkeypatch.setattr("glinpaint_jax.web.methods.locate", locate)
    with pytest.raises(UserError) as raised:
        METHODS.get("places")
    assert str(raised.value) == "Places (MMagic) cannot be loaded; the server's log says why"
    assert "no network; put it at /root/.cache/places" in capsys.readouterr().err
    assert METHODS.describe()[-2]["progress"] is None


def test_checkpoints_get_short_names(tmp_path, monkeypatch):
    assert name_checkpoint("runs/demo/") == "demo"
    assert name_checkpoint("runs/demo/checkpoints/20") == "demo 20"
    assert name_checkpoint("places") == "places"
    assert name_checkpoint("http://localhost/a/model.pth") == "model.pth"
    (tmp_path / "runs" / "places").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert name_checkpoint("runs/places") == "runs/places"  # not MMagic's
