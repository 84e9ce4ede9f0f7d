"""Which checkpoints stay: the last two steps and the best by l1 error."""

import json
import shutil
from pathlib import Path

LAST = 2
DELETED = "deleted-"  # before the name of a step that is being deleted


def delete_superseded(folder: Path) -> None:
    """Deletes all other steps in `folder`. Call it once the newest step is whole.

    One that is being deleted has another name: half of it is never taken for a damaged step.
    """
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    errors = {step: error for step in steps if (error := _l1(folder / str(step))) is not None}
    kept = {*steps[-LAST:], min(errors, key=errors.get, default=None)}
    for step in steps:
        if step not in kept:
            (folder / str(step)).rename(folder / f"{DELETED}{step}")
    for path in folder.glob(f"{DELETED}*"):
        shutil.rmtree(path, ignore_errors=True)


def _l1(step_path: Path) -> float | None:
    try:
        return float(json.loads((step_path / "metrics" / "metrics").read_text())["l1"])
    except (OSError, ValueError, KeyError, TypeError):  # not evaluated, or damaged since
        return None
