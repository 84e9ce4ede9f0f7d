"""Optional packages."""

import importlib
from types import ModuleType

from glinpaint_jax.errors import UserError

# The package's own extra that brings a module, where its name is another one.
EXTRA_OF = {
    "safetensors": "torch",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "gradio": "web",
}


def import_extra(module: str) -> ModuleType:
    """Imports a module of an optional package; raises UserError naming the extra to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).split(".")[0]
        extra = EXTRA_OF.get(package, package)
        if extra not in ("torch", "onnx", "web"):
            raise
        raise UserError(
            f"this needs {package}, which is not installed; pip install -e '.[{extra}]'"
        ) from None
