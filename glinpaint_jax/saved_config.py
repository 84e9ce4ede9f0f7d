"""A config as a checkpoint holds it: read back, and compared with the one of today."""

import dataclasses
from typing import Any, get_type_hints

from glinpaint_jax.config import Config, flatten, to_dict
from glinpaint_jax.errors import UserError


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`. Fields that `values` lacks keep their defaults.

    Raises UserError for fields that this version does not know.
    """
    config = Config()
    unknown = flatten(values).keys() - flatten(to_dict(config)).keys()
    if unknown:
        fields = ", ".join(sorted(unknown))
        raise UserError(f"a saved config has fields that this version does not know: {fields}")
    sections = get_type_hints(Config)
    for name, value in values.items():
        if name == "mask" and "fill" in value:
            value = value | {"fill": tuple(value["fill"])}
        if dataclasses.is_dataclass(sections.get(name)):
            setattr(config, name, sections[name](**value))
        else:
            setattr(config, name, value)
    return config


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The leaf fields that differ, by path, with both values."""
    old_values, new_values = flatten(to_dict(old)), flatten(to_dict(new))
    return {
        path: (value, new_values[path])
        for path, value in old_values.items()
        if value != new_values[path]
    }
