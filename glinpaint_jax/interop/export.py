"""Trained weights as files for other tools, each run and compared with JAX before it is kept.

`torchscript`, `onnx` and `stablehlo` hold one function, the completion: image in RGB, 0..1, not
masked beforehand, and mask, 1 = hole -> the image with its hole filled. Batch and size are free,
sides are multiples of 4. Arrays are NCHW, in `stablehlo` NHWC. `mmagic` and `safetensors` hold the
weights alone, by MMagic's names.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from glinpaint_jax.errors import UserError, import_extra
from glinpaint_jax.files import refuse_unwritable, replace_atomically
from glinpaint_jax.interop.mmagic import to_state_dict
from glinpaint_jax.interop.verify import (
    compare_onnx,
    compare_pth,
    compare_safetensors,
    compare_stablehlo,
    compare_torchscript,
)
from glinpaint_jax.interop.weight_files import pth_bytes, safetensors_bytes
from glinpaint_jax.models.complete import make_complete_function
from glinpaint_jax.models.generator import STRIDE
from glinpaint_jax.models.networks import Weights

TOLERANCE = 1e-4  # largest difference to JAX that a written file may show
PLATFORMS = ("cpu", "cuda", "tpu")  # a stablehlo file runs on each


class Format(NamedTuple):
    """What must be installed, how to make the file's bytes, how to run and compare the file."""

    packages: tuple[str, ...]
    to_bytes: Callable[[Weights], bytes]
    compare: Callable[[Weights, Path], float]


def export_weights(weights: Weights, kind: str, path: Path) -> float:
    """Writes `path` in the format `kind`, one of FORMATS; returns how far it is from JAX.

    That is the largest difference of any completed pixel (0..1), for test images of two sizes, and
    of any logit (relative to the largest, where that exceeds 1) where the file holds a
    discriminator. Raises UserError, leaving no file, where it exceeds TOLERANCE, where `path`
    exists or cannot be written, where a package is missing.
    """
    packages, to_bytes, compare = FORMATS[kind]
    for package in packages:
        import_extra(package)
    with refuse_unwritable(path):
        if path.exists():
            raise UserError(f"{path} exists; remove it or choose another --output")
        with replace_atomically(path) as temporary, _quiet():
            temporary.write_bytes(to_bytes(weights))
            difference = compare(weights, temporary)
            if not difference <= TOLERANCE:  # so that a NaN fails
                raise UserError(
                    f"the {kind} file and JAX complete differently: largest difference "
                    f"{difference:.1e}, allowed is {TOLERANCE:.0e}; nothing was written"
                )
    return difference


def torchscript_bytes(weights: Weights) -> bytes:
    """What IOPaint loads; the mask may be of any number type."""
    import torch

    image, mask = _example_tensors()
    with torch.no_grad():
        traced = torch.jit.trace(_torch_completion(weights), (image, mask.long()))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    return buffer.getvalue()


def onnx_bytes(weights: Weights) -> bytes:
    """Inputs `image` and `mask`, output `completed`, all float32 with named free dimensions."""
    import torch

    batch, h, w = (torch.export.Dim(name) for name in ("batch", "h", "w"))
    sizes = {0: batch, 2: STRIDE * h, 3: STRIDE * w}
    program = torch.onnx.export(
        _torch_completion(weights),
        _example_tensors(),
        input_names=["image", "mask"],
        output_names=["completed"],
        dynamic_shapes={"image": sizes, "mask": sizes},
        dynamo=True,
        verbose=False,
    )
    return program.model_proto.SerializeToString()


def stablehlo_bytes(weights: Weights) -> bytes:
    """What jax.export.deserialize reads; float32 products are exact on every platform."""
    b, h, w = jax.export.symbolic_shape(f"b, {STRIDE}*h, {STRIDE}*w")
    arguments = [jax.ShapeDtypeStruct((b, h, w, channels), np.float32) for channels in (3, 1)]
    with jax.default_matmul_precision("highest"):
        exported = jax.export.export(jax.jit(make_complete_function(weights)), platforms=PLATFORMS)
        return bytes(exported(*arguments).serialize())


FORMATS = {
    "mmagic": Format(("torch",), pth_bytes, compare_pth),
    "safetensors": Format(("torch", "safetensors"), safetensors_bytes, compare_safetensors),
    "torchscript": Format(("torch",), torchscript_bytes, compare_torchscript),
    "onnx": Format(("torch", "onnx", "onnxscript", "onnxruntime"), onnx_bytes, compare_onnx),
    "stablehlo": Format((), stablehlo_bytes, compare_stablehlo),
}


def _torch_completion(weights: Weights) -> Any:
    """The completion as a PyTorch module."""
    import torch

    from glinpaint_jax.interop import torch_module

    state = {key: torch.from_numpy(array) for key, array in to_state_dict(weights).items()}
    generator, _ = torch_module.load_networks(weights.config, state)
    return torch_module.Completion(generator, weights.config.mask.fill).eval()


def _example_tensors() -> tuple[Any, Any]:
    """Image and mask that tracing runs on; two images, lest a size of 1 be taken as fixed."""
    import torch

    return torch.zeros(2, 3, 16, 24), torch.zeros(2, 1, 16, 24)


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch deprecates TorchScript, which its users still ask for, and chats while exporting."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
