"""Checkpoints: one orbax step directory holds the state, the config, the data position, metrics.

    WORKDIR/checkpoints/STEP/{state,config,data,metrics}

Saving is asynchronous. The last two steps and the best by l1 error are kept.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers

from glinpaint_jax.config import Config, to_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.parallel import replicated
from glinpaint_jax.saved_config import differences, from_dict
from glinpaint_jax.training.state import TrainState, create_state
from glinpaint_jax.weights import FOLDER, is_imported

# A resumed run may change these: they do not touch the mathematics.
FREE_FIELDS = (
    "log_every",
    "eval_every",
    "checkpoint_every",
    "data.num_workers",
    "data.eval_source",
    "data.eval_images",
)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, workdir: Path):
        def l1_of(metrics: dict[str, float]) -> float:
            return metrics["l1"]

        by_l1 = checkpoint_managers.BestN(
            get_metric_fn=l1_of,
            reverse=True,  # orbax keeps the end of the sorted list
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._manager = ocp.CheckpointManager(
            (workdir / FOLDER).absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                    [checkpoint_managers.LatestN(2), by_l1]
                ),
                best_fn=l1_of,  # without it orbax does not write the metrics
                best_mode="min",
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, state: TrainState, config: Config, step: int, l1: float | None) -> None:
        """Starts saving; returns once the state may be donated. `l1` ranks the checkpoint."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                config=ocp.args.JsonSave(to_dict(config)),
                data=ocp.args.JsonSave({"examples": step * config.global_batch_size}),
            ),
            metrics=None if l1 is None else {"l1": l1},
        )

    def restore(self, config: Config, mesh: Mesh) -> tuple[TrainState, int]:
        """The newest state, spread over `mesh`, and the number of examples it has been fed.

        Raises UserError where `config` differs from the saved one in what matters.
        """
        step = self._manager.latest_step()
        if is_imported(Path(self._manager.directory) / str(step)):
            raise UserError(
                "the workdir holds imported weights, not a run; train from them with "
                "--config.init_from=THIS_FOLDER and another --workdir"
            )
        saved = self._manager.restore(
            step,
            args=ocp.args.Composite(config=ocp.args.JsonRestore(), data=ocp.args.JsonRestore()),
        )
        refuse_changes(from_dict(saved.config), config)
        abstract = abstract_state(config, mesh)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
        return restored.state, saved.data["examples"]

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.close()


def abstract_state(config: Config, mesh: Mesh) -> Any:
    """Shapes, types and shardings of the state of `config`."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        jax.eval_shape(lambda: create_state(config)),
    )


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
