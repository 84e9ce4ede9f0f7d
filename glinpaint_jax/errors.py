"""Errors that the user can fix."""

import importlib
from pathlib import Path
from types import ModuleType


class UserError(Exception):
    """Bad input. Programs print the message as one line, without a traceback, and exit with 1.

    The message gives the value found, what is allowed, and what to do.
    """


# The extra of this package that installs a module, if it has another name.
EXTRA_OF = {
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "gcsfs": "gcs",
    "huggingface_hub": "hub",
    "python_multipart": "web",
    "starlette": "web",
    "uvicorn": "web",
}


def import_extra(module: str) -> ModuleType:
    """Imports an optional module. Raises UserError naming the extra to install if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).split(".")[0]
        extra = EXTRA_OF.get(package, package)
        if extra not in ("torch", "onnx", "web", "hub", "gcs"):
            raise
        raise UserError(
            f"this needs {package}, which is not installed; pip install {_ourselves(extra)}"
        ) from None


def _ourselves(extra: str) -> str:
    """What pip installs this package by, with an extra: the checkout it runs from, or its name."""
    is_checkout = (Path(__file__).parent.parent / "pyproject.toml").is_file()
    return f"-e '.[{extra}]'" if is_checkout else f"'glinpaint_jax[{extra}]'"
