"""Executes the Colab notebook from start to finish, as Jupyter does, and its first cells alone.

`google.colab` is a fake: a package for the notebook's process, a module for cells run in this one.
"""

import ast
import base64
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import types
import zipfile

import jax
import nbformat
import numpy as np
import pytest
import safetensors.torch
import torch
from nbclient import NotebookClient
from PIL import Image

from glinpaint_jax import Completer, main
from glinpaint_jax.commands import cli
from glinpaint_jax.weights import load_weights
from tests.helpers.programs import ROOT, SMALL, environment, read_jsonl


def read_notebook():
    return nbformat.read(ROOT / "scripts" / "colab_tpu.ipynb", as_version=4)


def cell_of(notebook, name):
    return next(cell for cell in notebook.cells if cell.id == name)


def output_of(notebook, name):
    outputs = cell_of(notebook, name).outputs
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures_of(notebook, name):
    """The pictures displayed below a cell, as arrays."""
    outputs = [output for output in cell_of(notebook, name).outputs if "data" in output]
    encoded = [output.data["image/png"] for output in outputs if "image/png" in output.data]
    return [pixels(io.BytesIO(base64.b64decode(text))) for text in encoded]


def pixels(file):
    with Image.open(file) as image:
        return np.array(image)


def zip_project(archive):
    """Writes the project as GitHub's zip has it: below one folder."""
    files = [
        *ROOT.glob("glinpaint_jax/**/*.py"),
        *ROOT.glob("configs/*.py"),
        ROOT / "pyproject.toml",
    ]
    with zipfile.ZipFile(archive, "w") as target:
        for file in files:
            target.write(file, "project-main" / file.relative_to(ROOT))
    return archive


def zip_photographs(archive, count):
    noise = np.random.default_rng(0)
    with zipfile.ZipFile(archive, "w") as target:
        for number in range(count):
            encoded = io.BytesIO()
            Image.fromarray(noise.integers(256, size=(40, 48, 3), dtype=np.uint8)).save(
                encoded, "png"
            )
            target.writestr(f"photos/{number}.png", encoded.getvalue())
        target.writestr("__MACOSX/photos/._0.png", b"no image")
    return archive


COLAB = """
import os
import shutil
import sys
import types
def upload():
    return {shutil.copy(os.environ["UPLOAD"], "."): b""}
def download(path):
    print("downloaded", path)
sys.modules["google.colab"] = types.ModuleType("google.colab")
sys.modules["google.colab"].files = types.SimpleNamespace(upload=upload, download=download)
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after a run of two steps in "Colab", and the workdir.

    All settings have their defaults, except DATA and those that make the run small: it compiles the
    steps of one phase only. The smooth base is the demo's, too: not every format can hold it.
    """
    folder = tmp_path_factory.mktemp("colab") / "content with space"
    folder.mkdir()
    zip_photographs(folder / "photos.zip", 12)
    upload = zip_project(folder.parent / "project-main.zip")
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
        client.execute(env=environment(PIP_NO_INDEX="1", UPLOAD=str(upload)))
    return notebook, folder / "runs" / "colab"


def test_notebook_is_valid_has_no_outputs_and_requests_a_tpu():
    notebook = read_notebook()
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.accelerator == "TPU"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
            assert "# @title " in cell.source


def test_training_output_is_streamed_and_results_are_shown(executed):
    notebook, workdir = executed
    trained = output_of(notebook, "train")
    assert "cpu x 2, 1 process(es); float32; global batch 4" in trained
    assert "step 2/2  completion" in trained
    assert "11 training images; evaluation: held_out 1" in trained
    samples, curves = pictures_of(notebook, "look")
    np.testing.assert_array_equal(samples, pixels(workdir / "samples" / "step_000002.png"))
    np.testing.assert_array_equal(curves, pixels(workdir / "curves.png"))
    table = cell_of(notebook, "look").outputs[0].data["text/markdown"]
    last = read_jsonl(workdir)[-1]
    l1, psnr, ssim = (last[f"eval/held_out/{metric}"] for metric in ("l1", "psnr", "ssim"))
    assert f"| held out | {l1:.3f} | {psnr:.3f} | {ssim:.3f} |" in table


def test_the_upload_is_run_and_the_kernel_never_imports_jax(executed):
    notebook, workdir = executed
    folder = workdir.parent.parent
    assert "Upload this project as a zip or wheel." in output_of(notebook, "install")
    assert f"{folder}/project-main.zip on cpu" in output_of(notebook, "install")
    assert "installing" not in output_of(notebook, "install")
    assert output_of(notebook, "probe") == "False\n"


def test_the_photograph_is_completed(executed):
    notebook, workdir = executed
    photo, mask = pixels(workdir / "photo.png"), pixels(workdir / "mask.png") > 0
    completed = Completer.load(workdir, blend="none", scale=1)(photo, mask)
    np.testing.assert_allclose(pixels(workdir / "completed.png").astype(int), completed, atol=1)
    (row,) = pictures_of(notebook, "complete")
    before, filled, original = np.split(row[::3, ::3], [98, 196], axis=1)
    np.testing.assert_array_equal(original, photo)
    np.testing.assert_array_equal(before[:, :96], np.where(mask[..., None], 255, photo))
    np.testing.assert_array_equal(filled[:, :96], pixels(workdir / "completed.png"))
    assert (filled[:, :96] != photo).any(axis=2)[mask].mean() > 0.5


def test_exported_weights_match_the_checkpoint(executed):
    notebook, workdir = executed
    file = workdir / "model" / "model.safetensors"
    exported, trained = load_weights(file), load_weights(workdir)
    for part in ("generator", "discriminator"):
        trees = getattr(exported, part), getattr(trained, part)
        jax.tree.map(np.testing.assert_array_equal, *trees)
    # Height, width, inputs, outputs -> PyTorch's outputs, inputs (BGR and the mask), height, width.
    kernel = trained.generator["params"]["encoder"]["enc1"]["conv"]["kernel"]
    tensors = safetensors.torch.load_file(file)
    tensor = tensors["generator.encoder.enc1.conv.weight"].numpy()
    np.testing.assert_array_equal(tensor, np.transpose(kernel, (3, 2, 0, 1))[:, [2, 1, 0, 3]])
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert f"{len(tensors)} tensors, {numbers:,} numbers" in output_of(notebook, "pytorch")
    assert f"downloaded {file}" in output_of(notebook, "download")


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated")
def test_exported_network_matches_the_completed_picture(executed):
    notebook, workdir = executed
    photo, mask, completed = (
        np.float32(pixels(workdir / f"{name}.png")) for name in ("photo", "mask", "completed")
    )
    arguments = photo.transpose(2, 0, 1)[None] / 255, mask[None, None] / 255
    with torch.no_grad():
        result = torch.jit.load(workdir / "model.pt")(*map(torch.from_numpy, arguments))
    away = np.abs(255 * result[0].numpy().transpose(1, 2, 0) - completed).max()
    assert away < 0.51  # rounding to bytes
    assert f"model.pt: at most {away:.1f} of 255" in output_of(notebook, "pytorch")


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Runs the first cells in this process; returns their variables.

    Without `folder`, they run in `tmp_path / "content"`. Drive is `tmp_path / "drive"`. pip is not
    run, but recorded in `installed`.
    """
    content, installed = tmp_path / "content", []
    content.mkdir()

    class Popen(subprocess.Popen):
        def __init__(self, command, **arguments):
            if "pip" in command:
                installed.append(command)
                command = [sys.executable, "-c", ""]
            super().__init__(command, **arguments)

    def run(*names, folder=content, upload=None, in_colab=True, **settings):
        mounted = []
        monkeypatch.delitem(sys.modules, "google.colab", raising=False)
        if in_colab:
            colab = types.ModuleType("google.colab")
            colab.drive = types.SimpleNamespace(mount=mounted.append)
            colab.files = types.SimpleNamespace(
                upload=lambda: {shutil.copy(upload, "."): b""} if upload else {}
            )
            monkeypatch.setitem(sys.modules, "google.colab", colab)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(subprocess, "Popen", Popen)
        notebook, space = read_notebook(), {}
        for name in ("settings", *(names or ("drive", "install", "data"))):
            code = cell_of(notebook, name).source.replace("/content/drive", str(tmp_path / "drive"))
            exec(code, space)
            space |= settings if name == "settings" else {}
        return types.SimpleNamespace(**space, mounted=mounted, installed=installed)

    return run


@pytest.fixture
def in_drive(tmp_path):
    folder = tmp_path / "drive" / "MyDrive"
    folder.mkdir(parents=True)
    return folder


def test_a_notebook_in_the_checkout_uses_it(play):
    played = play(folder=ROOT / "scripts", in_colab=False)
    assert (played.project, played.configs) == (ROOT, ROOT / "configs")
    assert (played.python, played.installed) == (sys.executable, [])
    assert played.workdir == ROOT / "runs" / "colab"


def test_drive_is_mounted_once_and_holds_project_photographs_and_run(play, in_drive, tmp_path):
    zip_project(in_drive / "glinpaint_jax-main.zip")
    zip_photographs(in_drive / "photos.zip", 1)
    played = play(DRIVE=True, DATA="photos.zip", WORKDIR="run")
    assert played.mounted == [str(tmp_path / "drive")]
    assert played.found == in_drive / "glinpaint_jax-main.zip"
    assert played.project.is_relative_to(tmp_path / "content")
    assert (played.project / "glinpaint_jax" / "main.py").exists()
    assert played.workdir == in_drive / "run"
    assert f"--config.data.source=folder:{played.data}" in played.flags
    assert [path.name for path in played.data.iterdir()] == ["0.png"]
    assert played.data.is_relative_to(tmp_path / "content")
    (played.data / "kept").touch()
    assert (play(DRIVE=True, DATA="photos.zip").data / "kept").exists()  # not unpacked again


def test_a_folder_in_drive_is_installed_outside_of_drive(play, in_drive, tmp_path, monkeypatch):
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5e-1")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    project, photos = in_drive / "code" / "project", in_drive / "photos"
    (project / "configs").mkdir(parents=True)
    (project / "configs" / "demo.py").touch()
    photos.mkdir()
    played = play(DRIVE=True, PROJECT="code/project", DATA="photos")
    (command,) = played.installed
    environment = tmp_path / "content" / ".venv"
    assert command[3:] == [
        f"--python={environment}/bin/python",
        "install",
        "--quiet",
        "--editable",
        f"{project}[torch]",
        "jax[tpu]",
    ]
    assert (environment / "bin" / "python").exists()
    assert f"--config.data.source=folder:{photos}" in played.flags


def test_a_wheel_is_installed_and_its_configs_are_used(play, tmp_path):
    wheel = tmp_path / "content" / "glinpaint_jax-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as target:
        target.writestr("glinpaint_jax/configs/demo.py", "")
    played = play("drive", "install", in_colab=False)
    (command,) = played.installed
    assert command[3:] == [f"--python={played.python}", "install", "--quiet", f"{wheel}[torch]"]
    assert played.configs == played.project / "glinpaint_jax" / "configs"
    assert played.python.is_relative_to(played.project)


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_a_repository_is_cloned(play, tmp_path):
    repository = tmp_path / "repository"
    (repository / "configs").mkdir(parents=True)
    (repository / "configs" / "demo.py").write_text("the project")
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True, timeout=60)
    played = play("drive", "install", PROJECT=repository.as_uri())
    assert played.project.is_relative_to(tmp_path / "content")
    assert (played.configs / "demo.py").read_text() == "the project"


@pytest.mark.parametrize("name", ["places", "celeba_hq", "paper"])
def test_full_size_models_get_flags_for_one_chip(name, play):
    played = play(
        folder=ROOT, in_colab=False, CONFIG=name, DATA="docs", FLAGS="--config.num_steps=9"
    )
    parser = cli.ArgumentParser("train", "")
    main.add_arguments(parser)
    config = cli.load_config(parser.parse_args(played.flags))
    assert played.flags[0] == f"--config={ROOT}/configs/{name}.py"
    assert (config.global_batch_size, config.num_steps) == (12, 9)


@pytest.mark.parametrize(
    ("settings", "in_colab", "error"),
    [
        ({}, True, "set PROJECT to this project's folder, zip, wheel or Git URL"),
        ({}, False, "set PROJECT to this project's folder, zip, wheel or Git URL"),
        ({"DRIVE": True}, False, "DRIVE works in Colab only; untick it"),
        ({"PROJECT": "x.zip"}, False, "PROJECT is 'x.zip', but there is no {content}/x.zip"),
        (
            {"PROJECT": "x.zip"},
            True,
            "PROJECT is 'x.zip', but there is no {content}/x.zip; if it is in Google Drive, tick "
            "DRIVE",
        ),
        (
            {"PROJECT": "photos.zip"},
            True,
            "{content}/photos.zip is not this project: no configs/demo.py in it; change PROJECT",
        ),
        (
            {"PROJECT": str(ROOT), "CONFIG": "places"},
            True,
            "CONFIG is 'places', which needs photographs",
        ),
        ({"PROJECT": str(ROOT), "DATA": "x"}, False, "DATA is 'x', but there is no {content}/x"),
    ],
)
def test_one_sentence_says_what_to_give(settings, in_colab, error, play, tmp_path):
    content = tmp_path / "content"
    zip_photographs(content / "photos.zip", 1)
    with pytest.raises(RuntimeError) as caught:
        play(in_colab=in_colab, **settings)
    assert str(caught.value).startswith(error.format(content=content))
    assert "\n" not in str(caught.value)


def test_a_failed_command_fails_its_cell_with_the_last_line(capsys):
    space = {}
    exec(installing_code(["run"]), space)
    with pytest.raises(RuntimeError, match=r"^status 1: error: why$"):
        space["run"](sys.executable, "-c", "import sys; print('first'); sys.exit('error: why')")
    assert "first\n" in capsys.readouterr().out


def installing_code(names):
    """The install cell's imports, constants and functions `names`, without the code after them."""
    kinds = (ast.Import, ast.ImportFrom, ast.Assign)
    body = ast.parse(cell_of(read_notebook(), "install").source).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name in names]
    first = next(i for i, node in enumerate(body) if isinstance(node, ast.FunctionDef))
    head = [node for node in body[:first] if isinstance(node, kinds)]
    imports = "import shutil, sys\nfrom pathlib import Path\n"  # of the cell before
    return imports + ast.unparse(ast.Module([*head, *functions], []))


@pytest.mark.parametrize(
    ("driver", "changes", "expected"),
    [
        ("535.104.05", {}, "cuda12"),
        ("580.65.06", {}, "cuda13"),
        ("580.65.06", {"JAX_PLATFORMS": "cpu"}, ""),
        ("NVIDIA-SMI has failed", {"TPU_ACCELERATOR_TYPE": "v5e-1"}, "tpu"),
        ("", {"TPU_ACCELERATOR_TYPE": "v5e-1"}, "tpu"),
    ],
)
def test_the_accelerator_is_detected_without_jax(driver, changes, expected, tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{driver}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    space = {}
    exec(installing_code(["find_accelerator"]), space)
    assert space["find_accelerator"]() == expected


def test_interrupting_a_cell_stops_its_process():
    slow = "import os, time; print(os.getpid()); time.sleep(100)"
    code = installing_code(["run"]) + "\nprint = __import__('functools').partial(print, flush=True)"
    code += f"\nrun(sys.executable, '-c', {slow!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
