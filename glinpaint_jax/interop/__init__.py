"""Weights from PyTorch and back, and files for other tools.

`to_state_dict` and `from_state_dict` work on arrays alone; `read_weights` reads weight files,
`pth_bytes` and `safetensors_bytes` are what such files hold; `export_weights` writes any format
and verifies it.
"""

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
