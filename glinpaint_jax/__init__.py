"""Global&Local image completion (Iizuka, Simo-Serra, Ishikawa, SIGGRAPH 2017) in JAX."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports `Completer` at its first use, because data workers must not import jax."""
    if name == "Completer":
        from glinpaint_jax.inference.completer import Completer

        return Completer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
