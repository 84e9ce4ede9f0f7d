"""Exported files, read by the tools they are made for."""

import copy
import dataclasses
import re
import sys
from pathlib import Path

import jax
import numpy as np
import onnxruntime
import pytest
import skimage.data
import torch

from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.completer import Completer
from glinpaint_jax.interop import export
from glinpaint_jax.interop.export import FORMATS, export_weights
from glinpaint_jax.interop.weight_files import pth_bytes
from glinpaint_jax.models import smooth
from glinpaint_jax.models.networks import make_networks
from glinpaint_jax.weights import load_weights
from tests.helpers.networks import make_weights

SHAPES = [(1, 40, 24), (3, 68, 100)]  # batch, height, width; none is used for tracing or verifying


@pytest.fixture(scope="module")
def own_fill(weights):
    """A fill colour other than the default grey, bfloat16 training, the paper's output."""
    model = dataclasses.replace(weights.config.model, output="sigmoid")
    config = dataclasses.replace(weights.config, precision="bfloat16", model=model)
    config.mask = dataclasses.replace(config.mask, fill=(255.0, 127.5, 0.0))
    return dataclasses.replace(weights, config=config)


@pytest.fixture(scope="module")
def files(own_fill, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    for kind in FORMATS:
        export_weights(own_fill, kind, folder / kind)
    assert {path.name for path in folder.iterdir()} == set(FORMATS)  # no temporary files remain
    return folder


def image_and_mask(shape):
    """NCHW, with the image in 0..1."""
    rng = np.random.default_rng(0)
    batch, height, width = shape
    mask = np.zeros((batch, 1, height, width), np.float32)
    mask[:, :, height // 3 : height // 2, 4 : width - 8] = 1
    return rng.random((batch, 3, height, width), np.float32), mask


def expected(weights, image, mask):
    """The completed image, computed step by step with the generator."""
    generator, _ = make_networks(dataclasses.replace(weights.config, precision="float32"))
    image, mask = np.moveaxis(image, 1, -1), np.moveaxis(mask, 1, -1)
    fill = np.array(weights.config.mask.fill, np.float32) / 127.5 - 1
    masked_image = np.where(mask > 0, fill, 2 * image - 1)
    predict = jax.jit(lambda *args: generator.apply(weights.generator, *args, train=False))
    completed = np.where(mask > 0, (predict(masked_image, mask) + 1) / 2, image)
    return np.moveaxis(completed, -1, 1)


def run_torchscript(path, image, mask):
    model, image, mask = torch.jit.load(path), torch.from_numpy(image), torch.from_numpy(mask)
    completed = model(image, mask).numpy()
    for kind in (torch.int64, torch.bool, torch.uint8):  # the mask's
        np.testing.assert_array_equal(model(image, mask.to(kind)).numpy(), completed)
    return completed


def run_onnx(path, image, mask):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["completed"], {"image": image, "mask": mask})[0]


def run_stablehlo(path, image, mask):
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    completed = exported.call(np.moveaxis(image, 1, -1), np.moveaxis(mask, 1, -1))
    return np.moveaxis(np.asarray(completed), -1, 1)


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("run_file", [run_torchscript, run_onnx, run_stablehlo])
def test_exported_functions_match_jax_and_keep_valid_pixels(run_file, shape, files, own_fill):
    image, mask = image_and_mask(shape)
    completed = run_file(files / run_file.__name__.removeprefix("run_"), image, mask)
    assert completed.dtype == np.float32
    np.testing.assert_allclose(completed, expected(own_fill, image, mask), atol=1e-5)
    outside = np.broadcast_to(mask == 0, image.shape)
    np.testing.assert_array_equal(completed[outside], image[outside])


def test_the_documented_snippet_completes_in_plain_pytorch(weights, tmp_path, monkeypatch):
    """docs/weights.md; it needs neither MMagic nor this package."""
    documentation = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    (snippet,) = re.findall("```python\n(.*?)```", documentation, re.DOTALL)
    (tmp_path / "model.pth").write_bytes(pth_bytes(weights))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(snippet, names)
    image, mask = image_and_mask(SHAPES[1])
    completed = names["complete"](torch.from_numpy(image), torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(completed, expected(weights, image, mask), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "offset", "message"),
    [
        *((kind, 1e-3, r"5\.0e-04, at most") for kind in FORMATS if "pipeline" not in kind),
        ("onnx-pipeline-float16", 2e-2, r"1\..e-02, at most 4e-03"),
        ("torchscript", np.nan, "nan, at most"),
    ],
)
def test_a_file_that_differs_from_jax_is_not_written(
    kind, offset, message, weights, tmp_path, monkeypatch
):
    other = copy.deepcopy(weights)
    dec7 = other.generator["params"]["decoder"]["dec7"]
    dec7["bias"] = dec7["bias"] + np.float32(offset)
    own = FORMATS[kind]
    monkeypatch.setitem(FORMATS, kind, own._replace(write=lambda _, path: own.write(other, path)))
    with pytest.raises(UserError, match=f"differs from JAX by {message}.*no file was written"):
        export_weights(weights, kind, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_existing_files_and_unwritable_paths_are_rejected(weights, tmp_path):
    (tmp_path / "file").write_text("precious")
    for path, message in (
        (tmp_path / "file", "exists"),
        (tmp_path, "exists"),
        (tmp_path / "nowhere" / "file", "cannot write"),
        (tmp_path / "file" / "below", "cannot write"),
        (tmp_path / ("long" * 64), "cannot write"),
    ):
        with pytest.raises(UserError, match=message):
            export_weights(weights, "safetensors", path)
    assert (tmp_path / "file").read_text() == "precious"


def hide(package, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [("mmagic", "torch", "torch"), ("onnx", "onnxruntime", "onnx"), ("onnx", "onnxscript", "onnx")],
)
def test_a_missing_package_raises_an_error_that_names_its_extra(
    kind, package, extra, weights, tmp_path, monkeypatch
):
    hide(package, monkeypatch)
    with pytest.raises(UserError, match=rf"needs {package}, .*'\.\[{extra}\]'"):
        export_weights(weights, kind, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(41, 58), (64, 30), (3, 1)])
@pytest.mark.parametrize("kind", ["onnx-pipeline", "onnx-pipeline-float16"])
def test_a_pipeline_completes_pixels_of_any_size_as_a_completer_does(kind, shape, files, own_fill):
    check_pipeline(files / kind, own_fill, np.random.default_rng(0).integers(0, 256, (*shape, 3)))
    assert 0.5 < (files / kind).stat().st_size / (files / "onnx").stat().st_size < 1.2


def check_pipeline(path, weights, pixels):
    """In color and in gray; its hole has two parts and reaches the border."""
    mask = np.zeros(pixels.shape[:2], np.uint8)
    mask[len(mask) // 3 : len(mask) // 2, 2:-5], mask[-9:, -7:] = 128, 255
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    completer = Completer(weights)
    for image in (pixels.astype(np.uint8), np.repeat(pixels[..., :1], 3, axis=2).astype(np.uint8)):
        completed = session.run(["completed"], {"image": image, "mask": mask})[0]
        expected = completer.fill_unscaled(image, mask > 127)
        assert (completed.shape, completed.dtype) == (image.shape, np.uint8)
        np.testing.assert_allclose(completed.astype(int), expected, atol=1)
        np.testing.assert_array_equal(completed[mask <= 127], image[mask <= 127])
        assert (completed[mask > 127] != image[mask > 127]).any()


@pytest.fixture(scope="module")
def smooth_weights(torch_config):
    model = dataclasses.replace(torch_config.model, base="smooth")
    return make_weights(dataclasses.replace(torch_config, model=model))


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated")
@pytest.mark.parametrize("kind", ["torchscript", "onnx", "onnx-pipeline", "stablehlo"])
def test_exports_contain_the_smooth_fill(kind, smooth_weights, tmp_path, monkeypatch, soak):
    """The exporter runs each file; test_smooth.py compares JAX's fill with a direct solver."""
    if not soak:  # enough for the test images
        monkeypatch.setattr(smooth, "UNKNOWN_SIZE_LEVELS", 5)
    if kind.startswith("onnx") and not soak:
        pytest.skip("takes a minute: --soak")
    assert export_weights(smooth_weights, kind, tmp_path / "file") <= FORMATS[kind].tolerance
    if kind == "onnx-pipeline":
        check_pipeline(tmp_path / "file", smooth_weights, skimage.data.chelsea()[100:241, 100:258])


def test_only_mmagics_format_rejects_a_network_with_a_base(smooth_weights, tmp_path, monkeypatch):
    """safetensors files hold it and its config; they are written and read without PyTorch."""
    with pytest.raises(UserError, match=r"--format mmagic cannot hold .*base=smooth.*safetensors"):
        export_weights(smooth_weights, "mmagic", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []

    hide("torch", monkeypatch)
    monkeypatch.setattr(export, "TEST_SHAPES", ((1, 16, 24),))  # to compile less
    url = "https://me:secret@host/a.pth?key=secret"
    config = dataclasses.replace(smooth_weights.config, init_from=url)
    own = dataclasses.replace(smooth_weights, config=config)
    assert export_weights(own, "safetensors", tmp_path / "model.safetensors") == 0
    loaded = load_weights(tmp_path)
    assert loaded.config == dataclasses.replace(config, init_from="https://host/a.pth?...")
    for name in ("generator", "discriminator"):
        jax.tree.map(np.testing.assert_array_equal, getattr(loaded, name), getattr(own, name))
