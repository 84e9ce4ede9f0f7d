"""Handles uploaded files."""

import cv2
import numpy as np
import PIL.Image
import pytest
import skimage.data

from glinpaint_jax.commands import cli
from glinpaint_jax.commands import complete as command
from glinpaint_jax.errors import UserError
from glinpaint_jax.web.methods import Methods, name_checkpoint
from glinpaint_jax.web.uploads import (
    PREVIEW,
    Limits,
    Upload,
    complete_upload,
    draw_mask,
    make_preview,
    parse_options,
    summarize,
)
from tests.helpers.completers import Whitener

LIMITS = Limits(megapixels=50, megabytes=50, queue=32)
METHODS = Methods({"white": Whitener()})


def upload(folder, name, image, **options):
    """Saves `image` (an array or PIL image) under `name`."""
    image = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
    image.save(folder / name, **options)
    return Upload(name, folder / name)


def complete(folder, photo, mask, **fields):
    (folder / "result").mkdir(exist_ok=True)
    options = parse_options(fields, "white")
    return complete_upload(METHODS, photo, mask, options, folder / "result", LIMITS)


def pixels(path):
    with PIL.Image.open(path) as image:
        return np.array(image)


def test_the_result_keeps_the_photographs_format_and_metadata(tmp_path):
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    exif[PIL.ExifTags.Base.Artist] = "somebody"
    image = PIL.Image.new("RGB", (40, 30), "navy")
    photo = upload(tmp_path, "photo.JPG", image, exif=exif, icc_profile=b"profile")
    hole = np.zeros((40, 30), bool)
    hole[:10] = True
    result = complete(tmp_path, photo, upload(tmp_path, "mask.png", hole))
    assert result.name == "photo-completed.jpg"
    with PIL.Image.open(result.path) as written:
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
    mask = upload(tmp_path, "mask.png", hole)
    photo, seen = upload(tmp_path, "photo.jpg", image, quality=95, subsampling=0), []
    for number in range(5):
        result = complete(tmp_path, photo, mask)
        assert result.name == "photo-completed.jpg"
        photo = Upload(result.name, result.path.rename(tmp_path / f"{number}.jpg"))
        seen.append(pixels(photo.path)[16:, 16:].astype(int))
    assert np.abs(seen[-1] - seen[0]).mean() < 0.1


def test_previews_are_small_upright_opaque_and_keep_the_profile(tmp_path):
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    wide = PIL.Image.new("LA", (4200, 100), (0, 0))
    photo = upload(tmp_path, "wide.png", wide, exif=exif, icc_profile=b"profile")
    path, size = make_preview(photo, tmp_path, LIMITS)
    assert size == (100, 4200)
    with PIL.Image.open(path) as shown:
        assert shown.size == (98, PREVIEW) and shown.mode == "RGB"
        assert shown.getpixel((5, 5)) == (255, 255, 255)
        assert shown.info["icc_profile"] == b"profile"
    photo = upload(tmp_path, "red.tif", PIL.Image.new("RGB", (30, 20), (255, 0, 0)))
    path, size = make_preview(photo, tmp_path, LIMITS)
    assert size == (30, 20)
    np.testing.assert_allclose(pixels(path)[0, 0], (255, 0, 0), atol=2)


def test_mask_files_are_drawn_in_the_previews_size(tmp_path):
    photo = upload(tmp_path, "photo.png", np.zeros((100, 5000, 3), np.uint8))
    hole = np.zeros((100, 5000), bool)
    hole[50:, 1000:2000] = True
    mask = upload(tmp_path, "mask.tif", hole)
    drawn = pixels(draw_mask(photo, mask, parse_options({}, "white"), tmp_path, LIMITS))
    assert drawn.shape == (82, PREVIEW, 2) and (drawn[..., 0] == 255).all()
    back = cv2.resize(drawn[..., 1], (5000, 100)) > 127
    assert (back != hole).mean() < 0.01
    options = parse_options({"invert_mask": "1", "dilate_mask": "3"}, "white")
    drawn = pixels(draw_mask(photo, mask, options, tmp_path, LIMITS))[..., 1]
    assert drawn[20].all() and drawn[43, 1500 * PREVIEW // 5000] and not drawn[60, 1000]
    small = upload(tmp_path, "small.png", hole[:50])
    with pytest.raises(UserError, match="the image is 5000x100, its mask 5000x50"):
        draw_mask(photo, small, parse_options({}, "white"), tmp_path, LIMITS)


def test_what_is_painted_on_a_preview_is_stretched(tmp_path):
    photo = upload(tmp_path, "photo.png", np.zeros((500, 1000, 3), np.uint8))
    painted = np.zeros((50, 100), bool)
    painted[10:20, 30:60] = True
    mask = upload(tmp_path, "mask.png", painted)
    result = pixels(complete(tmp_path, photo, mask, resize_mask="1").path)
    expected = np.zeros((500, 1000), bool)
    expected[100:200, 300:600] = True
    assert ((result[..., 0] == 255) != expected).mean() < 0.001


def test_masks_are_resized_and_inverted_as_on_the_command_line(tmp_path):
    photo = upload(tmp_path, "photo.png", np.zeros((50, 130, 3), np.uint8))
    lines = np.full((200, 300), 255, np.uint8)
    lines[60] = lines[:, 123] = 0
    mask = upload(tmp_path, "mask.png", lines)
    output = tmp_path / "out.png"
    parser = cli.ArgumentParser("complete", "What it does.")
    command.add_arguments(parser)
    paths = [f"--image={photo.path}", f"--mask={mask.path}", f"--output={output}"]
    flags = ["--resize-mask", "--invert-mask", "--dilate-mask=1"]
    job = command.Job(photo.path, mask.path, output)
    command.complete_file(Whitener(), job, parser.parse_args([*paths, *flags]))
    fields = {"resize_mask": "1", "invert_mask": "1", "dilate_mask": "1"}
    result = pixels(complete(tmp_path, photo, mask, **fields).path)
    np.testing.assert_array_equal(result, pixels(output))
    white = result[..., 0] == 255
    assert white[15].all() and white[:, 53].all() and white.mean() < 0.1


def test_the_summary_says_what_filled_and_what_is_unusual():
    hole = np.zeros((30, 40), bool)
    hole[:3] = True
    assert summarize("telea", hole, 1.23, "PNG") == (
        "Telea: 10 % filled in 1.2 s. All other pixels are unchanged."
    )
    hole[:] = True
    text = summarize("my run", hole, 1.23, "JPEG")
    assert text.startswith("my run: 100 % filled in 1.2 s. JPEG is re-encoded")
    assert text.endswith("Note: the hole covers 100% of the image; is the mask inverted?")


def test_alpha_in_a_format_without_alpha_gives_a_png(tmp_path):
    cv2.imwrite(str(tmp_path / "alpha.bmp"), np.full((20, 30, 4), 128, np.uint8))
    mask = upload(tmp_path, "mask.png", np.ones((20, 30), bool))
    result = complete(tmp_path, Upload("alpha.bmp", tmp_path / "alpha.bmp"), mask)
    assert result.name == "alpha-completed.png"
    assert pixels(result.path).shape == (20, 30, 4)


def test_very_large_holes_are_not_blended(tmp_path):
    photo = upload(tmp_path, "photo.png", PIL.Image.new("RGB", (3000, 2700)), compress_level=0)
    line = np.zeros((2700, 3000), np.uint8)
    cv2.line(line, (5, 5), (2990, 2690), 255, 3)
    result = complete(tmp_path, photo, upload(tmp_path, "mask.png", line), blend="poisson")
    assert (pixels(result.path)[line > 0] == 255).all()


def test_quality(tmp_path):
    photo = upload(tmp_path, "photo.jpg", skimage.data.coffee()[:120, :160])
    mask = upload(tmp_path, "mask.png", np.eye(120, 160) > 0)
    sizes = [
        complete(tmp_path, photo, mask, quality=quality).path.stat().st_size
        for quality in ("10", "95")
    ]
    assert sizes[0] < sizes[1] / 3


def test_checkpoints_get_short_names(tmp_path, monkeypatch):
    assert name_checkpoint("runs/demo/") == "demo"
    assert name_checkpoint("runs/demo/checkpoints/20") == "demo 20"
    assert name_checkpoint("places") == "places"
    assert name_checkpoint("http://localhost/a/model.pth") == "model.pth"
    (tmp_path / "runs" / "places").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert name_checkpoint("runs/places") == "runs/places"  # not MMagic's
