"""Resuming a run: from its newest complete step, with the config changes that are allowed."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from glinpaint_jax.config import Config, differences, from_dict
from glinpaint_jax.data.sources import Source
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import readable_by_orbax, report_unwritable, write_atomically
from glinpaint_jax.runs.checkpoints import NEWEST, TEMPORARY
from glinpaint_jax.step_folders import FOLDER, find_step_damage, read_json

SET_ASIDE = "set_aside"
# Fields that may change when a run resumes: they do not affect what is computed.
FREE_FIELDS = (
    "init_from",  # only read when a run starts
    "log_every",
    "eval_every",
    "checkpoint_every",
    "keep_every",
    "best_by",
    "max_skipped_updates",
    "max_failed_saves",
    "data.source",  # may have moved; the number and names of its images must not change
    "data.num_workers",
    "data.eval_source",
    "data.eval_images",
)

Say = Callable[[str], Any]


def recover_newest_step(workdir: Path, say: Say) -> int | None:
    """Returns the step to resume from; None if the run in `workdir` has saved nothing yet.

    Moves damaged steps and interrupted saves to set_aside/, names them and corrects
    newest_checkpoint. Process 0 acts for all processes. Raises UserError, and changes nothing, if
    there are steps but none is complete.
    """
    step = _recover(workdir, say) if jax.process_index() == 0 else None
    if jax.process_count() > 1:
        mine = np.int32(-1 if step is None else step)
        agreed = int(multihost_utils.broadcast_one_to_all(mine))
        step = None if agreed < 0 else agreed
    return step


def restore(
    workdir: Path,
    step: int,
    config: Config,
    source: Source,
    abstract_state: Any,
    say: Say,
    accept_changed_data: bool = False,
) -> tuple[Any, int]:
    """Returns the state saved at `step` and the number of examples it has seen.

    `abstract_state` holds shapes, types and shardings; `source` has the training images. Raises
    UserError if `config` differs from the saved one in ways that matter, or if the images differ,
    unless `accept_changed_data`.
    """
    step_path = (workdir / FOLDER / str(step)).absolute()
    saved, data = from_dict(read_json(step_path / "config")), read_json(step_path / "data")
    check_config_changes(saved, config)
    note = check_data_changes(saved, data, config, source, accept_changed_data)
    if note and jax.process_index() == 0:
        say(note)
    with readable_by_orbax(step_path / "state") as folder, ocp.StandardCheckpointer() as reader:
        state = reader.restore(folder, abstract_state)
    return state, data["examples"]


def check_config_changes(saved: Config, wanted: Config) -> None:
    """Raises UserError naming every changed field that must not change when a run resumes."""
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
            f"the workdir holds a run with a different config: {', '.join(changes)}; "
            "pass the old values to resume it, or another --workdir to start a new run"
        )


def check_data_changes(
    saved: Config, data: dict[str, Any], config: Config, source: Source, accept: bool
) -> str:
    """Returns a line that says what changed in the training images; empty if nothing did.

    `data` is the checkpoint's; earlier versions saved no fingerprint. Raises UserError if the
    number or the names of the images have changed, unless `accept`.
    """
    old, new = saved.data.source, config.data.source
    if data["images"] != len(source):
        change = f"has {len(source)} training images, but the run began with {data['images']}"
    elif data.get("fingerprint") not in (None, source.fingerprint()):
        change = f"has {len(source)} training images, as before, but their names differ"
    elif old != new:
        return f"config.data.source was {old}, is {new}: assuming that its images are the same"
    else:
        return ""
    change = f"config.data.source={new} {change}" + f" ({old})" * (old != new)
    if accept:
        return f"{change}: going on, as --accept-changed-data says"
    raise UserError(
        f"{change}, so the data would differ; pass the old source, pass --accept-changed-data to "
        "go on with these images, or start in another --workdir with --config.init_from"
    )


def _sort_steps(workdir: Path) -> tuple[list[int], dict[Path, str]]:
    """Returns the complete steps, and what is wrong with each of the others."""
    complete, damaged = [], {}
    for path in sorted((workdir / FOLDER).resolve().glob("*")):
        if path.name.isdigit():
            damage = find_step_damage(path)
            if damage is None:
                complete.append(int(path.name))
            else:
                damaged[path] = damage
        elif TEMPORARY in path.name:
            damaged[path] = "its save was interrupted"
    return complete, damaged


def _recover(workdir: Path, say: Say) -> int | None:
    complete, damaged = _sort_steps(workdir)
    newest = _read_newest(workdir / NEWEST)
    # If only the first save of a run was interrupted, nothing is lost.
    nothing_lost = (
        newest == "0\n" if newest is not None else not any(path.name.isdigit() for path in damaged)
    )
    if not complete and not nothing_lost:
        found = "; ".join(f"{path.name}: {damage}" for path, damage in damaged.items())
        raise UserError(
            f"no checkpoint in {workdir / FOLDER} is complete ({found or 'it is empty'}); the run "
            "is not restarted from scratch; restore a copy, or pass another --workdir"
        )
    with report_unwritable(workdir):
        for path, damage in damaged.items():
            say(f"checkpoint {path.name} is damaged: {damage}; moved to {_set_aside(path)}")
        if complete and newest != f"{max(complete)}\n":
            write_atomically(workdir / NEWEST, f"{max(complete)}\n".encode())
    return max(complete, default=None)


def _read_newest(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; it must be a readable file with the number of "
            "the newest step"
        ) from None


def _set_aside(path: Path) -> Path:
    """Moves a checkpoint to set_aside/, with a number added if its name is taken."""
    folder = path.parent.with_name(SET_ASIDE)
    folder.mkdir(exist_ok=True)
    names = itertools.chain([path.name], (f"{path.name}-{n}" for n in itertools.count(2)))
    place = next(folder / name for name in names if not (folder / name).exists())
    return path.rename(place)
