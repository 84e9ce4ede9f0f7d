"""Executes the Colab notebook from start to finish, as Jupyter does, and its first cells alone.

`google.colab` is a fake: a package for the notebook's process, a module for cells run in this one.
"""

import base64
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
import zipfile

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from tests.helpers.programs import ROOT, SMALL, environment, read_jsonl
from tests.helpers.sources import encode, gradient


def read_notebook():
    return nbformat.read(ROOT / "scripts" / "colab_tpu.ipynb", as_version=4)


def cell_of(notebook, name):
    return next(cell for cell in notebook.cells if cell.id == name)


def output_of(notebook, name):
    outputs = cell_of(notebook, name).outputs
    return "".join(output.text for output in outputs if output.output_type == "stream")


def picture_of(notebook, name):
    """The one picture displayed below a cell, as an array."""
    outputs = [output.get("data", {}) for output in cell_of(notebook, name).outputs]
    (encoded,) = [data["image/png"] for data in outputs if "image/png" in data]
    return pixels(io.BytesIO(base64.b64decode(encoded)))


def pixels(file):
    with Image.open(file) as image:
        return np.array(image)


def zip_photographs(archive, count):
    with zipfile.ZipFile(archive, "w") as target:
        for number in range(count):
            photo = encode(gradient(40 + number, 48))
            target.writestr(f"photos/{number}.png", photo)
        target.writestr("__MACOSX/photos/._0.png", b"no image")


COLAB = """
import sys
import types
def download(path):
    print("downloaded", path)
sys.modules["google.colab"] = types.ModuleType("google.colab")
sys.modules["google.colab"].files = types.SimpleNamespace(download=download)
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after a run of two steps in "Colab", and the workdir.

    All settings have their defaults, except DATA and those that make the run small: it compiles the
    steps of one phase only. The smooth base is the demo's, too.
    """
    folder = tmp_path_factory.mktemp("colab") / "content with space"
    folder.mkdir()
    zip_photographs(folder / "photos.zip", 12)
    notebook = read_notebook()
    small = [flag for flag in SMALL[1:] if flag != "--config.model.base=none"]
    flags = shlex.join([*small, "--config.num_steps=2"])
    changes = f"DATA, FLAGS = 'photos.zip', {flags!r}"
    after = notebook.cells.index(cell_of(notebook, "settings")) + 1
    notebook.cells.insert(after, nbformat.v4.new_code_cell(f"{COLAB}\n{changes}"))
    notebook.cells.append(nbformat.v4.new_code_cell("print('jax' in sys.modules)", id="probe"))
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources)
    home = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # else Jupyter warns about its old folders
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(home / name))
        client.execute(env=environment(PIP_NO_INDEX="1"))
    return notebook, folder / "runs" / "colab"


def test_notebook_is_valid_has_no_outputs_and_requests_a_tpu():
    notebook = read_notebook()
    nbformat.validate(notebook)
    assert notebook.metadata.accelerator == "TPU"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
            assert "# @title " in cell.source


def test_training_output_is_streamed_and_results_are_shown(executed):
    notebook, workdir = executed
    assert output_of(notebook, "install") == f"cpu, Python {sys.executable}\n"
    trained = output_of(notebook, "train")
    assert "cpu x 2, 1 process(es); float32; global batch 4" in trained
    assert "step 2/2  completion" in trained
    assert "11 training images; evaluation: held_out 1" in trained
    samples = pixels(workdir / "samples" / "step_000002.png")
    np.testing.assert_array_equal(picture_of(notebook, "look"), samples)
    table = cell_of(notebook, "look").outputs[0].data["text/markdown"]
    last = read_jsonl(workdir)[-1]
    l1, psnr, ssim = (last[f"eval/held_out/{metric}"] for metric in ("l1", "psnr", "ssim"))
    assert f"| held out | {l1:.3f} | {psnr:.3f} | {ssim:.3f} |" in table
    assert output_of(notebook, "probe") == "False\n"  # the kernel never imports jax


def test_the_photograph_is_completed_here_and_in_pytorch_and_the_weights_are_kept(executed):
    notebook, workdir = executed
    names = ("photo", "mask", "completed")
    photo, mask, completed = (pixels(workdir / f"{name}.png") for name in names)
    row = picture_of(notebook, "complete")[::3, ::3]
    before, filled, original = np.split(row, [98, 196], axis=1)
    np.testing.assert_array_equal(original, photo)
    np.testing.assert_array_equal(before[:, :96], np.where(mask[..., None] > 0, 255, photo))
    np.testing.assert_array_equal(filled[:, :96], completed)
    assert (completed != photo).any(axis=2)[mask > 0].mean() > 0.5
    (away,) = re.findall(r"model.pt: at most ([\d.]+) of 255", output_of(notebook, "pytorch"))
    assert float(away) <= 0.5  # rounding to bytes
    assert f"downloaded {workdir}/model.safetensors" in output_of(notebook, "download")


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Runs the first cells in this process, on a "CPU"; returns their variables.

    The current folder is `tmp_path / "content"`, Drive is `tmp_path / "drive"`. Packages of this
    Python are found unless `installed` is False. pip is not run, but its arguments are kept in
    `pip`.
    """
    content, commands, mounted = tmp_path / "content", [], []
    content.mkdir()
    monkeypatch.chdir(content)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    class Popen(subprocess.Popen):
        def __init__(self, command, **arguments):
            if "pip" in command:
                commands.append(command[command.index("install") + 1 :])
                command = [sys.executable, "-c", ""]
            super().__init__(command, **arguments)

    monkeypatch.setattr(subprocess, "Popen", Popen)

    def play(upload=None, in_colab=True, installed=True, **settings):
        colab = types.ModuleType("google.colab")
        colab.drive = types.SimpleNamespace(mount=mounted.append)
        colab.files = types.SimpleNamespace(
            upload=lambda: {shutil.copy(upload, "."): b""} if upload else {}
        )
        if in_colab:
            monkeypatch.setitem(sys.modules, "google.colab", colab)
        notebook, space = read_notebook(), {}
        for name in ("settings", "drive", "install", "data"):
            code = cell_of(notebook, name).source.replace("/content/drive", str(tmp_path / "drive"))
            if not installed:  # neither this Python nor a new environment has this package
                code = code.replace('"safetensors"', '"no_such_package"')
            exec(code, space)
            space |= settings if name == "settings" else {}
        return types.SimpleNamespace(**space, mounted=mounted, pip=commands)

    return play


def test_drive_is_mounted_once_and_holds_photographs_and_run(play, tmp_path):
    in_drive, content = tmp_path / "drive" / "MyDrive", tmp_path / "content"
    in_drive.mkdir(parents=True)
    zip_photographs(in_drive / "photos.zip", 1)
    played = play(DRIVE=True, DATA="photos.zip", WORKDIR="run")
    assert played.mounted == [str(tmp_path / "drive")]
    assert played.workdir == in_drive / "run"
    assert f"--config.data.source=folder:{played.data}" in played.flags
    assert [path.name for path in played.data.iterdir()] == ["0.png"]
    assert played.data.is_relative_to(content)
    (played.data / "kept").touch()
    assert (play(DRIVE=True, DATA="photos.zip").data / "kept").exists()  # not unpacked again


# What nvidia-smi prints, by the extra of jax to install.
DRIVERS = {"tpu": "NVIDIA-SMI has failed", "cuda12": "535.104.05", "cuda13": "580.65.06"}


@pytest.mark.parametrize(
    ("settings", "wanted", "extra"),
    [
        ({"PROJECT": "project-main.zip"}, "{content}/project-main.zip[torch]", "tpu"),
        ({"PROJECT": "project.zip", "DRIVE": True}, "{drive}/project.zip[torch]", "cuda12"),
        ({"PROJECT": "git+https://a.b/c"}, "glinpaint_jax[torch] @ git+https://a.b/c", "cuda13"),
        ({}, "{content}/uploaded.whl[torch]", "tpu"),
        ({"DRIVE": True}, "{drive}/project.zip[torch]", "tpu"),
    ],
    ids=["zip", "in Drive", "repository", "upload", "named as in the docs"],
)
def test_what_is_given_and_jax_for_the_accelerator_get_an_environment_of_their_own(
    settings, wanted, extra, play, tmp_path, monkeypatch
):
    content, drive = tmp_path / "content", tmp_path / "drive" / "MyDrive"
    drive.mkdir(parents=True)
    upload = tmp_path / "uploaded.whl"
    for file in (content / "project-main.zip", drive / "project.zip", upload):
        file.touch()
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5e-1")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{DRIVERS[extra]}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    played = play(upload, installed=False, **settings)
    assert played.pip == [["--quiet", wanted.format(content=content, drive=drive), f"jax[{extra}]"]]
    assert played.python == content / ".venv" / "bin" / "python"
    assert played.python.exists()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"installed": False}, "set PROJECT to this project's folder, zip or wheel, or git+https"),
        ({"DRIVE": True, "in_colab": False}, "DRIVE works in Colab only; untick it"),
        ({"PROJECT": "x", "in_colab": False}, "PROJECT is 'x', but there is no {folder}/x"),
        ({"DATA": "x"}, "DATA is 'x', but there is no {folder}/x; if it is in Google Drive, tick"),
        ({"CONFIG": "places"}, "CONFIG is 'places', which needs photographs"),
        ({"WORKDIR": "gs://b/run"}, "WORKDIR is 'gs://b/run', but buckets do not work here; use"),
        ({"DATA": "gs://b/a.zip"}, "DATA is 'gs://b/a.zip', but buckets do not work here; use"),
        ({"FLAGS": "--workdir=gs://b/run"}, "--workdir in FLAGS does not work here; set WORKDIR"),
    ],
)
def test_one_sentence_says_what_to_give(settings, error, play, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        play(**settings)
    assert str(caught.value).startswith(error.format(folder=tmp_path / "content"))
    assert "\n" not in str(caught.value)


def test_a_failed_command_fails_its_cell_and_an_interrupted_cell_stops_its_process(
    play, tmp_path, capsys
):
    run = play().run
    with pytest.raises(RuntimeError, match=r"^status 1: error: why$"):
        run(sys.executable, "-c", "import sys; print('first'); sys.exit('error: why')")
    assert "first\n" in capsys.readouterr().out
    slow = "import os, pathlib, signal, time; pathlib.Path('pid').write_text(str(os.getpid())); "
    slow += "os.kill(os.getppid(), signal.SIGINT); time.sleep(100)"
    with pytest.raises(KeyboardInterrupt):
        run(sys.executable, "-c", slow)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "content" / "pid").read_text()), 0)
