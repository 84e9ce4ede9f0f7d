"""Executes the Colab notebook from start to finish, as Jupyter does."""

import ast
import base64
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys

import jax
import nbformat
import numpy as np
import pytest
import safetensors.torch
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from glinpaint_jax import Completer
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


@pytest.fixture(scope="module")
def execute(tmp_path_factory):
    """Runs a notebook in a folder; `settings` replace its own."""
    home = tmp_path_factory.mktemp("jupyter")

    def run(notebook, folder, **settings):
        lines = [f"{name} = {str(value)!r}" for name, value in settings.items()]
        after = notebook.cells.index(cell_of(notebook, "settings")) + 1
        notebook.cells.insert(after, nbformat.v4.new_code_cell("\n".join(lines)))
        resources = {"metadata": {"path": str(folder)}}
        client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources)
        return client.execute(env=environment(PIP_NO_INDEX="1"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # else Jupyter warns about its old folders
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(home / name))
        yield run


@pytest.fixture(scope="module")
def executed(execute, tmp_path_factory):
    """The notebook after a run of ten steps, and the workdir."""
    folder = tmp_path_factory.mktemp("colab with space")
    notebook, workdir = read_notebook(), folder / "run"
    notebook.cells.append(nbformat.v4.new_code_cell("print('jax' in sys.modules)", id="probe"))
    execute(notebook, folder, PROJECT=ROOT, WORKDIR=workdir, FLAGS=shlex.join(SMALL[1:]))
    return notebook, workdir


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
    assert "step 10/10  joint" in trained
    samples, curves = pictures_of(notebook, "look")
    np.testing.assert_array_equal(samples, pixels(workdir / "samples" / "step_000010.png"))
    np.testing.assert_array_equal(curves, pixels(workdir / "curves.png"))
    table = cell_of(notebook, "look").outputs[0].data["text/markdown"]
    last = read_jsonl(workdir)[-1]
    for name in ("held_out", "new_crops"):
        l1, psnr, ssim = (last[f"eval/{name}/{metric}"] for metric in ("l1", "psnr", "ssim"))
        assert f"| {name.replace('_', ' ')} | {l1:.3f} | {psnr:.3f} | {ssim:.3f} |" in table


def test_installed_packages_are_reused_and_the_kernel_never_imports_jax(executed):
    notebook, _ = executed
    assert f"{ROOT} on cpu" in output_of(notebook, "install")
    assert "installing" not in output_of(notebook, "install")
    assert output_of(notebook, "probe") == "False\n"


def test_the_photograph_is_completed(executed):
    notebook, workdir = executed
    photo, mask = pixels(workdir / "photo.png"), pixels(workdir / "mask.png") > 0
    completed = Completer.load(workdir)(photo, mask)
    np.testing.assert_allclose(pixels(workdir / "completed.png").astype(int), completed, atol=1)
    (row,) = pictures_of(notebook, "complete")
    before, *filled, original = np.split(row[::3, ::3], [98, 196, 294], axis=1)
    np.testing.assert_array_equal(original, photo)
    np.testing.assert_array_equal(before[:, :96], np.where(mask[..., None], 255, photo))
    for picture, name in zip(filled, ("completed.png", "blended.png"), strict=True):
        np.testing.assert_array_equal(picture[:, :96], pixels(workdir / name))
        assert (picture[:, :96] != photo).any(axis=2)[mask].mean() > 0.5


def test_exported_weights_match_the_checkpoint(executed):
    notebook, workdir = executed
    file = workdir / "demo.safetensors"
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
    assert str(file) in output_of(notebook, "download")


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
def test_exported_network_matches_the_completed_picture(executed):
    notebook, workdir = executed
    photo, mask, completed = (
        np.float32(pixels(workdir / f"{name}.png")) for name in ("photo", "mask", "completed")
    )
    arguments = photo.transpose(2, 0, 1)[None] / 255, mask[None, None] / 255
    with torch.no_grad():
        result = torch.jit.load(workdir / "demo.pt")(*map(torch.from_numpy, arguments))
    away = np.abs(255 * result[0].numpy().transpose(1, 2, 0) - completed).max()
    assert away < 0.51  # rounding to bytes
    assert f"demo.pt: at most {away:.1f} of 255" in output_of(notebook, "pytorch")


def test_failed_training_fails_the_notebook_with_the_error(execute, tmp_path):
    """Started in its own folder, the notebook finds the checkout."""
    notebook = read_notebook()
    reason = "config.global_batch_size is 3, must be a multiple of the 2 devices"
    with pytest.raises(CellExecutionError) as caught:
        execute(
            notebook,
            ROOT / "scripts",
            WORKDIR=tmp_path / "run",
            FLAGS="--config.global_batch_size=3",
        )
    assert caught.value.evalue.startswith(f"status 1: error: {reason}")
    assert f"{ROOT} on cpu" in output_of(notebook, "install")
    assert reason in output_of(notebook, "train")
    assert cell_of(notebook, "look").outputs == []


def test_a_missing_project_is_reported(execute, tmp_path):
    with pytest.raises(CellExecutionError, match="no checkout of the project in"):
        execute(read_notebook(), tmp_path)


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_a_repository_is_cloned(execute, tmp_path):
    repository, folder = tmp_path / "repository", tmp_path / "content"
    (repository / "configs").mkdir(parents=True)
    (repository / "configs" / "demo.py").write_text("the project")
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True, timeout=60)
    folder.mkdir()
    notebook = read_notebook()
    notebook.cells = notebook.cells[:3]
    execute(notebook, folder, PROJECT=repository.as_uri())
    assert f"{folder}/glinpaint_jax on cpu" in output_of(notebook, "install")
    assert (folder / "glinpaint_jax" / "configs" / "demo.py").read_text() == "the project"


def installing_code(names):
    """The install cell's imports, constants and functions `names`, without the code after them."""
    kinds = (ast.Import, ast.ImportFrom, ast.Assign)
    body = ast.parse(cell_of(read_notebook(), "install").source).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name in names]
    first = next(i for i, node in enumerate(body) if isinstance(node, ast.FunctionDef))
    head = [node for node in body[:first] if isinstance(node, kinds)]
    return ast.unparse(ast.Module([*head, *functions], []))


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
