"""Loads trained weights and saves imported ones.

Weights come from a workdir, one of its step directories (runs/checkpoints.py), a `.pth` or
`.safetensors` file with MMagic's keys, which may be given by name or URL (downloads.py), or a
folder that holds such a file for the Hugging Face Hub (interop/hub.py).
`import-torch` turns such a file into a workdir:

    WORKDIR/checkpoints/STEP/{generator,discriminator,config,torch,manifest.sha256}
"""

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from glinpaint_jax.config import from_dict, to_dict
from glinpaint_jax.downloads import BUNDLED, HUB_WEIGHTS, OFFICIAL, locate
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import (
    absolute,
    find_damage,
    replace_atomically,
    report_unreadable,
    report_unwritable,
    require_space,
    write_manifest,
)
from glinpaint_jax.interop.weight_files import read_weights
from glinpaint_jax.models.networks import Weights, abstract_variables
from glinpaint_jax.step_folders import (
    FOLDER,
    find_step_damage,
    read_json,
    step_number,
    steps_in,
)


def load_weights(place: str | Path, ema: bool | None = None) -> Weights:
    """Loads the networks of a workdir (its newest complete step), a step, or a weight file.

    `place` is a path, a URL or a name (`downloads.locate`). Workdirs may be trained or imported.
    `ema` chooses the generator's averaged weights (True) or its last ones (False); None means
    averaged if available. Raises UserError if no checkpoint is complete, or if `ema` is True but
    there are no averaged weights.
    """
    path = locate(place)
    if (path / HUB_WEIGHTS).is_file():
        path /= HUB_WEIGHTS
    if path.is_file():
        weights, _ = read_weights(locate(path))
        averaged = False
    else:
        path = absolute(path)
        is_step = (path / "state").is_dir() or _is_imported(path)
        step_path = _require_undamaged(path) if is_step else _find_newest_step(path)
        imported = _is_imported(step_path)
        weights = _load_imported(step_path) if imported else _load_trained(step_path, ema)
        averaged = weights.config.ema_decay > 0 and not imported
    if ema and not averaged:
        raise UserError(f"{path} has no averaged weights; leave out --ema")
    return weights


def save_imported(weights: Weights, workdir: Path) -> None:
    """Saves weights that were not trained here to a new `workdir`, for `load_weights`.

    Raises UserError and leaves nothing behind if `workdir` is not empty or cannot be written.
    """
    items = {
        "generator": ocp.args.StandardSave(weights.generator),
        "config": ocp.args.JsonSave(to_dict(weights.config)),
        "torch": ocp.args.JsonSave(weights.torch),
    }
    if weights.discriminator is not None:
        items["discriminator"] = ocp.args.StandardSave(weights.discriminator)
    with report_unwritable(workdir):
        if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
            raise UserError(f"{workdir} exists and is not empty; choose another folder")
        place = workdir.absolute()
        place.parent.mkdir(parents=True, exist_ok=True)
        networks = jax.tree.leaves((weights.generator, weights.discriminator))
        require_space(place.parent, sum(leaf.nbytes for leaf in networks))
        with replace_atomically(place) as temporary:
            with ocp.CheckpointManager(temporary / FOLDER) as manager:
                manager.save(weights.step, args=ocp.args.Composite(**items))
            write_manifest(temporary / FOLDER / str(weights.step))


def _is_imported(step_path: Path) -> bool:
    """Whether a step directory contains only weights, not the state of a run."""
    return (step_path / "generator").is_dir()


def _load_imported(step_path: Path) -> Weights:
    config = from_dict(read_json(step_path / "config"))
    generator, discriminator = abstract_variables(config)
    has_discriminator = (step_path / "discriminator").is_dir()
    return Weights(
        config,
        int(step_path.name) if step_path.name.isdigit() else 0,
        _read_arrays(step_path / "generator", generator),
        _read_arrays(step_path / "discriminator", discriminator) if has_discriminator else None,
        torch=read_json(step_path / "torch"),
    )


def _load_trained(step_path: Path, ema: bool | None) -> Weights:
    config = from_dict(read_json(step_path / "config"))
    generator, discriminator = abstract_variables(config)
    part = "ema" if config.ema_decay and ema is not False else "generator"
    state = _read_arrays(step_path / "state", {part: generator, "discriminator": discriminator})
    return Weights(config, step_number(step_path), state[part], state["discriminator"])


def _read_arrays(folder: Path, abstract: Any) -> Any:
    """Reads the arrays named in `abstract` from the folder, as numpy arrays."""
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), abstract)
    with report_unreadable(folder), ocp.PyTreeCheckpointer() as checkpointer:
        return checkpointer.restore(
            folder,
            args=ocp.args.PyTreeRestore(item=abstract, restore_args=as_numpy, partial_restore=True),
        )


def _find_newest_step(workdir: Path) -> Path:
    """Finds the newest complete step; warns if it skips newer ones."""
    damaged = []
    for step in reversed(steps_in(workdir)):
        path = workdir / FOLDER / str(step)
        damage = find_damage(path) if _is_imported(path) else find_step_damage(path)
        if damage is None:
            if damaged:
                warnings.warn(f"{'; '.join(damaged)}; using step {step}", stacklevel=3)
            return path
        damaged.append(f"{path} is damaged: {damage}")
    if damaged:
        raise UserError(f"no checkpoint in {workdir} is complete: {'; '.join(damaged)}")
    raise UserError(
        f"no checkpoint in {workdir}; it must be a workdir of a training run, a step "
        f"directory such as WORKDIR/{FOLDER}/1000, a .pth or .safetensors file, its URL, "
        f"hf://USER/REPO, {BUNDLED}, or {' or '.join(OFFICIAL)} (MMagic's weights)"
    )


def _require_undamaged(step_path: Path) -> Path:
    damage = find_damage(step_path)
    if damage is not None:
        raise UserError(f"{step_path} is damaged: {damage}; use another step")
    return step_path
