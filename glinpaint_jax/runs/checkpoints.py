"""Checkpoints: one orbax step directory holds state, config, data position and metrics.

    WORKDIR/checkpoints/STEP/{state,config,data,metrics,manifest.sha256}
    WORKDIR/newest_checkpoint    the last complete step; 0 before the first one
    WORKDIR/set_aside/           damaged steps and interrupted saves

A step is complete if it has its manifest, which is written last. Saving is asynchronous. Kept are
the last two steps, the best of the phase evaluated last, and each multiple of config.keep_every.
Other steps are deleted, but only after a newer one is complete.
"""

import contextlib
import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from glinpaint_jax.config import Config, to_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import (
    in_bucket,
    remove_folder,
    require_space,
    unknown_to_orbax,
    write_atomically,
    write_manifest,
)
from glinpaint_jax.step_folders import FOLDER, steps_in

NEWEST = "newest_checkpoint"
TEMPORARY = "orbax-checkpoint-tmp"  # part of the name of a step that is being written
DELETED = "deleted-"  # prefix of a step that is being deleted
KEPT_STEPS = 2
SAVE_TIMEOUT = 600  # seconds that processes wait for each other's part of a step
DESCRIPTION_BYTES = 2**20  # upper bound for a step's files apart from its arrays


class Checkpoints:
    """Saves the checkpoints of one run.

    A failed save causes a warning and is retried at the next step that is saved;
    `max_failed_saves` failures in a row raise UserError.
    """

    def __init__(self, workdir: Path, warn: Callable[[str], Any], max_failed_saves: int = 1):
        self._workdir = workdir
        self._folder = (workdir / FOLDER).absolute()
        self._warn = warn
        self._max_failed_saves = max_failed_saves
        self._failed_saves = 0  # in a row
        self._manager: ocp.CheckpointManager | None = None  # opened by the first save
        self._staging: tempfile.TemporaryDirectory | None = None  # for a bucket unknown to orbax
        self._background = ThreadPoolExecutor(max_workers=1)
        self._saving: tuple[int, Future[None]] | None = None  # the step being written

    def save(
        self,
        state: Any,
        config: Config,
        step: int,
        images: int,
        phase: str,
        scores: dict[str, float] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        """Starts saving; returns once `state` may be donated.

        `images` and `fingerprint` are those of the training source; `scores` rank the checkpoint
        among those of its `phase`.
        """
        self.settle()
        self._agree_on_failures()
        try:
            self._require_space(state)
            self._manager = self._manager or self._open_manager()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    config=ocp.args.JsonSave(to_dict(config)),
                    data=ocp.args.JsonSave(
                        {
                            "examples": step * config.global_batch_size,
                            "images": images,
                            "fingerprint": fingerprint,
                        }
                    ),
                ),
                metrics=None if scores is None else {"phase": phase} | scores,
                force=True,
            )
        except Exception as error:  # orbax and tensorstore wrap a full disk in many types
            self._handle_failure(step, error)
            return
        self._saving = step, self._background.submit(self._seal, step, config)

    def check_last_save(self) -> None:
        """Handles the outcome of the last save if it has ended."""
        self.settle(wait=False)

    def settle(self, *, wait: bool = True) -> None:
        """Handles the outcome of the last save; without `wait`, only if that save has ended.

        Raises UserError after too many failed saves in a row.
        """
        if self._saving is None or (not wait and not self._saving[1].done()):
            return
        (step, sealed), self._saving = self._saving, None
        try:
            sealed.result()
        except Exception as error:
            self._handle_failure(step, error)
        else:
            self._failed_saves = 0

    def finish(self) -> None:
        """Waits for the last save. Raises UserError if it failed."""
        self.settle()
        self._agree_on_failures()
        if self._failed_saves:
            raise UserError(
                f"the last step could not be saved; check {self._folder} and rerun the command"
            )

    def close(self) -> None:
        """Waits for a save in progress; a failure only causes a warning."""
        self._max_failed_saves = sys.maxsize
        self.settle()
        self._background.shutdown()
        if self._manager is not None:
            self._manager.close()
        if self._staging is not None:
            self._staging.cleanup()

    def _open_manager(self) -> ocp.CheckpointManager:
        folder = self._folder
        if unknown_to_orbax(folder):
            self._staging = tempfile.TemporaryDirectory()
            folder = Path(self._staging.name)
        return ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                # Orbax writes metrics only with a best_fn. It keeps every step: its own policies
                # delete old steps before the new one has its manifest.
                best_fn=lambda metrics: metrics["l1"],
                async_options=ocp.AsyncOptions(timeout_secs=SAVE_TIMEOUT),
            ),
        )

    def _seal(self, step: int, config: Config) -> None:
        """Waits until the step is written, then completes it. Runs in the background.

        Not orbax's post_finalization_callback: orbax changes _CHECKPOINT_METADATA after it.
        """
        self._manager.wait_until_finished()
        if jax.process_index() != 0:
            return
        if self._staging is not None:
            written = Path(self._staging.name) / str(step)
            (self._folder / str(step)).upload(written)
            remove_folder(written)
        write_manifest(self._folder / str(step))
        try:
            write_atomically(self._workdir / NEWEST, f"{step}\n".encode())
            delete_superseded(self._workdir, config.keep_every, config.best_by)
        except OSError as error:  # the step is complete anyway
            self._warn(f"cannot clean up {self._folder}: {_describe(error)}")

    def _require_space(self, state: Any) -> None:
        """Raises OSError in every process if process 0 finds no room for the step."""
        number = 0
        try:
            if jax.process_index() == 0:
                size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
                self._folder.mkdir(exist_ok=True)
                require_space(self._folder, size + DESCRIPTION_BYTES)
                if not (self._workdir / NEWEST).exists():
                    write_atomically(self._workdir / NEWEST, b"0\n")
        except OSError as error:
            number = error.errno or errno.EIO
        if jax.process_count() > 1:
            number = int(multihost_utils.broadcast_one_to_all(np.int32(number)))
        if number:
            raise OSError(number, os.strerror(number))

    def _agree_on_failures(self) -> None:
        """Counts a save as failed in every process if it failed in any.

        Only process 0 sees that a step cannot be sealed, but all must open a new manager together.
        """
        if jax.process_count() > 1:
            most = int(multihost_utils.process_allgather(np.int32(self._failed_saves)).max())
            if most > self._failed_saves:
                self._failed_saves = most
                self._drop_manager()

    def _drop_manager(self) -> None:
        """The next save opens a new manager, which knows nothing of the failed step."""
        if self._manager is not None:
            for _ in range(2):  # the first close raises the error of the save
                with contextlib.suppress(Exception):
                    self._manager.close()
            self._manager = None

    def _handle_failure(self, step: int, error: Exception) -> None:
        """Removes the failed step and warns; raises UserError after too many failures."""
        self._failed_saves += 1
        self._drop_manager()
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):  # a bucket may still be unavailable
                for path in (*self._folder.glob(f"*{TEMPORARY}*"), self._folder / str(step)):
                    remove_folder(path)
        message = (
            f"cannot save step {step} in {self._folder}: {_describe(error)}; failed save "
            f"{self._failed_saves} in a row, of {self._max_failed_saves} allowed"
        )
        if self._failed_saves >= self._max_failed_saves:
            raise UserError(f"{message}; fix this and rerun the command")
        self._warn(f"{message} (config.max_failed_saves)")


def _describe(error: Exception) -> str:
    """A short reason for a failed save; libraries wrap the system's error in many lines."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    text = " ".join(str(error).split())
    known = map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO))
    return next((words for words in known if words in text), f"{type(error).__name__}: {text}")


def delete_superseded(workdir: Path, keep_every: int, best_by: str) -> None:
    """Deletes all steps but the last KEPT_STEPS, the best and the multiples of `keep_every`.

    Call it once the newest step is complete. A step is renamed before it is deleted, so that a
    half-deleted one is never mistaken for a damaged one; but not in a bucket, where that copies.
    """
    folder, steps = workdir / FOLDER, steps_in(workdir)
    kept = {*steps[-KEPT_STEPS:], find_best(folder, steps, best_by)}
    for step in steps:
        if step not in kept and (keep_every == 0 or step % keep_every):
            path = folder / str(step)
            if in_bucket(folder):
                remove_folder(path)
            else:
                path.rename(folder / f"{DELETED}{step}")
    for path in folder.glob(f"{DELETED}*"):
        remove_folder(path)


def find_best(folder: Path, steps: list[int], best_by: str) -> int | None:
    """The step with the best score of the phase evaluated last.

    The reconstruction phase has the lowest errors: it would hide all later steps.
    """
    found = {step: _read_scores(folder / str(step)) for step in steps}
    found = {step: scores for step, scores in found.items() if best_by in scores}
    if not found:
        return None
    last_phase = found[max(found)].get("phase")
    ranked = [step for step in found if found[step].get("phase") == last_phase]
    return (min if best_by == "l1" else max)(ranked, key=lambda step: found[step][best_by])


def _read_scores(step_path: Path) -> dict[str, Any]:
    try:
        return json.loads((step_path / "metrics" / "metrics").read_text())
    except (OSError, ValueError) as error:  # not evaluated, or damaged since
        if in_bucket(step_path) and not isinstance(error, FileNotFoundError | ValueError):
            raise  # it is unavailable: delete nothing
        return {}
