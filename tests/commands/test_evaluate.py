"""The evaluate command, in this process: published scores and pictures."""

import hashlib
import json

import cv2
import numpy as np
import pytest

from glinpaint_jax.commands import cli, evaluate
from glinpaint_jax.downloads import BASE_VARIABLE, OFFICIAL, locate
from glinpaint_jax.errors import UserError
from glinpaint_jax.evaluation import baselines
from glinpaint_jax.interop.weight_files import safetensors_bytes
from tests.helpers.configs import make_small_config
from tests.helpers.networks import make_weights

CONFIG = """
from tests.helpers.configs import make_small_config
def get_config():
    config = make_small_config()
    config.data.source = {source!r}
    return config
"""
ROW = "  MMagic, Places365-val    11.164   23.152    0.862"


@pytest.fixture(scope="module")
def content():
    return safetensors_bytes(make_weights(make_small_config()))


@pytest.fixture
def folder(content, tmp_path, monkeypatch):
    """Weights named `places`, their config, and data in the layout of Places365."""
    name = f"gl-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    (tmp_path / name).write_bytes(content)
    monkeypatch.setitem(OFFICIAL, "places", OFFICIAL["places"]._replace(file=name))
    monkeypatch.setenv(BASE_VARIABLE, tmp_path.as_uri())
    monkeypatch.setattr(cli, "start", lambda _: None)  # jax has started
    rng = np.random.default_rng(0)
    for part, count in (("data_large", 3), ("val_large", 11)):
        (tmp_path / "data" / part / "a b").mkdir(parents=True)
        for number in range(count):
            image = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (100, 120))
            cv2.imwrite(str(tmp_path / "data" / part / "a b" / f"Val {number}.png"), image)
    config = CONFIG.format(source=f"folder:{tmp_path}/data")
    for name in ("places.py", "mine.py"):
        (tmp_path / name).write_text(config)
    return tmp_path


def parse(*arguments):
    parser = cli.ArgumentParser("program", evaluate.__doc__)
    evaluate.add_arguments(parser)
    return parser.parse_args(list(arguments))


def run(*arguments):
    evaluate.main(parse(*arguments))


def test_the_test_command_prints_the_published_scores_and_writes_pictures(
    folder, capsys, monkeypatch
):
    monkeypatch.setattr(baselines, "BASELINES", {"biharmonic": baselines.biharmonic})
    monkeypatch.setattr(baselines, "BIHARMONIC_SIZE", 16)
    output, scores = folder / "pictures", folder / "scores.json"
    run(
        "--checkpoint=places",
        f"--config={folder}/places.py",
        f"--output={output}",
        f"--json={scores}",
        "--limit=9",
        "--config.mask.kind=rectangle",
        "--baselines",
    )
    printed = capsys.readouterr()
    assert "biharmonic is left out: images are larger than 16" in printed.err
    first, second, third = printed.out.splitlines()
    assert first.split() == ["val", "l1", "%", "PSNR", "SSIM"]
    assert third == ROW
    assert len(first) == len(second) == len(third)
    written = json.loads(scores.read_text())["scores"]["val"]
    assert list(written) == ["model, step 7", "MMagic, Places365-val"]
    ours = written["model, step 7"]
    assert second.split()[-3:] == [f"{ours[name]:.3f}" for name in ("l1", "psnr", "ssim")]

    # 9 of 11, evenly spaced; a name is a number and the image's own.
    (output / "val").rename(folder / "val")
    paths = sorted((folder / "val").iterdir())
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


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ([], True),
        (["--config.data.num_workers=1"], True),
        (["--config.mask.max_size=12"], False),
        (["--config.data.crop_size=64"], False),
        (["--config.mask.kind=free_form"], False),
        (["--config=mine.py"], False),
        (["--checkpoint=copy.safetensors"], True),
        (["--checkpoint=other.safetensors"], False),
    ],
)
def test_published_scores_are_only_shown_for_their_weights_and_config(
    changes, shown, folder, content, monkeypatch
):
    """Weights are recognized by their content."""
    monkeypatch.chdir(folder)
    (folder / "copy.safetensors").write_bytes(content)
    (folder / "other.safetensors").write_bytes(content[:-1])
    arguments = parse("--checkpoint=places", "--config=places.py", *changes)
    found = evaluate.find_published(
        locate(arguments.checkpoint), arguments.config, cli.load_config(arguments)
    )
    assert found is (OFFICIAL["places"] if shown else None)


@pytest.mark.parametrize("is_file", [True, False])
def test_pictures_overwrite_nothing(is_file, folder):
    precious = folder / "pictures" if is_file else folder / "pictures" / "file"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    with pytest.raises(UserError, match=r"--output=.* exists and is not empty; choose another"):
        run("--checkpoint=places", f"--config={folder}/places.py", f"--output={folder}/pictures")
    assert precious.read_text() == "precious"


@pytest.mark.parametrize(
    ("flags", "expected"), [([], (9, 8, 7)), (["--config.mask.fill=1,2,3"], (1, 2, 3))]
)
def test_holes_have_the_color_that_the_network_was_trained_with(
    flags, expected, folder, monkeypatch
):
    trained = make_small_config()
    trained.mask.fill = (9.0, 8.0, 7.0)
    (folder / "own.safetensors").write_bytes(safetensors_bytes(make_weights(trained)))
    used = []
    monkeypatch.setattr(
        evaluate, "score", lambda _, config, *others: used.append(config.mask.fill) or {}
    )
    run(f"--checkpoint={folder}/own.safetensors", f"--config={folder}/places.py", *flags)
    assert used == [expected]


@pytest.mark.parametrize("name", [".", "missing/scores.json"])
def test_scores_that_cannot_be_written_are_rejected_before_the_evaluation(name, folder):
    with pytest.raises(UserError, match=r"--json=.* must be a file in an existing folder"):
        run("--checkpoint=places", f"--config={folder}/places.py", f"--json={folder / name}")
