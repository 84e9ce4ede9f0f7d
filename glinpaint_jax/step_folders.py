"""The folders that hold the steps of a workdir: their place, number and damage."""

import json
from pathlib import Path
from typing import Any

from glinpaint_jax.files import find_damage

FOLDER = "checkpoints"  # in a workdir; holds one folder per step


def steps_in(workdir: Path) -> list[int]:
    """Lists the steps of the checkpoints in `workdir`."""
    return sorted(int(p.name) for p in (workdir / FOLDER).glob("*") if p.name.isdigit())


def step_number(step_path: Path) -> int:
    """The step that a directory holds, whatever its name."""
    batch = read_json(step_path / "config")["global_batch_size"]
    return read_json(step_path / "data")["examples"] // batch


def find_step_damage(step_path: Path) -> str | None:
    """Returns what is wrong with a step's files or its number, in a few words, or None."""
    damage = find_damage(step_path)
    if damage is None and step_path.name.isdigit():
        number = step_number(step_path)
        damage = None if step_path.name == str(number) else f"it holds step {number}"
    return damage


def read_json(folder: Path) -> dict[str, Any]:
    """Reads what orbax's JsonSave wrote; its own reader would wait for all other processes."""
    return json.loads((folder / "metadata").read_text())
