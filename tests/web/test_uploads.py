"""Completes uploaded files."""

import cv2
import numpy as np
import PIL.Image
import pytest
import skimage.data

from glinpaint_jax.errors import UserError
from glinpaint_jax.web import uploads
from glinpaint_jax.web.methods import Methods, name_checkpoint
from tests.helpers.completers import Whitener
from tests.helpers.programs import run_here

METHODS = Methods({"white": Whitener()})


def save(folder, name, image, **options):
    """Saves `image` (an array or PIL image) as an upload."""
    image = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
    image.save(folder / name, **options)
    return folder / name


def complete(folder, photo, mask, **fields):
    (folder / "result").mkdir(exist_ok=True)
    options = uploads.parse_options(fields, "white")
    return uploads.complete(METHODS, photo, mask, options, folder / "result", 50_000_000)[0]


def pixels(path):
    with PIL.Image.open(path) as image:
        return np.array(image)


def test_the_result_keeps_the_photographs_format_and_metadata(tmp_path):
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    exif[PIL.ExifTags.Base.Artist] = "somebody"
    image = PIL.Image.new("RGB", (40, 30), "navy")
    photo = save(tmp_path, "photo.JPG", image, exif=exif, icc_profile=b"profile")
    hole = np.zeros((40, 30), bool)
    hole[:10] = True
    result = complete(tmp_path, photo, save(tmp_path, "mask.png", hole))
    assert result.name == "photo-completed.jpg"
    with PIL.Image.open(result) as written:
        assert written.format == "JPEG" and written.size == (30, 40)
        expected = {PIL.ExifTags.Base.Orientation: 1, PIL.ExifTags.Base.Artist: "somebody"}
        assert dict(written.getexif()) == expected
        assert written.info["icc_profile"] == b"profile"
        assert min(written.getpixel((15, 3))) > 240 > max(written.getpixel((15, 20)))


def test_going_on_with_a_jpeg_hardly_changes_it(tmp_path):
    """Encoding again at the same quality is nearly lossless."""
    image = np.ascontiguousarray(skimage.data.coffee()[:240, :320])
    hole = np.zeros((240, 320), bool)
    hole[:16, :16] = True
    mask = save(tmp_path, "mask.png", hole)
    photo, seen = save(tmp_path, "photo.jpg", image, quality=95, subsampling=0), []
    for _ in range(5):
        result = complete(tmp_path, photo, mask)
        assert result.name == "photo-completed.jpg"
        photo = result.rename(tmp_path / result.name)
        seen.append(pixels(photo)[16:, 16:].astype(int))
    assert np.abs(seen[-1] - seen[0]).mean() < 0.1


def test_what_is_painted_at_a_smaller_size_is_stretched(tmp_path):
    photo = save(tmp_path, "photo.png", np.zeros((500, 1000, 3), np.uint8))
    painted = np.zeros((50, 100), bool)
    painted[10:20, 30:60] = True
    result = pixels(complete(tmp_path, photo, save(tmp_path, "m.png", painted), resize_mask="1"))
    expected = np.zeros((500, 1000), bool)
    expected[100:200, 300:600] = True
    assert ((result[..., 0] == 255) != expected).mean() < 0.001


def test_options_are_those_of_the_command_line(tmp_path):
    photo = save(tmp_path, "photo.png", skimage.data.coffee()[:50, :130])
    lines = np.full((200, 300), 255, np.uint8)
    lines[60] = lines[:, 123] = 0
    mask, output = save(tmp_path, "mask.png", lines), tmp_path / "out.png"
    paths = [f"--image={photo}", f"--mask={mask}", f"--output={output}"]
    options = {"method": "telea", "scale": "0.5", "blend": "poisson", "dilate_mask": "1"}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    done = run_here("complete", *paths, *flags, "--resize-mask", "--invert-mask")
    assert done.returncode == 0, done.stderr
    result = pixels(complete(tmp_path, photo, mask, **options, resize_mask="1", invert_mask="1"))
    np.testing.assert_array_equal(result, pixels(output))
    changed = (result != pixels(photo)).any(-1)
    assert changed[15].mean() > 0.9 and changed[:, 53].mean() > 0.9 and changed.mean() < 0.1


def test_the_summary_says_what_filled_and_what_is_unusual():
    hole = np.zeros((30, 40), bool)
    hole[:3] = True
    assert uploads.summarize("telea", hole, 1.23, "PNG") == (
        "Telea: 10 % filled in 1.2 s. All other pixels are unchanged."
    )
    hole[:] = True
    text = uploads.summarize("my run", hole, 1.23, "JPEG")
    assert text.startswith("my run: 100 % filled in 1.2 s. JPEG is re-encoded")
    assert text.endswith("Note: the hole covers 100% of the image; is the mask inverted?")


def test_alpha_in_a_format_without_alpha_gives_a_png(tmp_path):
    cv2.imwrite(str(tmp_path / "alpha.bmp"), np.full((20, 30, 4), 128, np.uint8))
    mask = save(tmp_path, "mask.png", np.ones((20, 30), bool))
    result = complete(tmp_path, tmp_path / "alpha.bmp", mask)
    assert result.name == "alpha-completed.png"
    assert pixels(result).shape == (20, 30, 4)


def test_very_large_holes_are_not_blended(tmp_path):
    photo = save(tmp_path, "photo.png", PIL.Image.new("RGB", (3000, 2700)), compress_level=0)
    line = np.zeros((2700, 3000), np.uint8)
    cv2.line(line, (5, 5), (2990, 2690), 255, 3)
    result = complete(tmp_path, photo, save(tmp_path, "mask.png", line), blend="poisson")
    assert (pixels(result)[line > 0] == 255).all()


def test_quality(tmp_path):
    photo = save(tmp_path, "photo.jpg", skimage.data.coffee()[:120, :160])
    mask = save(tmp_path, "mask.png", np.eye(120, 160) > 0)
    low, high = (
        complete(tmp_path, photo, mask, quality=quality).stat().st_size for quality in ("10", "95")
    )
    assert low < high / 3


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
