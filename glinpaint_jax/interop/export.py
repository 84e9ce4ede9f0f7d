"""Exports trained weights for other tools. Each file is run and compared with JAX.

`torchscript`, `onnx` and `stablehlo` files contain one function: (image in RGB, 0..1, unmasked;
mask, 1 = hole) -> completed image. Any batch size works, and any image size whose sides are
multiples of 4. Arrays are NCHW, but NHWC in `stablehlo`. `mmagic` and `safetensors` files contain
only the weights, with MMagic's names. `onnx-pipeline` does the whole task on pixels of any size
(`PipelineModule`); `onnx-pipeline-float16` stores its kernels in half the bytes.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from glinpaint_jax.errors import UserError, import_extra
from glinpaint_jax.files import replace_atomically, report_unwritable
from glinpaint_jax.interop.mmagic import to_state_dict
from glinpaint_jax.interop.weight_files import pth_bytes, read_weights, safetensors_bytes
from glinpaint_jax.models.generator import STRIDE
from glinpaint_jax.models.networks import Weights, make_complete_function

TOLERANCE = 1e-4  # largest allowed difference from JAX
LEVEL = 1 / 255 + TOLERANCE  # of pixels
PLATFORMS = ("cpu", "cuda", "tpu")  # a stablehlo file runs on all of them
TEST_SHAPES = ((1, 64, 96), (2, 132, 204))  # batch, height, width

# Image in 0..1 and mask, 1 = hole -> completed image. Arrays are NHWC and RGB.
Complete = Callable[[np.ndarray, np.ndarray], Any]


class Format(NamedTuple):
    packages: tuple[str, ...]  # that must be installed
    to_bytes: Callable[[Weights], bytes]  # makes the file's content
    load: Callable[[Weights, Path], Complete]  # reads the file
    tolerance: float = TOLERANCE


def export_weights(weights: Weights, kind: str, path: Path) -> float:
    """Writes `path` in the format `kind`, one of FORMATS; returns its difference from JAX.

    `find_difference` says what that is. Raises UserError and leaves no file if it exceeds
    its tolerance, `path` exists or cannot be written, or a package is missing.
    """
    base = weights.config.model.base
    if kind == "mmagic" and base != "none":
        raise UserError(
            f"--format mmagic cannot hold a network with model.base={base}, which MMagic does not "
            "have; use --format safetensors, torchscript, onnx or stablehlo"
        )
    for package in FORMATS[kind].packages:
        import_extra(package)
    with report_unwritable(path):
        if path.exists():
            raise UserError(f"{path} exists; remove it or choose another --output")
        with replace_atomically(path) as temporary:
            return write_compared(weights, kind, temporary)


def write_compared(weights: Weights, kind: str, path: Path) -> float:
    """Writes `path` and returns its difference from JAX; raises UserError if it is too large."""
    tolerance = FORMATS[kind].tolerance
    with _quiet():
        path.write_bytes(FORMATS[kind].to_bytes(weights))
        difference = find_difference(weights, FORMATS[kind].load(weights, path))
    if not difference <= tolerance:  # `not <=`, so that NaN fails
        raise UserError(
            f"the {kind} file differs from JAX by {difference:.1e}, at most {tolerance:.0e} is "
            "allowed; no file was written"
        )
    return difference


def find_difference(weights: Weights, complete: Complete) -> float:
    """Returns the largest difference of a completed pixel from JAX."""
    complete_in_jax = jax.jit(make_complete_function(weights))
    differences = []
    for seed, (batch, height, width) in enumerate(TEST_SHAPES):
        pixels = np.random.default_rng(seed).integers(256, size=(batch, height, width, 3))
        image = pixels.astype(np.float32) / 255
        mask = np.zeros((batch, height, width, 1), np.float32)
        mask[:, height // 4 : height // 2, width // 3 :] = 1
        completed = np.asarray(complete(image, mask))
        differences.append(np.abs(completed - complete_in_jax(image, mask)).max())
    return float(np.max(differences))  # NaN if any is


def load_safetensors(weights: Weights, path: Path) -> Complete:
    """Needs no PyTorch."""
    return jax.jit(make_complete_function(read_weights(path)))


def load_pth(weights: Weights, path: Path) -> Complete:
    """The PyTorch generator, which takes all its weights or raises an error."""
    import torch

    from glinpaint_jax.interop.torch_module import CompletionModule, load_generator

    state = torch.load(path, weights_only=True)["state_dict"]
    generator = load_generator(weights.config, state)
    return _from_torch(CompletionModule(generator, weights.config))


def torchscript_bytes(weights: Weights) -> bytes:
    """Makes the file that IOPaint loads; its mask may have any number type."""
    import torch

    module, (image, mask) = _make_torch_module(weights)
    with torch.no_grad():
        # No check: it takes most of the time, and the file is compared with JAX.
        traced = torch.jit.trace(module, (image, mask.long()), check_trace=False)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    return buffer.getvalue()


def load_torchscript(weights: Weights, path: Path) -> Complete:
    import torch

    return _from_torch(torch.jit.load(path))


def onnx_bytes(weights: Weights) -> bytes:
    """Makes a file with inputs `image`, `mask` and output `completed`: float32, symbolic sizes."""
    import torch

    batch, h, w = (torch.export.Dim(name) for name in ("batch", "h", "w"))
    sizes = {0: batch, 2: STRIDE * h, 3: STRIDE * w}
    return _export_onnx(*_make_torch_module(weights), sizes).SerializeToString()


def pipeline_bytes(weights: Weights, half: bool = False) -> bytes:
    """Makes a file with the same names for pixels; with `half`, its kernels are float16."""
    import onnx
    import torch

    from glinpaint_jax.interop.torch_module import PipelineModule

    completion, _ = _make_torch_module(weights)
    module = PipelineModule(completion.generator, weights.config)
    examples = [torch.zeros(shape, dtype=torch.uint8) for shape in ((133, 201, 3), (133, 201))]
    sizes = {0: torch.export.Dim("height"), 1: torch.export.Dim("width")}
    model = _export_onnx(module, examples, sizes)
    for tensor in model.graph.initializer if half else ():
        array, name = onnx.numpy_helper.to_array(tensor), tensor.name
        if array.ndim < 4 or array.dtype != np.float32:
            continue
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), f"{name}_half"))
        cast = onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT)
        model.graph.node.insert(0, cast)
    return model.SerializeToString()


def _export_onnx(module: Any, examples: Any, sizes: dict[int, Any]) -> Any:
    import torch

    program = torch.onnx.export(
        module,
        tuple(examples),
        input_names=["image", "mask"],
        output_names=["completed"],
        dynamic_shapes={"image": sizes, "mask": sizes},
        dynamo=True,
        verbose=False,
    )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: half of a small file
    return program.model_proto


def load_onnx(weights: Weights, path: Path, pipeline: bool = False) -> Complete:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: it warns of constants in loops
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def complete(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"image": image.transpose(0, 3, 1, 2), "mask": mask.transpose(0, 3, 1, 2)}
        return session.run(None, inputs)[0].transpose(0, 2, 3, 1)

    def complete_pixels(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        arrays = zip(np.rint(255 * image), 255 * mask[..., 0], strict=True)
        inputs = [{"image": rgb.astype("u1"), "mask": hole.astype("u1")} for rgb, hole in arrays]
        return np.float32([session.run(None, each)[0] for each in inputs]) / 255

    return complete_pixels if pipeline else complete


def stablehlo_bytes(weights: Weights) -> bytes:
    """Makes the file that jax.export.deserialize reads."""
    b, h, w = jax.export.symbolic_shape(f"b, {STRIDE}*h, {STRIDE}*w")
    arguments = [jax.ShapeDtypeStruct((b, h, w, channels), np.float32) for channels in (3, 1)]
    exported = jax.export.export(jax.jit(make_complete_function(weights)), platforms=PLATFORMS)
    return bytes(exported(*arguments).serialize())


def load_stablehlo(weights: Weights, path: Path) -> Complete:
    return jax.export.deserialize(bytearray(path.read_bytes())).call


def _make_torch_module(weights: Weights) -> tuple[Any, tuple[Any, Any]]:
    """Returns the module to export, and an image and mask to trace it with.

    There are two of each, since tracing would fix a batch size of 1, and they are large enough for
    the smooth fill's coarsest level to be more than one pixel.
    """
    import torch

    from glinpaint_jax.interop.torch_module import CompletionModule, load_generator

    state = {key: torch.from_numpy(array) for key, array in to_state_dict(weights).items()}
    generator = load_generator(weights.config, state)
    module = CompletionModule(generator, weights.config).eval()
    return module, (torch.zeros(2, 3, 132, 200), torch.zeros(2, 1, 132, 200))


def _from_torch(module: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def complete(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        # PyTorch's masks are often integers.
        completed = module(_to_torch(image), _to_torch(mask).long())
        return completed.numpy().transpose(0, 2, 3, 1)

    return complete


def _to_torch(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides PyTorch's TorchScript deprecation warnings and its export logs."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


ONNX = ("torch", "onnx", "onnxscript", "onnxruntime")
LOAD_PIXELS = partial(load_onnx, pipeline=True)
FORMATS = {
    "mmagic": Format(("torch",), pth_bytes, load_pth),
    "safetensors": Format((), safetensors_bytes, load_safetensors),
    "torchscript": Format(("torch",), torchscript_bytes, load_torchscript),
    "onnx": Format(ONNX, onnx_bytes, load_onnx),
    "onnx-pipeline": Format(ONNX, pipeline_bytes, LOAD_PIXELS, LEVEL),
    "onnx-pipeline-float16": Format(ONNX, partial(pipeline_bytes, half=True), LOAD_PIXELS, LEVEL),
    "stablehlo": Format((), stablehlo_bytes, load_stablehlo),
}
