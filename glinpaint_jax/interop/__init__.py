"""Exchanges weights with PyTorch and exports models for other tools."""

from glinpaint_jax.interop.export import FORMATS, export_weights
from glinpaint_jax.interop.mmagic import from_state_dict, to_state_dict
from glinpaint_jax.interop.weight_files import pth_bytes, read_weights, safetensors_bytes

__all__ = [
    "FORMATS",
    "export_weights",
    "from_state_dict",
    "pth_bytes",
    "read_weights",
    "safetensors_bytes",
    "to_state_dict",
]
