"""The complete command: files, folders, masks, rejected input."""

import os
import re
import shutil
import sys

import numpy as np
import PIL.Image
import pytest
import skimage.data

from glinpaint_jax.commands import cli
from glinpaint_jax.commands import complete as command
from glinpaint_jax.data.mask_files import dilate_hole
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.completer import Completer
from tests.helpers.completers import Whitener
from tests.helpers.programs import execute, run_here

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


COFFEE, MASK = "images/coffee.png", "masks/coffee.bmp"


def flags(files, image=COFFEE, mask=MASK, output="out.png"):
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


def changed(files, output="out.png"):
    """Where a completion is white; all other pixels must be the photograph's."""
    before, after = pixels(files / COFFEE), pixels(files / output)
    white = (after == 255).all(axis=-1)
    np.testing.assert_array_equal(after[~white], before[~white])
    return white


def test_without_a_checkpoint_the_method_is_named(files):
    """As a program, without the modules that Windows lacks."""
    code = (
        "import sys; sys.modules |= dict.fromkeys(['fcntl', 'grp', 'pwd', 'resource', 'termios'])\n"
        "from glinpaint_jax.__main__ import main; main()"
    )
    result = execute([sys.executable, "-c", code, "complete", *flags(files)])
    assert (result.returncode, result.stdout) == (0, f"1 of 1 images completed: {files}/out.png\n")
    assert result.stderr.endswith(  # after a warning of filelock, which misses fcntl
        "no --checkpoint: filling holes with patches of the photograph (--method auto); --attempt "
        "1 to 4 give other results\n"
    )
    expected = Completer()(pixels(files / COFFEE), HOLE)
    np.testing.assert_array_equal(pixels(files / "out.png"), expected)


def test_flags_are_those_of_the_completer(files):
    source = pixels(files / COFFEE)
    for tile, scale, kind in ((16, 1, "none"), (512, 0.5, "telea-poisson")):
        more = f"--tile={tile}", f"--scale={scale}", f"--blend={kind}"
        paths = flags(files, output=f"{kind}.png")
        result = run_here("complete", "--checkpoint=small", *paths, *more)
        assert (result.returncode, result.stderr) == (0, "")
        expected = Completer(None, tile, kind, scale, "network")(source, HOLE)
        np.testing.assert_array_equal(pixels(files / f"{kind}.png"), expected)
    result = run_here("complete", "--attempt=2", *flags(files, output="second.png"))
    second = Completer(attempt=2)(source, HOLE)
    np.testing.assert_array_equal(pixels(files / "second.png"), second)
    assert (expected != pixels(files / "none.png")).any()
    PIL.Image.fromarray(np.pad(np.ones((70, 90), bool), 5)).save(files / "large.png")
    large = flags(files, mask="large.png", output="large_filled.png")
    result = run_here("complete", "--method=network", *large)
    assert "large_filled.png: a hole is about" in result.stderr


def test_folders_skip_and_report_broken_images(whiten, files, capsys):
    for name in ("text.jpg", "empty.jpg", "phone.HEIC", "notes.txt", "._coffee.png"):
        (files / "images" / name).write_bytes(b"\0\0\0\x18ftypheic" * (name == "phone.HEIC"))
    PIL.Image.new("L", (100, 80)).save(files / "masks" / "text.png")
    PIL.Image.new("L", (50, 50), 255).save(files / "masks" / "rocket.bmp")
    lines = whiten(image="images", mask="masks", output="out").splitlines()
    assert lines.pop(0) == f"left out of {files}/images: 0 folders, 1 files that are not images"
    assert len(lines) == 4 and all(line.startswith(f"error: {files}/images/") for line in lines)
    assert lines[0].endswith(
        "phone.HEIC is HEIC, must be JPEG, PNG, WebP, TIFF or BMP; save it as JPEG or PNG first"
    )
    assert f"empty.jpg: no mask named empty.* or empty_mask*.* in {files}/masks" in lines[1]
    assert "rocket.png is 100x80" in lines[2] and "text.jpg is not an image" in lines[3]
    assert [path.name for path in (files / "out").iterdir()] == ["coffee.png"]


def test_an_interrupted_folder_goes_on(whiten, files, monkeypatch, capsys):
    (files / "out").mkdir()
    (files / "out" / "coffee.png").write_bytes(b"of an earlier run")
    os.mkfifo(files / "images" / "pipe.png")
    monkeypatch.setattr(command, "SECONDS_PER_LINE", 0)
    said = whiten("--skip-existing", image="images", mask="masks", output="out")
    assert said.splitlines()[-1] == "0 of 1 images" and "1 files that are not images" in said
    assert (files / "out" / "coffee.png").read_bytes() == b"of an earlier run"
    assert (pixels(files / "out" / "rocket.png")[HOLE] == 255).all()
    assert whiten("--skip-existing", image="images", mask="masks", output="out").count("\n") == 1


def test_an_empty_mask_copies_the_file_and_says_so(whiten, files):
    PIL.Image.new("L", (10, 8)).save(files / "black.png")
    said = whiten("--resize-mask", mask="black.png")
    assert said.startswith(f"warning: {files}/black.png: there is no hole")
    assert said.count("\n") == 1
    assert (files / "out.png").read_bytes() == (files / COFFEE).read_bytes()


def test_masks_can_be_inverted_and_dilated_and_be_the_alpha(whiten, files):
    source = pixels(files / COFFEE)
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    PIL.Image.fromarray(np.dstack([source, alpha])).save(files / "cut.png")
    PIL.Image.fromarray(~HOLE).save(files / "inverted.png")
    for flag, paths, expected in (
        ("--invert-mask", {"mask": "inverted.png"}, HOLE),
        ("--dilate-mask=3", {}, dilate_hole(HOLE, 3)),
        ("--mask-from=alpha", {"mask": None, "image": "cut.png"}, HOLE),
    ):
        assert whiten(flag, "--overwrite", output="new/folder/a.png", **paths) == ""
        np.testing.assert_array_equal(changed(files, "new/folder/a.png"), expected)
    assert whiten(mask="inverted.png") == (
        f"warning: {files}/inverted.png: the hole covers 92% of the image; is the mask inverted? "
        "If so, pass --invert-mask.\n"
    )


@pytest.mark.parametrize(
    ("images", "masks", "written", "errors"),
    [
        (
            "a.png a_masked.png a_mask001.bmp a_mask002.bmp a_masked_mask.bmp v_mask.png",
            None,
            ["a_mask001.png", "a_mask002.png", "a_masked_mask.png"],
            ["v_mask.png: no mask named v_mask_mask*.*"],  # a photograph
        ),
        (
            "a.png a_mask.png b.png caf\u00e9.png",
            "a.bmp a_mask.bmp b_mask001.bmp cafe\u0301.bmp",  # as macOS writes it
            ["a.png", "a_mask.png", "b_mask001.png", "cafe\u0301.png"],
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
            source = MASK if name.endswith("bmp") else COFFEE
            shutil.copy(files / source, files / folder / name)
    said = whiten("--overwrite", image="lama", mask="other" if masks else "lama", output="out")
    assert sorted(path.name for path in files.glob("out/*")) == written
    for name in written:
        np.testing.assert_array_equal(changed(files, f"out/{name}"), HOLE)
    for line, text in zip(said.splitlines(), errors, strict=True):
        assert line.startswith(f"error: {files}/lama/{text}")


@pytest.mark.parametrize(
    ("image", "mask", "output", "more", "expected"),
    [
        (COFFEE, MASK, "images/coffee.png", "--overwrite", "never"),
        (COFFEE, MASK, "images/rocket.png", None, "--overwrite"),
        (COFFEE, "masks/none.bmp", "out.png", None, "masks/none.bmp"),
        (COFFEE, "masks", "out.png", None, "both must be the same"),
        (COFFEE, None, "out.png", None, "--mask-from alpha"),
        (LONG, MASK, "out.png", None, LONG),
        (COFFEE, MASK, LONG, None, "too long"),
        (COFFEE, MASK, "out.png", "--mask-from=alpha", "pass either"),
        (COFFEE, MASK, "out.jpg", "--quality=101", "'101' is not a whole number in 1..100"),
        (COFFEE, MASK, "out.png", "--method=smooth", "pass either --checkpoint or --method"),
        (COFFEE, COFFEE, "out.png", None, "photograph itself"),
        ("text.png", MASK, "new/folder/a.png", None, "text.png is not an image"),
        # Found before the weights are loaded:
        (COFFEE, MASK, "out.gif", None, ".webp"),
        (COFFEE, MASK, "new/folder", None, "must end in"),
        (COFFEE, MASK, "busy", None, "busy/coffee.png is a folder"),
        ("images", "masks", "images/coffee.png", None, "Not a directory"),
        (COFFEE, MASK, "/proc/new/a.png", None, "cannot write /proc"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_rejected(image, mask, output, more, expected, whiten, files, monkeypatch):
    (files / "busy" / "coffee.png").mkdir(parents=True)
    (files / "text.png").write_text("no image")
    if expected in ("Not a directory", "cannot write /proc", "must end in", ".webp"):
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
