"""complete: files, folders, masks, rejected input. With a network, it runs as a program."""

import re
import shutil
import sys
import tempfile

import numpy as np
import PIL.Image
import pytest
import skimage.data
from skimage.morphology import dilation, disk

from glinpaint_jax.commands import cli
from glinpaint_jax.commands import complete as command
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.completer import Completer
from tests.helpers.completers import Whitener
from tests.helpers.programs import assert_rejected, execute, run, run_here

HOLE = np.zeros((80, 100), bool)
HOLE[20:40, 30:60] = True
LONG = 300 * "a" + ".png"


@pytest.fixture
def files(tmp_path):
    """images/ and masks/ with two pairs."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("coffee", "rocket"):
        image = getattr(skimage.data, name)()[:80, :100]
        PIL.Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
        PIL.Image.fromarray(HOLE).save(tmp_path / "masks" / f"{name}.bmp")
    return tmp_path


def flags(files, image="images/coffee.png", mask="masks/coffee.bmp", output="out.png"):
    masks = [] if mask is None else [f"--mask={files / mask}"]
    return [f"--image={files / image}", *masks, f"--output={files / output}"]


@pytest.fixture
def whiten(files, monkeypatch, capsys):
    """Completes in this process, with a stand-in for the network; returns what stderr got."""
    monkeypatch.setattr(Completer, "load", lambda *_, **__: Whitener())

    def whiten(*more, **paths):
        parser = cli.ArgumentParser("complete", "What it does.")
        command.add_arguments(parser)
        arguments = parser.parse_args(["--checkpoint=none", *flags(files, **paths), *more])
        try:
            command.main(arguments)
        except SystemExit as end:
            assert end.code == 1
        return capsys.readouterr().err

    return whiten


def pixels(path):
    with PIL.Image.open(path) as image:
        return np.array(image)


def changed(files, output="out.png", image="images/coffee.png"):
    """Where a completion is white; all other pixels must be the image's."""
    before, after = pixels(files / image), pixels(files / output)
    white = (after == 255).all(axis=-1)
    np.testing.assert_array_equal(after[~white], before[~white])
    return white


def names_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_one_image(finished_run, files):
    arguments = [f"--checkpoint={finished_run[0]}", *flags(files)]
    result = run("glinpaint_jax", "complete", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    before, after = pixels(files / "images" / "coffee.png"), pixels(files / "out.png")
    assert (before[HOLE] != after[HOLE]).any()
    np.testing.assert_array_equal(after[~HOLE], before[~HOLE])


def test_it_runs_without_the_modules_that_windows_lacks(files):
    code = (
        "import sys; sys.modules |= dict.fromkeys(['fcntl', 'grp', 'pwd', 'resource', 'termios'])\n"
        "from glinpaint_jax.__main__ import main; main()"
    )
    arguments = ["complete", "--method=telea", *flags(files)]
    result = execute([sys.executable, "-c", code, *arguments])
    assert result.returncode == 0, result.stderr
    assert (pixels(files / "out.png") != pixels(files / "images" / "coffee.png")).any()


def test_without_a_checkpoint_the_small_network_fills_and_is_named(files):
    result = run_here("complete", *flags(files))
    assert result.stderr == (
        "no --checkpoint: using 'small', a small network that comes with glinpaint_jax; for large "
        "holes, pass --checkpoint places\n"
    )
    expected = Completer()(pixels(files / "images" / "coffee.png"), HOLE)
    np.testing.assert_array_equal(pixels(files / "out.png"), expected)
    both = run_here("complete", *flags(files, output="b.png"), "--checkpoint=x", "--method=smooth")
    assert_rejected(both, "pass either --checkpoint or --method")


def test_flags_are_those_of_the_completer(files):
    source = pixels(files / "images" / "coffee.png")
    for tile, scale, kind in ((16, 1, "none"), (512, 0.5, "poisson")):
        more = f"--tile={tile}", f"--scale={scale}", f"--blend={kind}"
        paths = flags(files, output=f"{kind}.png")
        result = run_here("complete", "--checkpoint=small", *paths, *more)
        assert (result.returncode, result.stderr) == (0, "")
        expected = Completer.load("small", tile, kind, scale)(source, HOLE)
        np.testing.assert_array_equal(pixels(files / f"{kind}.png"), expected)
    assert (expected != pixels(files / "none.png")).any()


def test_folders_skip_and_report_broken_images(whiten, files, capsys):
    for name in ("text.jpg", "empty.jpg", "phone.HEIC", "notes.txt", "._coffee.png"):
        (files / "images" / name).write_bytes(b"\0\0\0\x18ftypheic" * (name == "phone.HEIC"))
    PIL.Image.new("L", (100, 80)).save(files / "masks" / "text.png")
    PIL.Image.new("L", (50, 50), 255).save(files / "masks" / "rocket.bmp")
    lines = whiten(image="images", mask="masks", output="out").splitlines()
    assert len(lines) == 4 and all(line.startswith(f"error: {files}/images/") for line in lines)
    assert lines[0].endswith(
        "phone.HEIC is HEIC, must be JPEG, PNG, WebP, TIFF or BMP; save it as JPEG or PNG first"
    )
    assert f"empty.jpg: no mask named empty.* or empty_mask*.* in {files}/masks" in lines[1]
    assert "rocket.png is 100x80" in lines[2] and "text.jpg is not an image" in lines[3]
    assert names_in(files / "out") == ["coffee.png"]


def test_an_empty_mask_copies_the_file_and_says_so(whiten, files):
    PIL.Image.new("L", (10, 8)).save(files / "black.png")
    said = whiten("--resize-mask", mask="black.png")
    assert said.startswith(f"warning: {files}/black.png: there is no hole")
    assert said.count("\n") == 1
    assert (files / "out.png").read_bytes() == (files / "images" / "coffee.png").read_bytes()


def test_masks_can_be_inverted_and_dilated(whiten, files):
    PIL.Image.fromarray(~HOLE).save(files / "inverted.png")
    assert whiten(mask="inverted.png", output="a.png") == (
        f"warning: {files}/inverted.png: the hole covers 92% of the image; is the mask inverted? "
        "If so, pass --invert-mask.\n"
    )
    assert whiten("--invert-mask", mask="inverted.png") == ""
    np.testing.assert_array_equal(changed(files), HOLE)
    assert whiten("--dilate-mask=3", output="b.png") == ""
    np.testing.assert_array_equal(changed(files, "b.png"), dilation(HOLE, disk(3)))


def test_alpha_as_mask(whiten, files):
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    image = np.dstack([pixels(files / "images" / "coffee.png"), alpha])
    PIL.Image.fromarray(image).save(files / "cut.png")
    with pytest.raises(UserError, match="--mask-from alpha"):
        whiten(image="cut.png", mask="cut.png")
    assert whiten("--mask-from=alpha", image="cut.png", mask=None) == ""
    np.testing.assert_array_equal(changed(files), HOLE)
    with pytest.raises(UserError, match=r"coffee\.png has no alpha"):
        whiten("--mask-from=alpha", mask=None, output="b.png")


@pytest.mark.parametrize(
    ("images", "masks", "written", "errors"),
    [
        (
            "a.png b_crop000.png a_mask001.bmp a_mask002.bmp b_crop000_mask000.bmp v_mask.png",
            None,
            ["a_mask001.png", "a_mask002.png", "b_crop000_mask000.png"],
            ["v_mask.png: no mask named v_mask_mask*.*"],  # a photograph
        ),
        (
            "a.png a_mask.png b.png",
            "a.bmp a_mask.bmp b_mask001.bmp",
            ["a.png", "a_mask.png", "b_mask001.png"],
            [],
        ),
        (
            "a.png a_mask001.png a_mask001.bmp",
            None,
            ["a_mask001.png"],
            ["a_mask001.png has the output of "],
        ),
        # Images are not their own masks.
        ("a.png b.png", None, [], ["a.png: no mask named a_mask*.* in ", "b.png: no mask named"]),
    ],
    ids=["one folder", "two folders", "same output", "no masks"],
)
def test_lamas_names(images, masks, written, errors, whiten, files):
    for folder, names in (("lama", images), ("other", masks or "")):
        (files / folder).mkdir()
        for name in names.split():
            source = "masks/coffee.bmp" if name.endswith("bmp") else "images/coffee.png"
            shutil.copy(files / source, files / folder / name)
    said = whiten("--overwrite", image="lama", mask="other" if masks else "lama", output="out")
    assert names_in(files / "out") == written
    for name in written:
        np.testing.assert_array_equal(changed(files, f"out/{name}"), HOLE)
    for line, text in zip(said.splitlines(), errors, strict=True):
        assert line.startswith(f"error: {files}/lama/{text}")


def test_new_folders_are_made(whiten, files):
    assert whiten(output="new/folder/x.png") == ""
    assert (files / "new" / "folder" / "x.png").exists()
    (files / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png is not an image"):
        whiten(image="text.png", output="other/x.png")
    assert not (files / "other").exists()


COFFEE, MASK = "images/coffee.png", "masks/coffee.bmp"


@pytest.mark.parametrize(
    ("image", "mask", "output", "more", "expected"),
    [
        (COFFEE, MASK, "images/coffee.png", "--overwrite", "never"),
        (COFFEE, MASK, "images/rocket.png", None, "--overwrite"),
        (COFFEE, "masks/none.bmp", "out.png", None, "masks/none.bmp"),
        (COFFEE, "masks", "out.png", None, "both must be the same"),
        (COFFEE, None, "out.png", None, "--mask-from alpha"),
        (LONG, MASK, "out.png", None, LONG),
        (COFFEE, LONG, "out.png", None, LONG),
        (COFFEE, MASK, LONG, None, "too long"),
        (COFFEE, MASK, "out.png", "--mask-from=alpha", "pass either"),
        (COFFEE, MASK, "out.jpg", "--quality=101", "'101' is not a whole number in 1..100"),
        (COFFEE, MASK, "out.jpg", "--blend=no", "telea-poisson"),
        (COFFEE, MASK, "out.jpg", "--dilate-mask=-1", "'-1' is not a whole number"),
        (COFFEE, COFFEE, "out.png", None, "photograph itself"),
        # Found before the weights are loaded:
        (COFFEE, MASK, "out.gif", None, ".webp"),
        (COFFEE, MASK, "new/folder", None, "must end in"),
        (COFFEE, MASK, "busy", None, "busy/coffee.png is a folder"),
        ("images", "masks", "images/coffee.png", None, "Not a directory"),
        (COFFEE, MASK, "masks/coffee.bmp/a.png", None, "Not a directory"),
        (COFFEE, MASK, "locked/new/a.png", None, "Permission denied"),
        ("images", "masks", "locked", None, "Permission denied"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_rejected(image, mask, output, more, expected, whiten, files, monkeypatch):
    (files / "busy" / "coffee.png").mkdir(parents=True)
    (files / "locked").mkdir()
    make = tempfile.TemporaryFile

    def make_unless_locked(dir):
        if dir.name == "locked":  # root may write anywhere
            raise PermissionError(13, "Permission denied")
        return make(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", make_unless_locked)
    if expected in ("Not a directory", "Permission denied", "must end in", ".webp"):
        monkeypatch.delattr(Completer, "load")
    before = {path: path.is_file() and path.read_bytes() for path in files.rglob("*")}
    with pytest.raises(UserError, match=re.escape(expected)) as error:
        whiten(*filter(None, [more]), image=image, mask=mask, output=output)
    assert "\n" not in str(error.value)
    assert {path: path.is_file() and path.read_bytes() for path in files.rglob("*")} == before


def test_formats_are_checked_before_completing(whiten, files, monkeypatch):
    PIL.Image.new("RGBA", (100, 80), 9).save(files / "in.png")
    monkeypatch.delattr(Whitener, "fill")
    with pytest.raises(UserError, match="JPEG cannot store the image's alpha; write a PNG"):
        whiten(image="in.png", output="out.jpg")


def test_a_missing_checkpoint_is_rejected(files):
    paths = flags(files, "images", "masks", "out")
    assert_rejected(run_here("complete", f"--checkpoint={files}", *paths), "no checkpoint in")
    assert not (files / "out").exists()
