"""Loads trained weights, whatever `--checkpoint` says (downloads.CHECKPOINT_HELP)."""

import warnings
from pathlib import Path

import jax
import numpy as np

from glinpaint_jax.config import from_dict
from glinpaint_jax.downloads import CHECKPOINT_HELP, HUB_WEIGHTS, locate
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import absolute, find_damage, report_unreadable
from glinpaint_jax.interop.weight_files import read_weights
from glinpaint_jax.models.networks import Weights, abstract_variables
from glinpaint_jax.step_folders import check_steps, read_json


def load_weights(spec: str | Path, ema: bool | None = None) -> Weights:
    """Loads the networks that `spec` stands for.

    `ema` chooses the generator's averaged weights (True) or its last ones (False); None means
    averaged if available. Raises UserError if there are no complete weights, or if `ema` is True
    but there are no averaged ones.
    """
    if not isinstance(spec, str | Path):
        raise UserError(f"weights must be a path, a name or a URL, not {spec!r}")
    path = locate(spec)
    if (path / HUB_WEIGHTS).is_file():
        path /= HUB_WEIGHTS
    if path.is_file():
        weights, averaged = read_weights(path), False
    else:
        weights = _read_step(_find_step(absolute(path)), ema)
        averaged = weights.config.ema_decay > 0
    if ema and not averaged:
        raise UserError(f"{path} has no averaged weights; leave out --ema")
    return weights


def _find_step(path: Path) -> Path:
    """Returns `path` if it is a step, else the newest complete step of the workdir."""
    if (path / "state").is_dir():
        if damage := find_damage(path):
            raise UserError(f"{path} is damaged: {damage}; use another step")
        return path
    damaged = []
    for step_path, damage in check_steps(path):
        if damage is None:
            if damaged:
                warnings.warn(f"{'; '.join(damaged)}; using step {step_path.name}", stacklevel=3)
            return step_path
        damaged.append(f"{step_path} is damaged: {damage}")
    if damaged:
        raise UserError(f"no checkpoint in {path} is complete: {'; '.join(damaged)}")
    raise UserError(f"no checkpoint in {path}; it must be {CHECKPOINT_HELP}")


def _read_step(step_path: Path, ema: bool | None) -> Weights:
    import orbax.checkpoint as ocp  # takes long, and sets up logging

    config = from_dict(read_json(step_path / "config"))
    generator, discriminator = abstract_variables(config)
    network = "ema" if config.ema_decay and ema is not False else "generator"
    wanted = {network: generator, "discriminator": discriminator}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
    with report_unreadable(step_path), ocp.PyTreeCheckpointer() as checkpointer:
        state = checkpointer.restore(step_path / "state", args=arguments)
    data = read_json(step_path / "data")
    # Earlier versions saved no step, and had one batch size in a run.
    step = data["step"] if "step" in data else data["examples"] // config.global_batch_size
    return Weights(config, step, state[network], state["discriminator"])
