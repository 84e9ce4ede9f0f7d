"""complete: files, folders, masks, rejected input. With a network, it runs as a program."""

import re
import shutil
import sys
import tempfile

import numpy as np
import PIL.Image
import pytest
import skimage.data

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
    """images/ and masks/ with three pairs."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("coffee", "chelsea", "rocket"):
        image = getattr(skimage.data, name)()[:80, :100]
        PIL.Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
        PIL.Image.fromarray(255 * HOLE.view(np.uint8)).save(tmp_path / "masks" / f"{name}.bmp")
    return tmp_path


def complete(finished_run, image, mask, output, *more):
    masks = [] if mask is None else [f"--mask={mask}"]
    arguments = [f"--checkpoint={finished_run[0]}", f"--image={image}", *masks]
    return run_here("complete", *arguments, f"--output={output}", *more)


@pytest.fixture
def whiten(monkeypatch, capsys):
    """Completes in this process, with a stand-in for the network; returns what stderr got."""
    monkeypatch.setattr(Completer, "load", lambda *_, **__: Whitener())

    def whiten(image, mask, output, *more):
        parser = cli.ArgumentParser("complete", "What it does.")
        command.add_arguments(parser)
        masks = [] if mask is None else [f"--mask={mask}"]
        paths = [f"--image={image}", *masks, f"--output={output}"]
        command.main(parser.parse_args(["--checkpoint=none", *paths, *more]))
        return capsys.readouterr().err

    return whiten


def pixels(path):
    with PIL.Image.open(path) as image:
        return np.array(image)


def test_one_image(finished_run, files):
    source, output = files / "images" / "coffee.png", files / "out.png"
    mask, workdir = files / "masks" / "coffee.bmp", finished_run[0]
    flags = [f"--checkpoint={workdir}", f"--image={source}", f"--mask={mask}", f"--output={output}"]
    result = run("glinpaint_jax", "complete", *flags)
    assert (result.returncode, result.stderr) == (0, "")
    before, after = pixels(source), pixels(output)
    assert (before[HOLE] != after[HOLE]).any()
    np.testing.assert_array_equal(after[~HOLE], before[~HOLE])


def test_it_runs_without_the_modules_that_windows_lacks(files):
    code = (
        "import sys; sys.modules |= dict.fromkeys(['fcntl', 'grp', 'pwd', 'resource', 'termios'])\n"
        "from glinpaint_jax.__main__ import main; main()"
    )
    names = {"image": "images/coffee.png", "mask": "masks/coffee.bmp", "output": "out.png"}
    paths = [f"--{flag}={files / name}" for flag, name in names.items()]
    result = execute([sys.executable, "-c", code, "complete", "--method=telea", *paths])
    assert result.returncode == 0, result.stderr
    assert (pixels(files / "out.png") != pixels(files / "images" / "coffee.png")).any()


def test_without_a_checkpoint_the_small_network_fills_and_is_named(files, capsys):
    source, output = files / "images" / "coffee.png", files / "out.png"
    parser = cli.ArgumentParser("complete", "What it does.")
    command.add_arguments(parser)
    mask = files / "masks" / "coffee.bmp"
    paths = [f"--image={source}", f"--mask={mask}", f"--output={output}"]
    command.main(parser.parse_args(paths))
    assert capsys.readouterr().err == (
        "no --checkpoint: using 'small', a small network that comes with glinpaint_jax; for large "
        "holes, pass --checkpoint places\n"
    )
    np.testing.assert_array_equal(pixels(output), Completer()(pixels(source), pixels(mask) > 127))
    with pytest.raises(UserError, match="pass either --checkpoint or --method"):
        arguments = [*paths, "--overwrite", "--checkpoint=x", "--method=smooth"]
        command.main(parser.parse_args(arguments))


def test_flags_are_those_of_the_completer(files):
    source, mask = files / "images" / "coffee.png", files / "masks" / "coffee.bmp"
    for number, (tile, scale, kind) in enumerate(((16, 1, "none"), (512, 0.5, "poisson"))):
        flags = f"--tile={tile}", f"--scale={scale}", f"--blend={kind}"
        paths = f"--image={source}", f"--mask={mask}", f"--output={files}/{number}.png"
        result = run_here("complete", "--checkpoint=small", *paths, *flags)
        assert (result.returncode, result.stderr) == (0, "")
        completer = Completer.load("small", tile, kind, scale)
        expected = completer(pixels(source), HOLE)
        np.testing.assert_array_equal(pixels(files / f"{number}.png"), expected)
    assert (expected != pixels(files / "0.png")).any()


def test_folders_skip_and_report_broken_images(finished_run, files):
    (files / "images" / "text.jpg").write_text("no image")
    (files / "images" / "empty.jpg").touch()
    for name in ("notes.txt", "._coffee.png"):
        (files / "images" / name).write_text("not looked at")
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


def test_an_empty_mask_copies_the_file_and_says_so(whiten, files):
    PIL.Image.new("L", (10, 8)).save(files / "black.png")
    source, output = files / "images" / "coffee.png", files / "out.png"
    said = whiten(source, files / "black.png", output, "--resize-mask")
    assert (
        said.startswith(f"warning: {files}/black.png: there is no hole") and said.count("\n") == 1
    )
    assert output.read_bytes() == source.read_bytes()


def changed(files, output, image="coffee"):
    """Where a completion is white; all other pixels must be the image's."""
    before, after = pixels(files / "images" / f"{image}.png"), pixels(output)
    white = (after == 255).all(axis=-1)
    np.testing.assert_array_equal(after[~white], before[~white])
    return white


def test_masks_can_be_inverted_and_dilated(whiten, files):
    source, mask = files / "images" / "coffee.png", files / "masks" / "coffee.bmp"
    inverted = files / "inverted.png"
    PIL.Image.fromarray(~HOLE).save(inverted)
    said = whiten(source, inverted, files / "a.png")
    assert said == (
        f"warning: {inverted}: the hole covers 92% of the image; is the mask inverted? If so, pass "
        "--invert-mask.\n"
    )
    assert whiten(source, inverted, files / "b.png", "--invert-mask") == ""
    np.testing.assert_array_equal(changed(files, files / "b.png"), HOLE)

    assert whiten(source, mask, files / "c.png", "--dilate-mask=3") == ""
    grown = changed(files, files / "c.png")
    assert grown[17:43, 30:60].all() and grown[20:40, 27:63].all() and not grown[17, 27]
    assert grown.sum() < 26 * 36


def test_alpha_as_mask(whiten, files):
    image = pixels(files / "images" / "coffee.png")
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    PIL.Image.fromarray(np.dstack([image, alpha])).save(files / "cut.png")
    for mask in (files / "cut.png", files / "images" / "coffee.png"):
        with pytest.raises(UserError, match=r"--mask-from alpha|photograph itself"):
            whiten(files / "cut.png", mask, files / "out.jpg")
    assert whiten(files / "cut.png", None, files / "out.png", "--mask-from=alpha") == ""
    assert pixels(files / "out.png").shape == (80, 100, 3)
    np.testing.assert_array_equal(changed(files, files / "out.png"), alpha == 0)
    with pytest.raises(UserError, match=r"coffee\.png has no alpha"):
        whiten(files / "images" / "coffee.png", None, files / "b.png", "--mask-from=alpha")


def test_lamas_names_in_one_folder(whiten, files):
    folder = files / "lama"
    folder.mkdir()
    shutil.copy(files / "images" / "coffee.png", folder / "a.png")
    shutil.copy(files / "images" / "chelsea.png", folder / "b_crop000.png")
    shutil.copy(files / "images" / "rocket.png", folder / "venetian_mask.png")  # a photograph
    for name in ("a_mask001", "a_mask002", "b_crop000_mask000"):
        shutil.copy(files / "masks" / "coffee.bmp", folder / f"{name}.bmp")
    with pytest.raises(SystemExit):
        whiten(folder, folder, files / "out")
    written = sorted(path.name for path in (files / "out").iterdir())
    assert written == ["a_mask001.png", "a_mask002.png", "b_crop000_mask000.png"]
    assert (changed(files, files / "out" / "a_mask001.png") >= HOLE).all()
    assert (changed(files, files / "out" / "b_crop000_mask000.png", "chelsea") >= HOLE).all()


def test_lamas_names_in_two_folders(whiten, files, capsys):
    (files / "masks" / "coffee.bmp").rename(files / "masks" / "coffee_mask001.bmp")
    (files / "images" / "rocket.png").rename(files / "images" / "chelsea_mask.png")
    (files / "masks" / "rocket.bmp").rename(files / "masks" / "chelsea_mask.bmp")
    assert whiten(files / "images", files / "masks", files / "out") == ""
    assert sorted(path.name for path in (files / "out").iterdir()) == [
        "chelsea.png",
        "chelsea_mask.png",
        "coffee_mask001.png",
    ]


def test_masks_that_would_share_an_output_are_reported(whiten, files, capsys):
    folder = files / "lama"
    folder.mkdir()
    shutil.copy(files / "images" / "coffee.png", folder / "a.png")
    PIL.Image.new("L", (100, 80), 255).save(folder / "a_mask001.png")
    shutil.copy(files / "masks" / "coffee.bmp", folder / "a_mask001.bmp")
    with pytest.raises(SystemExit):
        whiten(folder, folder, files / "out", "--overwrite")
    assert capsys.readouterr().err == (
        f"error: {folder}/a_mask001.png has the output of {folder}/a_mask001.bmp; rename one of "
        "them\n"
    )
    np.testing.assert_array_equal(changed(files, files / "out" / "a_mask001.png"), HOLE)


def test_a_folder_without_masks_is_rejected(whiten, files, capsys):
    """Images are not their own masks."""
    with pytest.raises(SystemExit):
        whiten(files / "images", files / "images", files / "out")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and f"no mask named coffee_mask*.* in {files}/images" in lines[1]


def test_unsupported_photographs_in_a_folder_are_reported(whiten, files, capsys):
    (files / "images" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(SystemExit):
        whiten(files / "images", files / "masks", files / "out")
    assert capsys.readouterr().err == (
        f"error: {files}/images/phone.HEIC is HEIC, must be JPEG, PNG, WebP, TIFF or BMP; "
        "save it as JPEG or PNG first\n"
    )
    assert len(list((files / "out").iterdir())) == 3


def test_new_folders_are_made(whiten, files):
    source, mask = files / "images" / "coffee.png", files / "masks" / "coffee.bmp"
    assert whiten(source, mask, files / "new" / "folder" / "x.png") == ""
    assert (files / "new" / "folder" / "x.png").exists()
    (files / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png is not an image"):
        whiten(files / "text.png", mask, files / "other" / "x.png")
    assert not (files / "other").exists()


@pytest.mark.parametrize(
    ("image", "mask", "output", "more", "expected"),
    [
        ("images/coffee.png", "masks/coffee.bmp", "images/coffee.png", ["--overwrite"], "never"),
        ("images/coffee.png", "masks/coffee.bmp", "images/rocket.png", [], "--overwrite"),
        ("images/coffee.png", "masks/none.bmp", "out.png", [], "masks/none.bmp"),
        ("images/coffee.png", "masks", "out.png", [], "both must be the same"),
        ("images/coffee.png", None, "out.png", [], "--mask-from alpha"),
        (LONG, "masks/coffee.bmp", "out.png", [], LONG),
        ("images/coffee.png", LONG, "out.png", [], LONG),
        ("images/coffee.png", "masks/coffee.bmp", LONG, [], "too long"),
        ("images/coffee.png", "masks/coffee.bmp", "o.png", ["--mask-from=alpha"], "pass either"),
        ("images/coffee.png", "masks/coffee.bmp", "out.jpg", ["--quality=0"], "1..100"),
        ("images/coffee.png", "masks/coffee.bmp", "out.jpg", ["--blend=no"], "telea-poisson"),
        ("images/coffee.png", "masks/coffee.bmp", "out.jpg", ["--dilate-mask=-1"], "at least 0"),
        ("images/coffee.png", "images/coffee.png", "out.png", [], "photograph itself"),
        # Found before the weights are loaded:
        ("images/coffee.png", "masks/coffee.bmp", "out.gif", [], ".webp"),
        ("images/coffee.png", "masks/coffee.bmp", "new/folder", [], "must end in"),
        ("images/coffee.png", "masks/coffee.bmp", "busy", [], "busy/coffee.png is a folder"),
        ("images", "masks", "images/coffee.png", [], "Not a directory"),
        ("images/coffee.png", "masks/coffee.bmp", "masks/coffee.bmp/a.png", [], "Not a directory"),
        ("images/coffee.png", "masks/coffee.bmp", "locked/new/a.png", [], "Permission denied"),
        ("images", "masks", "locked", [], "Permission denied"),
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
    mask = mask and files / mask
    with pytest.raises(UserError, match=re.escape(expected)) as error:
        whiten(files / image, mask, files / output, *more)
    assert "\n" not in str(error.value)
    assert {path: path.is_file() and path.read_bytes() for path in files.rglob("*")} == before


def test_formats_are_checked_before_completing(whiten, files, monkeypatch):
    PIL.Image.new("RGBA", (30, 20), 9).save(files / "in.png")
    PIL.Image.fromarray(np.eye(20, 30) > 0).save(files / "m.png")
    monkeypatch.delattr(Whitener, "fill")
    with pytest.raises(UserError, match="JPEG cannot store the image's alpha; write a PNG"):
        whiten(files / "in.png", files / "m.png", files / "out.jpg")


def test_a_missing_checkpoint_is_rejected(files):
    result = complete([files], files / "images", files / "masks", files / "out")
    assert_rejected(result, "no checkpoint in")
    assert not (files / "out").exists()
