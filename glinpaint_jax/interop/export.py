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
from glinpaint_jax.interop.weight_files import pth_bytes, read_weights, safetensors_bytes
from glinpaint_jax.models.generator import STRIDE
from glinpaint_jax.models.networks import Weights, make_complete_function

TOLERANCE = 1e-4  # largest allowed difference from JAX
LEVEL = 1 / 255 + TOLERANCE  # of pixels
PLATFORMS = ("cpu", "cuda", "tpu")  # a stablehlo file runs on all of them
TEST_SHAPES = ((1, 64, 96), (2, 132, 204))  # batch, height, width
# Of image and mask, to trace PyTorch with. There are two of each, since tracing would fix a batch
# size of 1, and they are large enough for the smooth fill's coarsest level to be more than one
# pixel.
TRACED_SHAPES = ((2, 3, 132, 200), (2, 1, 132, 200))

# Image in 0..1 and mask, 1 = hole -> completed image. Arrays are NHWC and RGB.
Complete = Callable[[np.ndarray, np.ndarray], Any]


class Format(NamedTuple):
    write: Callable[[Weights, Path], Complete]  # writes the file, reads it, returns its function
    packages: tuple[str, ...] = ()  # that must be installed
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
        difference = find_difference(weights, FORMATS[kind].write(weights, path))
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


def write_safetensors(weights: Weights, path: Path) -> Complete:
    path.write_bytes(safetensors_bytes(weights))
    return jax.jit(make_complete_function(read_weights(path)))


def write_pth(weights: Weights, path: Path) -> Complete:
    from glinpaint_jax.interop.torch_module import CompletionModule

    path.write_bytes(pth_bytes(weights))
    return _run_torch(CompletionModule(read_weights(path)))


def write_torchscript(weights: Weights, path: Path) -> Complete:
    """The file that IOPaint loads; its mask may have any number type."""
    import torch

    from glinpaint_jax.interop.torch_module import CompletionModule

    module, (image, mask) = CompletionModule(weights), map(torch.zeros, TRACED_SHAPES)
    with torch.no_grad():
        # No check: it takes most of the time, and the file is compared with JAX.
        traced = torch.jit.trace(module, (image, mask.long()), check_trace=False)
    buffer = io.BytesIO()  # given a path, torch would write its name into the file
    torch.jit.save(traced, buffer)
    path.write_bytes(buffer.getvalue())
    return _run_torch(torch.jit.load(path))


def write_onnx(weights: Weights, path: Path) -> Complete:
    """A file with inputs `image`, `mask` and output `completed`: float32, symbolic sizes."""
    import torch

    from glinpaint_jax.interop.torch_module import CompletionModule

    examples = map(torch.zeros, TRACED_SHAPES)
    batch, h, w = (torch.export.Dim(name) for name in ("batch", "h", "w"))
    sizes = {0: batch, 2: STRIDE * h, 3: STRIDE * w}
    return _on_nchw(_write_onnx(CompletionModule(weights), examples, sizes, path))


def write_pipeline(weights: Weights, path: Path, half: bool = False) -> Complete:
    """A file with the same names for pixels; with `half`, its kernels are float16."""
    import torch

    from glinpaint_jax.interop.torch_module import PipelineModule

    examples = (torch.zeros(shape, dtype=torch.uint8) for shape in ((133, 201, 3), (133, 201)))
    sizes = {0: torch.export.Dim("height"), 1: torch.export.Dim("width")}
    run = _write_onnx(PipelineModule(weights), examples, sizes, path, half)

    def complete(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        pixels, holes = np.rint(255 * image).astype("u1"), (255 * mask[..., 0]).astype("u1")
        return np.float32([run(*pair) for pair in zip(pixels, holes, strict=True)]) / 255

    return complete


def _write_onnx(
    module: Any, examples: Iterator[Any], sizes: dict[int, Any], path: Path, half: bool = False
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Writes the module to `path`; returns what onnxruntime makes of the file."""
    import onnxruntime
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
    model = program.model_proto
    if half:
        _halve_kernels(model.graph)
    path.write_bytes(model.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: it warns of constants in loops
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image, mask: session.run(None, {"image": image, "mask": mask})[0]


def _halve_kernels(graph: Any) -> None:
    """Stores kernels in float16, and casts them back to compute with."""
    import onnx

    for tensor in graph.initializer:
        array, name = onnx.numpy_helper.to_array(tensor), tensor.name
        if array.ndim < 4 or array.dtype != np.float32:
            continue
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), f"{name}_half"))
        cast = onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT)
        graph.node.insert(0, cast)


def write_stablehlo(weights: Weights, path: Path) -> Complete:
    """The file that jax.export.deserialize reads."""
    b, h, w = jax.export.symbolic_shape(f"b, {STRIDE}*h, {STRIDE}*w")
    arguments = [jax.ShapeDtypeStruct((b, h, w, channels), np.float32) for channels in (3, 1)]
    exported = jax.export.export(jax.jit(make_complete_function(weights)), platforms=PLATFORMS)
    path.write_bytes(exported(*arguments).serialize())
    return jax.export.deserialize(bytearray(path.read_bytes())).call


def _run_torch(module: Any) -> Complete:
    import torch

    def complete(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        # PyTorch's masks are often integers.
        return module(torch.from_numpy(image), torch.from_numpy(mask).long()).numpy()

    return _on_nchw(complete)


def _on_nchw(complete: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Complete:
    """Makes a function of NHWC arrays from one of NCHW arrays."""

    def complete_nhwc(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        arrays = (np.ascontiguousarray(x.transpose(0, 3, 1, 2)) for x in (image, mask))
        return complete(*arrays).transpose(0, 2, 3, 1)

    return complete_nhwc


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
FORMATS = {
    "mmagic": Format(write_pth, ("torch",)),
    "safetensors": Format(write_safetensors),
    "torchscript": Format(write_torchscript, ("torch",)),
    "onnx": Format(write_onnx, ONNX),
    "onnx-pipeline": Format(write_pipeline, ONNX, LEVEL),
    "onnx-pipeline-float16": Format(partial(write_pipeline, half=True), ONNX, LEVEL),
    "stablehlo": Format(write_stablehlo),
}
