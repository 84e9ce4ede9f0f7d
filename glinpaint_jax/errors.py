"""Errors that the user can fix."""

import importlib
from pathlib import Path
from types import ModuleType


class UserError(Exception):
    """Bad input. Programs print the message as one line, without a traceback, and exit with 1.

    Anything that reads what a user gave may raise it. The message gives the value found, what is
    allowed, and what to do.
    """


# The extra of this package that installs a module.
EXTRA_OF = {
    "torch": "torch",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "gcsfs": "gcs",
    "huggingface_hub": "hub",
    "python_multipart": "web",
    "starlette": "web",
    "uvicorn": "web",
    "wandb": "wandb",
}


def import_extra(module: str) -> ModuleType:
    """Imports an optional module. Raises UserError naming the extra to install if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).split(".")[0]
        if (extra := EXTRA_OF.get(package)) is None:
            raise
        is_checkout = (Path(__file__).parent.parent / "pyproject.toml").is_file()
        ours = f"-e '.[{extra}]'" if is_checkout else f"'glinpaint_jax[{extra}]'"
        raise UserError(
            f"this needs {package}, which is not installed; pip install {ours}"
        ) from None
