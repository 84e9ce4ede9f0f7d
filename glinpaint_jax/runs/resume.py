"""How a run goes on: from its newest whole step, and with which changes to its config."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from glinpaint_jax.config import Config, differences
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import find_damage, refuse_unwritable, write_atomically
from glinpaint_jax.weights import FOLDER

NEWEST = "newest_checkpoint"  # a file with the last step that became whole, 0 before the first
SET_ASIDE = "set_aside"
TEMPORARY = "orbax-checkpoint-tmp"  # in the name of a save that is being written
# A resumed run may change these: they do not touch the mathematics.
FREE_FIELDS = (
    "init_from",  # read once
    "log_every",
    "eval_every",
    "checkpoint_every",
    "max_skipped_updates",
    "max_failed_saves",
    "data.source",  # may have moved; the number of its images must not change
    "data.num_workers",
    "data.eval_source",
    "data.eval_images",
)


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
    for path in sorted((workdir / FOLDER).resolve().glob("*")):
        if path.name.isdigit():
            damage = find_damage(path)
            if damage is None:
                whole.append(int(path.name))
            else:
                damaged[path] = damage
        elif TEMPORARY in path.name:
            damaged[path] = "its save was interrupted"
    newest = workdir / NEWEST
    # The first save of a run may have been interrupted: nothing that was whole is lost then.
    interrupted = (
        newest.read_text() == "0\n"
        if newest.exists()
        else not any(path.name.isdigit() for path in damaged)
    )
    if not whole and not interrupted:
        found = "; ".join(f"{path.name}: {damage}" for path, damage in damaged.items())
        raise UserError(
            f"no checkpoint in {workdir / FOLDER} is whole ({found or 'it is empty'}), and the "
            "run in this workdir is not started anew; put back a copy, or pass another --workdir"
        )
    with refuse_unwritable(workdir):
        for path, damage in damaged.items():
            say(f"checkpoint {path.name} is not whole: {damage}; set aside in {_set_aside(path)}")
        if whole and not (newest.exists() and newest.read_text() == f"{max(whole)}\n"):
            write_atomically(newest, f"{max(whole)}\n".encode())
    return max(whole, default=None)


def _set_aside(path: Path) -> Path:
    """Moves a checkpoint out of the way, under its own name or one with a number."""
    folder = path.parent.with_name(SET_ASIDE)
    folder.mkdir(exist_ok=True)
    names = itertools.chain([path.name], (f"{path.name}-{n}" for n in itertools.count(2)))
    place = next(folder / name for name in names if not (folder / name).exists())
    return path.rename(place)


def refuse_changes(saved: Config, wanted: Config) -> None:
    """Raises UserError naming the fields that may not change when a run resumes."""
    free = set(FREE_FIELDS)
    if wanted.optimizer.schedule == "constant":
        free.add("num_steps")
    changes = [
        f"{path} ({old!r} -> {new!r})"
        for path, (old, new) in differences(saved, wanted).items()
        if path not in free
    ]
    if changes:
        raise UserError(
            f"the workdir holds a run with another config: {', '.join(changes)}; "
            "pass the old values to resume it, or another --workdir to start anew"
        )
