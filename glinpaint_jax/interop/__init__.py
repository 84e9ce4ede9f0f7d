"""Exchanges weights with PyTorch and exports models for other tools.

`to_state_dict` and `from_state_dict` convert arrays; `read_weights` reads weight files; `pth_bytes`
and `safetensors_bytes` return the contents of such files; `export_weights` writes any format and
verifies the result.
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
