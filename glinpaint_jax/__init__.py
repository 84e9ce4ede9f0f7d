"""Global&Local image completion (Iizuka, Simo-Serra, Ishikawa, SIGGRAPH 2017) in JAX."""

__version__ = "0.1.0"
