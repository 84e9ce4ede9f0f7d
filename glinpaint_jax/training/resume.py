"""Where a run goes on: the newest step that is whole, and what becomes of the others."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from glinpaint_jax.errors import UserError
from glinpaint_jax.manifest import find_damage
from glinpaint_jax.weights import FOLDER

NEWEST = "newest_checkpoint"  # a file with the last step that became whole
SET_ASIDE = "set_aside"
TEMPORARY = "orbax-checkpoint-tmp"  # in the name of a save that is being written


def newest_whole_step(workdir: Path, say: Callable[[str], Any]) -> int | None:
    """The step to resume from; None in a workdir whose run has saved nothing yet.

    Steps that are not whole are set aside and named; unfinished saves, too. Process 0 decides for
    all. Raises UserError where there are steps but none is whole.
    """
    step = _sort_out(workdir, say) if jax.process_index() == 0 else None
    if jax.process_count() > 1:
        mine = np.int32(-1 if step is None else step)
        agreed = int(multihost_utils.broadcast_one_to_all(mine))
        step = None if agreed < 0 else agreed
    return step


def _sort_out(workdir: Path, say: Callable[[str], Any]) -> int | None:
    damaged, whole = {}, []
    for path in sorted((workdir / FOLDER).glob("*")):
        if path.name.isdigit():
            damage = find_damage(path)
            if damage is None:
                whole.append(int(path.name))
            else:
                damaged[path] = damage
        elif TEMPORARY in path.name:
            damaged[path] = "its save was interrupted"
    steps = [path.name for path in damaged if path.name.isdigit()]
    # The first save of a run may have been interrupted: nothing that was whole is lost then.
    if not whole and ((workdir / NEWEST).exists() or len(steps) > 1):
        found = "; ".join(f"{path.name}: {damage}" for path, damage in damaged.items())
        raise UserError(
            f"no checkpoint in {workdir / FOLDER} is whole ({found or 'it is empty'}), and the "
            "run in this workdir is not started anew; put back a copy, or pass another --workdir"
        )
    for path, damage in damaged.items():
        say(f"checkpoint {path.name} is not whole: {damage}; set aside in {_set_aside(path)}")
    return max(whole, default=None)


def _set_aside(path: Path) -> Path:
    """Moves a checkpoint out of the way, under its own name or one with a number."""
    folder = path.parent.with_name(SET_ASIDE)
    folder.mkdir(exist_ok=True)
    names = itertools.chain([path.name], (f"{path.name}-{n}" for n in itertools.count(2)))
    place = next(folder / name for name in names if not (folder / name).exists())
    return path.rename(place)
