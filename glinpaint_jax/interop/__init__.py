"""Exchanges weights with PyTorch and exports models for other tools."""

from glinpaint_jax.interop.export import export_weights
from glinpaint_jax.interop.mmagic import from_state_dict, to_state_dict
from glinpaint_jax.interop.weight_files import read_weights

__all__ = ["export_weights", "from_state_dict", "read_weights", "to_state_dict"]
