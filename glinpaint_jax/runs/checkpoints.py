"""Checkpoints: one orbax step directory holds state, config, data position and metrics.

    WORKDIR/checkpoints/STEP/{state,config,data,metrics,manifest.sha256}
    WORKDIR/checkpoints/damaged-*    damaged steps and interrupted saves
    WORKDIR/newest_checkpoint        the last complete step; 0 before the first one

A step is complete if it has its manifest, which is written last. Orbax keeps the last two steps,
the best of the phase evaluated last, and each multiple of config.keep_every; it deletes others once
a new step is written.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from glinpaint_jax.config import LOWER_IS_BETTER, Config, to_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import (
    MANIFEST_NAME,
    absolute,
    describe,
    in_bucket,
    write_atomically,
    write_manifest,
)
from glinpaint_jax.step_folders import FOLDER

NEWEST = "newest_checkpoint"
TEMPORARY = "orbax-checkpoint-tmp"  # part of the name of a step that is being written
COMMITTED = "commit_success.txt"  # orbax's last file in a step
KEPT_STEPS = 2
SAVE_TIMEOUT = 600  # seconds that processes wait for each other's part of a step
DESCRIPTION_BYTES = 2**20  # upper bound for a step's files apart from its arrays


class Checkpoints:
    """Saves the checkpoints of one run. All processes call it together.

    A thread completes a step while training goes on. The next save waits for it: a failed save then
    causes a warning, and config.max_failed_saves failures in a row raise UserError.
    """

    def __init__(self, workdir: Path, config: Config, log: Callable[[str], Any]):
        self._workdir, self._config, self._log = workdir, config, log
        self._folder = absolute(workdir) / FOLDER
        self._failed_saves = 0  # in a row
        self._thread = ThreadPoolExecutor(1)
        self._saving: tuple[int, Future] | None = None  # the step that the thread completes

    def save(
        self, state: Any, step: int, data: dict[str, Any], metrics: dict[str, Any] | None = None
    ) -> None:
        """Starts saving; returns once `state` may be donated.

        `data` is what `restore` returns; `metrics` are the phase and the scores that rank the step.
        """
        self.wait()
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            config=ocp.args.JsonSave(to_dict(self._config)),
            data=ocp.args.JsonSave({"step": step} | data),
        )

        def start() -> None:
            manager = open_manager(self._folder, self._config)
            manager.save(step, args=items, metrics=metrics, force=True)
            self._saving = step, self._thread.submit(self._complete, manager, step)

        if failure := attempt(self._prepare, state, step):
            self._count_failure(step, failure)
        elif failure := attempt(start):
            self._saving = None
            self._remove_unfinished(step)
            self._count_failure(step, failure)

    def wait(self) -> None:
        """Waits for the last save. Raises UserError after too many failed saves in a row."""
        if self._saving is None:
            return
        (step, result), self._saving = self._saving, None
        if failure := attempt(result.result):
            self._remove_unfinished(step)
            self._count_failure(step, failure)
        else:
            self._failed_saves = 0

    def finish(self) -> None:
        """Waits for the last save. Raises UserError if it failed."""
        self.wait()
        if self._failed_saves:
            raise UserError(
                f"the last step could not be saved; check {self._folder} and rerun the command"
            )

    def close(self) -> None:
        """Waits for a save in progress; a failure only causes a warning."""
        self._thread.shutdown()
        if self._saving and (error := self._saving[1].exception()):
            self._log(f"cannot save step {self._saving[0]} in {self._folder}: {describe(error)}")

    def _prepare(self, state: Any, step: int) -> None:
        """Raises OSError if there is no room for the step, or the step exists."""
        if jax.process_index() > 0:
            return
        self._folder.mkdir(exist_ok=True)
        if (self._folder / str(step)).exists():  # orbax would replace it
            raise FileExistsError(errno.EEXIST, "it exists")
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + DESCRIPTION_BYTES
        # Orbax would fill the disk, and its own error is pages long.
        if not in_bucket(self._folder) and shutil.disk_usage(self._folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not (self._workdir / NEWEST).exists():
            write_atomically(self._workdir / NEWEST, b"0\n")

    def _complete(self, manager: ocp.CheckpointManager, step: int) -> None:
        """Waits until a step is written, then writes its manifest.

        Not in orbax's post_finalization_callback, after which orbax renames the step.
        """
        path = self._folder / str(step)
        try:
            manager.wait_until_finished()
        except Exception as error:
            if not (path / COMMITTED).exists():
                raise
            self._log(f"cannot delete old steps in {self._folder}: {describe(error)}")
        finally:
            with contextlib.suppress(Exception):  # the same error again
                manager.close()
        if jax.process_index() == 0:
            write_manifest(path)
            write_atomically(self._workdir / NEWEST, f"{step}\n".encode())

    def _remove_unfinished(self, step: int) -> None:
        """Removes what a failed save wrote."""
        if jax.process_index() > 0:
            return
        with contextlib.suppress(Exception):  # a bucket may still be unavailable
            for path in self._folder.iterdir():
                is_mine = path.name.partition(".")[0] == str(step)
                if is_mine and not (path / MANIFEST_NAME).exists():
                    epath.Path(path).rmtree()

    def _count_failure(self, step: int, error: Exception) -> None:
        self._failed_saves += 1
        allowed = self._config.max_failed_saves
        message = (
            f"cannot save step {step} in {self._folder}: {describe(error)}; failed save "
            f"{self._failed_saves} in a row, of {allowed} allowed"
        )
        if self._failed_saves >= allowed:
            raise UserError(f"{message}; fix this and rerun the command")
        self._log(f"{message} (config.max_failed_saves)")


def open_manager(folder: Path, config: Config) -> ocp.CheckpointManager:
    """Opens orbax's manager, which keeps the last steps, the best one and the milestones."""

    def rank(metrics: dict[str, Any]) -> tuple[str, float]:
        """By phase first: the reconstruction phase has the lowest errors and would always win.

        The names of the phases are in alphabetical order; earlier versions wrote none.
        """
        sign = -1 if config.best_by in LOWER_IS_BETTER else 1
        worst = -inf * sign  # earlier versions had fewer scores
        return metrics.get("phase") or "", sign * metrics.get(config.best_by, worst)

    kept = [
        policies.LatestN(KEPT_STEPS),
        policies.BestN(n=1, get_metric_fn=rank, keep_checkpoints_without_metrics=False),
    ]
    if config.keep_every:
        kept.append(policies.EveryNSteps(config.keep_every))
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            best_fn=rank,  # without it, orbax writes no metrics
            preservation_policy=policies.AnyPreservationPolicy(kept),
            async_options=ocp.AsyncOptions(timeout_secs=SAVE_TIMEOUT),
        ),
    )


def attempt(function: Callable[..., None], *arguments: Any) -> Exception | None:
    """Calls a function in every process; returns an error in all of them if it fails in any."""
    failure, number = None, 0
    try:
        function(*arguments)
    except Exception as error:  # orbax, tensorstore and buckets wrap a full disk in many types
        failure, number = error, getattr(error, "errno", None) or errno.EIO
    number = max_of_processes(number)
    return failure or (OSError(number, os.strerror(number)) if number else None)


def max_of_processes(number: int) -> int:
    return int(multihost_utils.process_allgather(np.int32(number)).max())
