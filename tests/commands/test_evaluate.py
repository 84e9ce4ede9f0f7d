"""The evaluate command, in this process: scores, pictures and what it refuses to overwrite."""

import json

import cv2
import numpy as np
import pytest

from glinpaint_jax.commands import cli, evaluate
from glinpaint_jax.errors import UserError
from glinpaint_jax.evaluation import evaluate as module
from glinpaint_jax.interop.weight_files import safetensors_bytes
from tests.helpers.configs import make_small_config
from tests.helpers.networks import make_weights

TRAINED_FILL = (9.0, 8.0, 7.0)


@pytest.fixture(scope="module")
def content():
    config = make_small_config()
    config.mask.fill = TRAINED_FILL
    return safetensors_bytes(make_weights(config))


@pytest.fixture
def folder(content, tmp_path, monkeypatch):
    """Weights, and data in the layout of Places365."""
    (tmp_path / "a.safetensors").write_bytes(content)
    monkeypatch.setattr(cli, "start", lambda _: None)  # jax has started
    rng = np.random.default_rng(0)
    for part, count in (("data_large", 3), ("val_large", 11)):
        (tmp_path / "data" / part / "a b").mkdir(parents=True)
        for number in range(count):
            image = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (100, 120))
            cv2.imwrite(str(tmp_path / "data" / part / "a b" / f"Val {number}.png"), image)
    return tmp_path


def run(folder, *arguments, weights="--checkpoint={}/a.safetensors"):
    parser = cli.ArgumentParser("program", evaluate.__doc__)
    evaluate.add_arguments(parser)
    own = [weights.format(folder), f"--config.data.source=folder:{folder}/data"]
    evaluate.main(parser.parse_args([*own, *arguments]))


def test_scores_are_printed_and_written_and_agree_with_the_pictures(folder, capsys):
    output, scores = folder / "pictures", folder / "scores.json"
    run(folder, f"--output={output}", f"--json={scores}", "--limit=9")
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:5] == ["val", "l1", "%", "PSNR", "SSIM"]
    assert len(first) == len(second)
    ((method, ours),) = json.loads(scores.read_text())["scores"]["val"].items()
    assert second.split("  ")[1] == method == "model, step 7"
    assert second.split()[3:] == [f"{ours[name]:.3f}" for name in evaluate.HEADINGS]

    # 9 of 11, evenly spaced; a name is a number and the image's own.
    paths = sorted((output / "val").iterdir())
    assert [path.name for path in paths][:2] == ["000000_Val_0.png", "000001_Val_1.png"]
    assert len(paths) == 9
    l1, psnr = [], []
    for path in paths:
        masked, completed, image = np.split(cv2.imread(str(path)).astype(np.float64), 3, axis=1)
        assert image.shape == (32, 32, 3)
        hole = (masked == 255).all(-1) & (image != 255).any(-1)
        assert 12**2 <= hole.sum() <= 16**2
        np.testing.assert_array_equal(masked[~hole], image[~hole])
        np.testing.assert_array_equal(completed[~hole], image[~hole])
        l1.append(100 / 255 * np.abs(completed - image)[hole].mean())
        psnr.append(10 * np.log10(255**2 / np.square(completed - image).mean()))
    assert ours["l1"] == pytest.approx(np.mean(l1), rel=0.01)  # the pictures are rounded
    assert ours["psnr"] == pytest.approx(np.mean(psnr), rel=0.01)


def test_an_unusable_image_has_no_picture(folder, capsys):
    """Another image replaces it in the scores."""
    (folder / "data" / "val_large" / "a b" / "Val 1.png").write_bytes(b"broken")
    run(folder, f"--output={folder}/pictures")
    assert "Val 1.png" in capsys.readouterr().err
    names = [path.name for path in sorted((folder / "pictures" / "val").iterdir())]
    assert len(names) == 9 and "000001_Val_1.png" not in names  # of 10


@pytest.mark.parametrize("name", ["pictures", "pictures/file"])
def test_pictures_overwrite_nothing(name, folder):
    precious = folder / name
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    with pytest.raises(UserError, match=r"--output=.* exists and is not empty; choose another"):
        run(folder, f"--output={folder}/pictures")
    assert precious.read_text() == "precious"


@pytest.mark.parametrize(
    ("flag", "expected"), [("--config=demo", TRAINED_FILL), ("--config.mask.fill=1,2,3", (1, 2, 3))]
)
def test_holes_have_the_color_the_network_was_trained_with(flag, expected, folder, monkeypatch):
    def note_fill(_, fill, mesh):
        used.append(fill)
        raise UserError("enough")

    used = []
    monkeypatch.setattr(module, "make_generator_completion", note_fill)
    with pytest.raises(UserError, match="enough"):
        run(folder, flag)
    assert used == [expected]


def test_several_checkpoints_and_masks_are_rows_and_blocks_of_one_table(folder, content, capsys):
    (folder / "b.safetensors").write_bytes(content)
    flags = "--config.eval_masks=training, thick,files:", "--limit=3", "--config.mask.max_size=12"
    (folder / "m").mkdir()
    cv2.imwrite(str(folder / "m" / "all.png"), np.full((32, 32), 255, np.uint8))
    with pytest.warns(UserWarning, match="the hole covers 100%"):
        run(folder, f"{flags[0]}{folder}/m", *flags[1:], f"--checkpoint={folder}/b.safetensors")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[::3]] == ["val training", "val thick", "val m"]
    for first, second in zip(lines[1::3], lines[2::3], strict=True):
        assert [first.split()[0], second.split()[0]] == [f"{folder}/{x}.safetensors," for x in "ab"]
        assert first.split()[1:] == second.split()[1:]  # step, l1, PSNR, SSIM
    l1 = [line.split()[3] for line in lines[1::3]]
    assert len(set(l1)) == 3


def test_json_has_no_infinity(folder, monkeypatch):
    values = {"l1": 0.0, "psnr": float("inf"), "ssim": float("nan")}
    scores = {"val": {"model": dict.fromkeys(evaluate.HEADINGS, 1.0) | values}}
    monkeypatch.setattr(evaluate, "score", lambda *_: scores)
    run(folder, f"--json={folder}/scores.json")
    text = (folder / "scores.json").read_text()
    written = json.loads(text, parse_constant=pytest.fail)["scores"]["val"]["model"]
    assert written.items() >= {"l1": 0.0, "psnr": None, "ssim": None}.items()


def evaluate_with(folder, *arguments):
    """Without a checkpoint."""
    small = "--config.image_size=64", "--config.mask.max_size=24", "--config.mask.margin=4"
    run(folder, *small, *arguments, weights="--config=demo")


def test_any_program_is_scored_on_exported_pictures(folder, capsys):
    """The program is our own command: its files score as the method itself does."""
    sets, results = folder / "set" / "val", folder / "results" / "val"
    evaluate_with(folder, f"--export={folder}/set", "--limit=5")
    assert capsys.readouterr().out == ""
    names = [sorted(path.name for path in part.iterdir()) for part in sorted(sets.iterdir())]
    assert [path.name for path in sorted(sets.iterdir())] == ["images", "masks", "originals"]
    assert names[0] == names[1] == names[2] and len(names[0]) == 5
    results.mkdir(parents=True)
    l1 = []
    for name in names[0]:
        image, mask, original = (cv2.imread(str(sets / part / name)) for part in PARTS)
        hole = mask[..., 0] == 255
        assert set(np.unique(mask)) == {0, 255} and (image[hole] == 255).all()
        np.testing.assert_array_equal(image[~hole], original[~hole])
        filled = cv2.inpaint(image, mask[..., 0], 3, cv2.INPAINT_TELEA)
        cv2.imwrite(str(results / name), filled)
        l1.append(100 * np.abs(filled.astype(float) - original)[hole].mean() / 255)
    evaluate_with(folder, f"--results={folder}/results", "--limit=5", "--method=telea")
    telea, theirs = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert telea[0] == "telea" and telea[1:] == theirs[1:]
    assert float(theirs[1]) == pytest.approx(np.mean(l1), abs=1e-3)

    cv2.imwrite(str(results / names[0][1]), filled[:10])
    with pytest.raises(UserError, match=r"0000\d\d_.*png is 64x10, must be 64x64"):
        evaluate_with(folder, f"--results={folder}/results", "--limit=5")
    (results / names[0][1]).unlink()
    with pytest.raises(UserError, match=r"no result .*/val/0000\d\d_.*; complete the pictures"):
        evaluate_with(folder, f"--results={folder}/results", "--limit=5")
    (results / names[0][1]).symlink_to("/proc/self/mem")  # fails also for root
    with pytest.raises(UserError, match=r"^cannot read .*/val/0000\d\d_.*: Input/output error$"):
        evaluate_with(folder, f"--results={folder}/results", "--limit=5")


PARTS = ("images", "masks", "originals")


@pytest.mark.parametrize("name", [".", "missing/scores.json"])
def test_scores_that_cannot_be_written_are_rejected_before_the_evaluation(name, folder):
    with pytest.raises(UserError, match=r"--json=.* must be a file in an existing folder"):
        run(folder, f"--json={folder / name}")


def test_a_name_of_two_rows_is_rejected(folder):
    for flags in ("--checkpoint=x --checkpoint=x", "--method=telea --results=./telea/"):
        with pytest.raises(UserError, match=r"^(x|telea) would name two rows; pass it once"):
            evaluate_with(folder, *flags.split())


def test_nothing_to_score_is_reported(folder):
    with pytest.raises(UserError, match="pass --checkpoint, or --config with --method, --results"):
        evaluate_with(folder)
