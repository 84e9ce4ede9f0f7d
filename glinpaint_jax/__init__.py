"""Global&Local image completion (Iizuka, Simo-Serra, Ishikawa, SIGGRAPH 2017) in JAX."""

from typing import TYPE_CHECKING, Any

from glinpaint_jax.errors import UserError

if TYPE_CHECKING:
    from glinpaint_jax.inference.completer import Completer

__version__ = "0.1.0"
__all__ = ["Completer", "UserError"]


def __getattr__(name: str) -> Any:
    """Imports `Completer` at its first use, because data workers must not import jax."""
    if name == "Completer":
        from glinpaint_jax.inference.completer import Completer

        return Completer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "Completer"]
