"""The folders that hold the steps of a workdir."""

import json
from pathlib import Path
from typing import Any

FOLDER = "checkpoints"  # in a workdir; holds one folder per step


def steps_in(workdir: Path) -> list[int]:
    """Lists the steps of the checkpoints in `workdir`."""
    try:
        names = [path.name for path in (workdir / FOLDER).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name) for name in names if name.isdigit())


def read_json(folder: Path) -> dict[str, Any]:
    """Reads what orbax's JsonSave wrote; its own reader would wait for all other processes."""
    return json.loads((folder / "metadata").read_text())
