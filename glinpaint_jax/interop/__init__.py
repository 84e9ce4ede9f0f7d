"""Weights from PyTorch and back, and files for other tools.

`to_state_dict` and `from_state_dict` work on arrays alone; `read_weights`, `write_pth` and
`write_safetensors` on weight files; `export_weights` writes any format and verifies it.
"""

from glinpaint_jax.interop.export import FORMATS, export_weights
from glinpaint_jax.interop.mmagic import from_state_dict, to_state_dict
from glinpaint_jax.interop.weight_files import read_weights, write_pth, write_safetensors

__all__ = [
    "FORMATS",
    "export_weights",
    "from_state_dict",
    "read_weights",
    "to_state_dict",
    "write_pth",
    "write_safetensors",
]
