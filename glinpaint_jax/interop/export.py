"""Trained weights as files for other tools, each run and compared with JAX before it is kept.

`torchscript`, `onnx` and `stablehlo` hold one function, the completion: image in RGB, 0..1, not
masked beforehand, and mask, 1 = hole -> the image with its hole filled. Batch and size are free,
sides are multiples of 4. Arrays are NCHW, in `stablehlo` NHWC. `mmagic` and `safetensors` hold the
weights alone, by MMagic's names.
"""

import dataclasses
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from glinpaint_jax.errors import UserError
from glinpaint_jax.interop.extras import import_extra
from glinpaint_jax.interop.mmagic import to_state_dict
from glinpaint_jax.interop.weight_files import write_pth, write_safetensors
from glinpaint_jax.models.generator import STRIDE
from glinpaint_jax.models.masking import composite, to_unit_range
from glinpaint_jax.models.networks import Weights, make_networks

TOLERANCE = 1e-4  # largest difference to JAX that a written file may show
TEST_SHAPES = ((1, 64, 96), (2, 132, 204))  # batch, height, width
PLATFORMS = ("cpu", "cuda", "tpu")  # a stablehlo file runs on each

# A function of numpy image [b, h, w, 3] in 0..1 and mask [b, h, w, 1] -> completed image.
Completion = Callable[[np.ndarray, np.ndarray], np.ndarray]


def make_completion(
    weights: Weights,
) -> Callable[[Float[Array, "b h w 3"], Float[Array, "b h w 1"]], Float[Array, "b h w 3"]]:
    """The function that files hold, in JAX: image in 0..1 and mask, 1 = hole -> completed image.

    Computes in float32 also where the weights were trained in bfloat16.
    """
    generator, _ = make_networks(dataclasses.replace(weights.config, precision="float32"))

    def complete(image: Array, mask: Array) -> Array:
        hole = (mask > 0.5).astype(image.dtype)
        fill = to_unit_range(jnp.asarray(weights.config.mask.fill, image.dtype))
        masked_image = composite(fill.reshape(1, 1, 1, 3), 2 * image - 1, hole)
        prediction = generator.apply(weights.generator, masked_image, hole, train=False)
        return composite((prediction + 1) / 2, image, hole)

    return complete


def export_weights(weights: Weights, kind: str, path: Path) -> float:
    """Writes `path` in the format `kind`, one of FORMATS; returns how far it is from JAX.

    That is the largest difference of any completed pixel (0..1), for test images of two sizes, and
    of any logit where the file holds a discriminator. Raises UserError, leaving no file, where it
    exceeds TOLERANCE, where `path` exists or cannot be written, where a package is missing.
    """
    write, compare = FORMATS[kind]
    if path.exists():
        raise UserError(f"{path} exists; remove it or choose another --output")
    if not path.absolute().parent.is_dir():
        raise UserError(f"cannot write {path}: no folder {path.absolute().parent}")
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with _quiet():
            write(weights, temporary)
            difference = compare(weights, temporary)
        if not difference <= TOLERANCE:  # so that a NaN fails
            raise UserError(
                f"the {kind} file and JAX complete differently: largest difference "
                f"{difference:.1e}, allowed is {TOLERANCE:.0e}; nothing was written"
            )
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def write_torchscript(weights: Weights, path: Path) -> None:
    """What IOPaint loads; the mask may be of any number type."""
    torch = import_extra("torch")
    image, mask = _example_tensors()
    with torch.no_grad():
        traced = torch.jit.trace(_torch_completion(weights), (image, mask.long()))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    path.write_bytes(buffer.getvalue())


def write_onnx(weights: Weights, path: Path) -> None:
    """Inputs `image` and `mask`, output `completed`, all float32 with named free dimensions."""
    torch = import_extra("torch")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(package)
    batch, h, w = (torch.export.Dim(name) for name in ("batch", "h", "w"))
    sizes = {0: batch, 2: STRIDE * h, 3: STRIDE * w}
    torch.onnx.export(
        _torch_completion(weights),
        _example_tensors(),
        path,
        input_names=["image", "mask"],
        output_names=["completed"],
        dynamic_shapes={"image": sizes, "mask": sizes},
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def write_stablehlo(weights: Weights, path: Path) -> None:
    """What jax.export.deserialize reads; float32 products are exact on every platform."""
    b, h, w = jax.export.symbolic_shape(f"b, {STRIDE}*h, {STRIDE}*w")
    arguments = [jax.ShapeDtypeStruct((b, h, w, channels), np.float32) for channels in (3, 1)]
    with jax.default_matmul_precision("highest"):
        exported = jax.export.export(jax.jit(make_completion(weights)), platforms=PLATFORMS)
        path.write_bytes(exported(*arguments).serialize())


def compare_torchscript(weights: Weights, path: Path) -> float:
    torch = import_extra("torch")
    module = torch.jit.load(path)

    def complete(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return _to_numpy(module(_to_torch(image), _to_torch(mask).long()))

    return _completion_difference(weights, complete)


def compare_onnx(weights: Weights, path: Path) -> float:
    onnxruntime = import_extra("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def complete(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"image": image.transpose(0, 3, 1, 2), "mask": mask.transpose(0, 3, 1, 2)}
        return session.run(None, inputs)[0].transpose(0, 2, 3, 1)

    return _completion_difference(weights, complete)


def compare_stablehlo(weights: Weights, path: Path) -> float:
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    return _completion_difference(weights, exported.call)


def compare_pth(weights: Weights, path: Path) -> float:
    torch = import_extra("torch")
    return _networks_difference(weights, torch.load(path, weights_only=True)["state_dict"])


def compare_safetensors(weights: Weights, path: Path) -> float:
    return _networks_difference(weights, import_extra("safetensors.torch").load_file(path))


# name -> (writer, what runs the written file and compares)
FORMATS = {
    "mmagic": (write_pth, compare_pth),
    "torchscript": (write_torchscript, compare_torchscript),
    "onnx": (write_onnx, compare_onnx),
    "stablehlo": (write_stablehlo, compare_stablehlo),
    "safetensors": (write_safetensors, compare_safetensors),
}


def _completion_difference(weights: Weights, complete: Completion) -> float:
    reference = jax.jit(make_completion(weights))
    differences = []
    for number, (batch, height, width) in enumerate(TEST_SHAPES):
        rng = np.random.default_rng(number)
        image = rng.random((batch, height, width, 3), np.float32)
        mask = np.zeros((batch, height, width, 1), np.float32)
        mask[:, height // 4 : height // 2, width // 3 :] = 1
        with jax.default_matmul_precision("highest"):
            expected = np.asarray(reference(image, mask))
        differences.append(np.abs(np.asarray(complete(image, mask)) - expected).max())
    return float(max(differences))


def _networks_difference(weights: Weights, state: dict[str, Any]) -> float:
    """Of the PyTorch networks with a file's state dict, loaded strictly."""
    torch_module = import_extra("glinpaint_jax.interop.torch_module")
    config = weights.config
    generator, discriminator = torch_module.load_networks(config, state)
    completion = torch_module.Completion(generator, config.mask.fill)

    def complete(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return _to_numpy(completion(_to_torch(image), _to_torch(mask)))

    difference = _completion_difference(weights, complete)
    if discriminator is None:
        return difference
    _, reference = make_networks(dataclasses.replace(config, precision="float32"))
    images = np.random.default_rng(0).random((2, config.image_size, config.image_size, 3), "f")
    windows = images[:, : config.local_size, : config.local_size]
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(partial(reference.apply, train=False))(
            weights.discriminator, images, windows
        )
    logits = discriminator(_to_torch(images[..., ::-1]), _to_torch(windows[..., ::-1]))
    return max(difference, float(np.abs(logits.numpy() - expected).max()))


def _torch_completion(weights: Weights) -> Any:
    """The completion as a PyTorch module."""
    torch = import_extra("torch")
    torch_module = import_extra("glinpaint_jax.interop.torch_module")
    state = {key: torch.from_numpy(array) for key, array in to_state_dict(weights).items()}
    generator, _ = torch_module.load_networks(weights.config, state)
    return torch_module.Completion(generator, weights.config.mask.fill).eval()


def _example_tensors() -> tuple[Any, Any]:
    """Image and mask that tracing runs on; two images, lest a size of 1 be taken as fixed."""
    torch = import_extra("torch")
    return torch.zeros(2, 3, 16, 24), torch.zeros(2, 1, 16, 24)


def _to_torch(array: np.ndarray) -> Any:
    """NHWC -> NCHW."""
    torch = import_extra("torch")
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def _to_numpy(tensor: Any) -> np.ndarray:
    """NCHW -> NHWC."""
    return tensor.numpy().transpose(0, 2, 3, 1)


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
