"""complete, run as a program: files, folders, rejected input."""

import numpy as np
import PIL.Image
import pytest
import skimage.data

from tests.helpers.programs import assert_rejected, run

HOLE = (slice(20, 40), slice(30, 60))


@pytest.fixture
def files(tmp_path):
    """images/ and masks/ with three pairs."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((80, 100), np.uint8)
    mask[HOLE] = 255
    for name in ("coffee", "chelsea", "rocket"):
        image = getattr(skimage.data, name)()[:80, :100]
        PIL.Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
        PIL.Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.bmp")
    return tmp_path


def complete(finished_run, image, mask, output, *more):
    masks = [] if mask is None else [f"--mask={mask}"]
    arguments = [f"--checkpoint={finished_run[0]}", f"--image={image}", *masks]
    return run("glinpaint_jax", "complete", *arguments, f"--output={output}", *more)


def pixels(path):
    with PIL.Image.open(path) as image:
        return np.array(image)


def test_one_image(finished_run, files):
    source, output = files / "images" / "coffee.png", files / "out.png"
    result = complete(finished_run, source, files / "masks" / "coffee.bmp", output)
    assert (result.returncode, result.stderr) == (0, "")
    before, after = pixels(source), pixels(output)
    assert (before[HOLE] != after[HOLE]).any()
    after[HOLE] = before[HOLE]
    np.testing.assert_array_equal(after, before)


def test_blending_and_small_tiles(finished_run, files):
    source, mask = files / "images" / "coffee.png", files / "masks" / "coffee.bmp"
    for name, more in (
        ("whole", []),
        ("tiles", ["--tile=16"]),
        ("blended", ["--blend=telea-poisson"]),
    ):
        result = complete(finished_run, source, mask, files / f"{name}.png", *more)
        assert (result.returncode, result.stderr) == (0, "")
    whole, tiles, blended = (
        pixels(files / f"{n}.png").astype(int) for n in ("whole", "tiles", "blended")
    )
    np.testing.assert_allclose(tiles, whole, atol=1)
    assert (blended[HOLE] != whole[HOLE]).any()
    blended[HOLE] = whole[HOLE]
    np.testing.assert_array_equal(blended, whole)


def test_folders_skip_and_report_broken_images(finished_run, files):
    (files / "images" / "text.jpg").write_text("no image")
    (files / "images" / "empty.jpg").touch()
    (files / "images" / "notes.txt").write_text("not looked at")
    PIL.Image.new("L", (100, 80)).save(files / "masks" / "text.png")
    PIL.Image.new("L", (50, 50), 255).save(files / "masks" / "rocket.bmp")
    result = complete(finished_run, files / "images", files / "masks", files / "out")
    assert result.returncode == 1
    assert "2 of 5 images completed" in result.stdout
    lines = result.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines)
    text = result.stderr
    assert "empty.jpg: no mask named empty.*" in text and "text.jpg is not an image" in text
    assert "rocket.png" in text and "100x80" in text and "50x50" in text
    assert sorted(path.name for path in (files / "out").iterdir()) == ["chelsea.png", "coffee.png"]


def test_random_holes_are_the_same_each_time(finished_run, files):
    for name in ("a", "b"):
        output = files / name
        result = complete(finished_run, files / "images", None, output, "--random-holes")
        assert (result.returncode, result.stderr) == (0, "")
    for name in ("coffee", "chelsea", "rocket"):
        first, second = (pixels(files / folder / f"{name}.png") for folder in "ab")
        np.testing.assert_array_equal(first, second)
        changed = (first != pixels(files / "images" / f"{name}.png")).any(axis=-1).mean()
        assert 0.02 < changed < 0.3


def test_an_empty_mask_copies_the_file(finished_run, files):
    PIL.Image.new("L", (10, 8)).save(files / "black.png")
    source, output = files / "images" / "coffee.png", files / "out.png"
    result = complete(finished_run, source, files / "black.png", output, "--resize-mask")
    assert (result.returncode, result.stderr) == (0, "")
    assert output.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("image", "mask", "output", "more", "expected"),
    [
        ("images/coffee.png", "masks/coffee.bmp", "images/coffee.png", ["--overwrite"], "never"),
        ("images/coffee.png", "masks/coffee.bmp", "images/rocket.png", [], "--overwrite"),
        ("images/coffee.png", "masks/none.bmp", "out.png", [], "masks/none.bmp"),
        ("images/coffee.png", "masks", "out.png", [], "both must be the same"),
        ("images/coffee.png", None, "out.png", [], "--random-holes"),
        ("images/coffee.png", "masks/coffee.bmp", "out.gif", [], ".webp"),
        ("images/coffee.png", "masks/coffee.bmp", "none/out.png", [], "cannot write"),
        ("images/coffee.png", "masks/coffee.bmp", "out.jpg", ["--quality=0"], "1..100"),
        ("images/coffee.png", "masks/coffee.bmp", "out.jpg", ["--tile=8"], "at least 16"),
        ("images/coffee.png", "masks/coffee.bmp", "out.jpg", ["--blend=no"], "telea-poisson"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_rejected(image, mask, output, more, expected, finished_run, files):
    before = {path: path.read_bytes() for path in files.rglob("*.png")}
    mask = mask and files / mask
    result = complete(finished_run, files / image, mask, files / output, *more)
    assert_rejected(result, expected)
    assert {path: path.read_bytes() for path in files.rglob("*.png")} == before


def test_a_missing_checkpoint_is_rejected(files):
    result = complete([files], files / "images", None, files / "out", "--random-holes")
    assert_rejected(result, "no checkpoint in")
    assert not (files / "out").exists()
