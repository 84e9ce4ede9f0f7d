"""Resuming a run: from its newest complete step, with the config changes that are allowed."""

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from glinpaint_jax.config import Config, differences, from_dict
from glinpaint_jax.data.sources import Source
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import absolute, report_unreadable, report_unwritable, write_atomically
from glinpaint_jax.runs.checkpoints import NEWEST, TEMPORARY, max_of_processes
from glinpaint_jax.step_folders import FOLDER, check_steps, read_json

# Fields that may always change when a run resumes: they do not affect what is computed.
CHANGEABLE_FIELDS = (
    "init_from",  # only read when a run starts
    "log_every",
    "log_to",
    "eval_every",
    "eval_masks",
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
# Fields that never may: they shape the state, or what the stream of examples means.
FIXED_FIELDS = (
    "seed",
    "image_size",
    "model.width",
    "model.output",
    "model.base",
    "model.padding",
    "data.crop",
    "data.crop_size",
    "data.horizontal_flip",
    "optimizer.name",
)


def recover_newest_step(workdir: Path, log: Callable[[str], Any]) -> int | None:
    """Returns the step to resume from; None if the run in `workdir` has saved nothing yet.

    Renames damaged steps and interrupted saves to damaged-*, says so and corrects
    newest_checkpoint. Process 0 acts for all processes. Raises UserError, and changes nothing, if
    there are steps but none is complete.
    """
    step = _recover(workdir, log) if jax.process_index() == 0 else None
    return max_of_processes(step or 0) or None


def _recover(workdir: Path, log: Callable[[str], Any]) -> int | None:
    folder, newest_path = workdir / FOLDER, workdir / NEWEST
    with report_unreadable(folder):
        checked = dict(check_steps(workdir))  # all: to save, orbax reads the scores of each
        interrupted = list(folder.glob(f"*{TEMPORARY}*"))
    with report_unreadable(newest_path):
        newest = newest_path.read_bytes() if newest_path.exists() else None
    step = max((int(path.name) for path in checked if checked[path] is None), default=None)
    damaged = {path: damage for path, damage in checked.items() if damage}
    # If only the first save of a run was interrupted, nothing is lost.
    nothing_lost = newest == b"0\n" or (newest is None and not damaged)
    damaged |= dict.fromkeys(interrupted, "its save was interrupted")
    if step is None and not nothing_lost:
        found = "; ".join(f"{path.name}: {damage}" for path, damage in damaged.items())
        raise UserError(
            f"no checkpoint in {workdir / FOLDER} is complete ({found or 'it is empty'}); the run "
            "is not restarted from scratch; restore a copy, or pass another --workdir"
        )
    with report_unwritable(workdir):
        for path, damage in damaged.items():
            # A name that orbax takes neither for a step nor for a save in progress.
            place = path.with_name(f"damaged-{path.name.partition('.')[0]}-{time.time_ns()}")
            path.rename(place)
            log(f"checkpoint {path.name} is damaged: {damage}; renamed to {place}")
        if step is not None and newest != (number := f"{step}\n".encode()):
            write_atomically(newest_path, number)
    return step


def restore(
    workdir: Path,
    step: int,
    config: Config,
    source: Source,
    abstract_state: Any,
    log: Callable[[str], Any],
    accepted: Collection[str] = (),
) -> tuple[Any, dict[str, Any]]:
    """Returns the state saved at `step`, and the data that the next checkpoint is saved with.

    `abstract_state` holds shapes, types and shardings; `source` has the training images. `accepted`
    are changes to go on with: "config", "data". The data says how many `examples` the run has seen
    of which images, and lists its config `changes`.
    """
    step_path = absolute(workdir / FOLDER / str(step))
    with report_unreadable(step_path):
        saved, data = from_dict(read_json(step_path / "config")), read_json(step_path / "data")
    config_note = check_config_changes(saved, config, "config" in accepted)
    data_note = check_data_changes(saved, data, config, source, "data" in accepted)
    for note in (config_note, data_note):
        if note and jax.process_index() == 0:
            log(note)
    with report_unreadable(step_path), ocp.StandardCheckpointer() as reader:
        state = reader.restore(step_path / "state", abstract_state)
    changes = data.get("changes", [])
    if changed := differences(saved, config):
        changes = [*changes, {"step": step, "fields": changed}]
    return state, {"examples": data["examples"], "changes": changes} | describe_source(source)


def describe_source(source: Source) -> dict[str, Any]:
    """What a checkpoint says of the training images."""
    return {"images": len(source), "fingerprint": source.fingerprint()}


def check_config_changes(saved: Config, wanted: Config, accept: bool = False) -> str:
    """Returns a line with every change that affects what is computed; empty if there is none.

    Raises UserError if there is one, unless `accept` and all of them are possible.
    """
    changeable = set(CHANGEABLE_FIELDS)
    if wanted.optimizer.schedule == saved.optimizer.schedule == "constant":
        changeable.add("num_steps")
    fixed = set(FIXED_FIELDS)
    if bool(saved.ema_decay) != bool(wanted.ema_decay):
        fixed.add("ema_decay")
    found = {
        path: f"{path} ({old!r} -> {new!r})"
        for path, (old, new) in differences(saved, wanted).items()
        if path not in changeable
    }
    if not found:
        return ""
    anew = "start in another --workdir with --config.init_from=THIS_WORKDIR"
    if impossible := [text for path, text in found.items() if path in fixed]:
        raise UserError(
            f"a run cannot resume with another {', '.join(impossible)}; pass the old value, or "
            f"{anew}"
        )
    changes = ", ".join(found.values())
    if accept:
        return f"config changed: {changes}; going on, as --accept-changed-config says"
    raise UserError(
        f"the workdir holds a run with a different config: {changes}; pass the old values, pass "
        f"--accept-changed-config to go on with the new ones, or {anew}"
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
