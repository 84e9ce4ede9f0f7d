"""A config as a checkpoint holds it: read back, and compared with the one of today."""

from typing import Any

from glinpaint_jax.config import Config, flatten, to_dict
from glinpaint_jax.errors import UserError


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`. Fields that `values` lacks keep their defaults.

    Raises UserError for fields that this version does not know.
    """
    config = Config()
    fields = flatten(values)
    unknown = fields.keys() - flatten(to_dict(config)).keys()
    if unknown:
        names = ", ".join(sorted(unknown))
        raise UserError(f"a saved config has fields that this version does not know: {names}")
    for path, value in fields.items():
        *section, name = path.split(".")
        setattr(getattr(config, section[0]) if section else config, name, value)
    if isinstance(config.mask.fill, list):
        config.mask.fill = tuple(config.mask.fill)
    return config


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The leaf fields that differ, by path, with both values."""
    old_values, new_values = flatten(to_dict(old)), flatten(to_dict(new))
    return {
        path: (value, new_values[path])
        for path, value in old_values.items()
        if value != new_values[path]
    }
