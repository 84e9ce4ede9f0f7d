"""The folders that hold the steps of a workdir, and which of them are complete."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glinpaint_jax.files import find_damage, report_unreadable

FOLDER = "checkpoints"  # in a workdir; holds one folder per step


def steps_in(workdir: Path) -> list[int]:
    """Lists the steps of the checkpoints in `workdir`."""
    folder = workdir / FOLDER
    with report_unreadable(folder):
        try:
            names = [path.name for path in folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
    return sorted(int(name) for name in names if name.isdigit())


def check_steps(workdir: Path) -> Iterator[tuple[Path, str | None]]:
    """Yields the steps, the newest first, and what is wrong with each; None if it is complete."""
    for step in reversed(steps_in(workdir)):
        path = workdir / FOLDER / str(step)
        yield path, find_damage(path)


def read_json(folder: Path) -> dict[str, Any]:
    """Reads what orbax's JsonSave wrote; its own reader would wait for all other processes."""
    return json.loads((folder / "metadata").read_text())
