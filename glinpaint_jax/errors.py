"""The one kind of error that users cause and can mend."""

import importlib
from types import ModuleType


class UserError(Exception):
    """Bad input. Programs print its message as one line and exit with status 1, no traceback.

    The message says the value found, what is allowed, and the remedy.
    """


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
