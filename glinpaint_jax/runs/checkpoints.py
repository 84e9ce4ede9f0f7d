"""Checkpoints: one orbax step directory holds the state, the config, the data position, metrics.

    WORKDIR/checkpoints/STEP/{state,config,data,metrics,manifest.sha256}
    WORKDIR/newest_checkpoint    the last step that became whole; 0 before the first
    WORKDIR/set_aside/           what was found damaged

A step is whole once it has its manifest, which is written last. Saving is asynchronous. The last
two steps and the best by l1 error are kept; none is deleted before a newer one is whole.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from glinpaint_jax.config import Config, from_dict, to_dict
from glinpaint_jax.distributed import replicated
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import require_space, write_atomically, write_manifest
from glinpaint_jax.runs.resume import NEWEST, TEMPORARY, refuse_changes
from glinpaint_jax.training.state import TrainState, create_state
from glinpaint_jax.weights import FOLDER, is_imported

SAVE_TIMEOUT = 600  # seconds that processes wait for each other's part of a step
DESCRIPTION_BYTES = 2**20  # of a step, beside its arrays


class Checkpoints:
    """The checkpoints of one run.

    A save that fails is warned of and tried again at the next one; `max_failed_saves` of them in
    a row raise UserError.
    """

    def __init__(self, workdir: Path, warn: Callable[[str], Any], max_failed_saves: int = 1):
        self._workdir = workdir
        self._warn = warn
        self._max_failed_saves = max_failed_saves
        self._failed_saves = 0
        self._manager: ocp.CheckpointManager | None = _open_manager(self.folder)
        self._sealing: threading.Thread | None = None
        self._step = 0
        self._manager_failed = False
        self._error: Exception | None = None

    @property
    def folder(self) -> Path:
        return (self._workdir / FOLDER).absolute()

    def save(
        self, state: TrainState, config: Config, step: int, images: int, l1: float | None = None
    ) -> None:
        """Starts saving; returns once the state may be donated.

        `images` is the length of the training source; `l1` ranks the checkpoint.
        """
        self.settle()
        self._step = step
        try:
            self._require_space(state)
            self._manager_failed = True  # until it has not
            self._manager = self._manager or _open_manager(self.folder)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    config=ocp.args.JsonSave(to_dict(config)),
                    data=ocp.args.JsonSave(
                        {"examples": step * config.global_batch_size, "images": images}
                    ),
                ),
                metrics=None if l1 is None else {"l1": l1},
                force=True,
            )
        except Exception as error:  # whatever the layers beneath make of a full disk
            self._error = error
            self.settle()
            return
        self._manager_failed = False
        self._sealing = threading.Thread(target=self._seal)
        self._sealing.start()

    def _require_space(self, state: TrainState) -> None:
        """Raises OSError, in all processes, where the first of them finds no room for a step."""
        number = 0
        try:
            if jax.process_index() == 0:
                size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
                self.folder.mkdir(exist_ok=True)
                require_space(self.folder, size + DESCRIPTION_BYTES)
                if not (self._workdir / NEWEST).exists():
                    write_atomically(self._workdir / NEWEST, b"0\n")
        except OSError as error:
            number = error.errno
        if jax.process_count() > 1:
            number = int(multihost_utils.broadcast_one_to_all(np.int32(number)))
        if number:
            raise OSError(number, os.strerror(number))

    def _seal(self) -> None:
        """Waits until the step is on disk and makes it whole."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._error, self._manager_failed = error, True
            return
        if jax.process_index() != 0:
            return
        try:
            write_manifest(self.folder / str(self._step))
        except OSError as error:
            self._error = error
            return
        try:
            write_atomically(self._workdir / NEWEST, f"{self._step}\n".encode())
            delete_superseded(self.folder)
        except OSError as error:  # the step is whole all the same
            self._warn(f"cannot tidy up {self.folder}: {_reason(error)}")

    def settle(self, *, wait: bool = True) -> None:
        """Takes note of how the last save ended, once it has; `wait` waits for that.

        Raises UserError where one save too many has failed.
        """
        if self._sealing is not None:
            if not wait and self._sealing.is_alive():
                return
            self._sealing.join()
            self._sealing = None
            if self._error is None:
                self._failed_saves = 0
        if self._error is None:
            return
        problem = f"cannot save step {self._step} in {self.folder}: {_reason(self._error)}"
        self._error = None
        self._failed_saves += 1
        if self._manager_failed and self._manager is not None:
            for _ in range(2):  # the first time it raises what has failed
                with contextlib.suppress(Exception):
                    self._manager.close()
            self._manager = None  # a new one will know nothing of the step
        self._manager_failed = False
        if jax.process_index() == 0:
            # What there is of the step takes up room, and must not count as one of the last two.
            for path in (*self.folder.glob(f"*{TEMPORARY}*"), self.folder / str(self._step)):
                shutil.rmtree(path, ignore_errors=True)
        count = f"failed save {self._failed_saves} in a row, of {self._max_failed_saves} allowed"
        if self._failed_saves >= self._max_failed_saves:
            raise UserError(f"{problem}; {count}; mend that and run the same command again")
        self._warn(f"{problem}; {count} (config.max_failed_saves)")

    def restore(self, config: Config, mesh: Mesh, step: int, images: int) -> tuple[TrainState, int]:
        """The state of `step`, spread over `mesh`, and the number of examples it has been fed.

        Raises UserError where `config` or the number of images differs from the saved one in
        what matters.
        """
        if is_imported(self.folder / str(step)):
            raise UserError(
                "the workdir holds imported weights, not a run; train from them with "
                "--config.init_from=THIS_FOLDER and another --workdir"
            )
        saved = self._manager.restore(
            step,
            args=ocp.args.Composite(config=ocp.args.JsonRestore(), data=ocp.args.JsonRestore()),
        )
        saved_config = from_dict(saved.config)
        refuse_changes(saved_config, config)
        if saved.data["images"] != images:
            raise UserError(
                f"config.data.source={config.data.source} has {images} training images, the run "
                f"began with {saved.data['images']} ({saved_config.data.source}), so its data "
                "would go on in another order; give it the old ones, or start another --workdir "
                "with --config.init_from"
            )
        if saved_config.data.source != config.data.source and jax.process_index() == 0:
            self._warn(
                f"config.data.source was {saved_config.data.source}, is {config.data.source}: its "
                f"{images} images are taken for the same ones"
            )
        abstract = abstract_state(config, mesh)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
        return restored.state, saved.data["examples"]

    def finish(self) -> None:
        """Waits for the last save. Raises UserError where that has failed."""
        self.settle()
        if self._failed_saves:
            raise UserError(
                f"step {self._step} is not saved; mend {self.folder} and run the same command again"
            )

    def close(self) -> None:
        """Waits for a save under way, which may fail with a warning."""
        self._max_failed_saves = sys.maxsize
        self.settle()
        if self._manager is not None:
            self._manager.close()


def _open_manager(folder: Path) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        folder,
        # Without best_fn orbax writes no metrics. What stays is not for it to say: it knows
        # nothing of manifests.
        options=ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics["l1"],
            async_options=ocp.AsyncOptions(timeout_secs=SAVE_TIMEOUT),
        ),
    )


def _reason(error: Exception) -> str:
    """Why a save failed, in a few words: the layers beneath wrap the system's in many lines."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    text = " ".join(str(error).split())
    known = map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO))
    return next((words for words in known if words in text), f"{type(error).__name__}: {text}")


def abstract_state(config: Config, mesh: Mesh) -> Any:
    """Shapes, types and shardings of the state of `config`."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        jax.eval_shape(lambda: create_state(config)),
    )


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
