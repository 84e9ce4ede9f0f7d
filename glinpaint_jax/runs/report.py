"""Everything a run outputs: terminal, metrics.jsonl, samples/ and what writers.py writes."""

import contextlib
import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from jaxtyping import UInt8

from glinpaint_jax.config import Config, to_dict
from glinpaint_jax.files import describe, dump_json, in_bucket, report_unreadable, write_atomically
from glinpaint_jax.runs.writers import WRITERS, GrowingFile

METRICS_FILE = "metrics.jsonl"
GAP = 4  # pixels between samples


def log(line: str) -> None:
    """Prints a line to stderr, from any process."""
    with contextlib.suppress(OSError):  # stderr may be a file on a full disk
        print(line, file=sys.stderr, flush=True)


class Reporter:
    """Writes the records of one run; does nothing in any process but the first.

    `start_step` is the step the run resumes from: records of later steps are dropped, since those
    steps are repeated. Records that cannot be written cause one warning and are written with the
    next one; pictures are lost. A bucket cannot append, so there only `flush` writes records.
    """

    def __init__(self, workdir: Path, start_step: int, config: Config):
        self._workdir, self._num_steps = workdir, config.num_steps
        self._active, self._has_failed = jax.process_index() == 0, False
        kept = [record for record in read_records(workdir) if record["step"] <= start_step]
        self._metrics = GrowingFile(workdir / METRICS_FILE, b"".join(map(to_line, kept)))
        names = config.logs if self._active else []
        self._writers = [WRITERS[name](workdir, start_step, to_dict(config)) for name in names]

    def log(self, line: str) -> None:
        """Prints a line, from the first process only."""
        if self._active:
            log(line)

    def train(
        self, step: int, phase: str, means: dict[str, float], images_per_second: float, left: float
    ) -> None:
        """Records the mean losses since the last record, and the speed; `left` is in seconds."""
        losses = {f"train/{name}": value for name, value in means.items()}
        self._add(step, phase, losses | {"images_per_second": images_per_second})
        self.log(
            f"step {step}/{self._num_steps}  {phase}  {images_per_second:.3g} images/s  "
            f"{timedelta(seconds=round(left))} left  "
            + "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        )

    def evaluation(self, step: int, phase: str, scores: dict[str, dict[str, float]]) -> None:
        """Records the scores of each evaluation set."""
        numbers = {}
        for name, values in scores.items():
            numbers |= {f"eval/{name}/{metric}": value for metric, value in values.items()}
            self.log(
                f"step {step}  eval/{name}  l1 {values['l1']:.3f}  PSNR {values['psnr']:.3f}  "
                f"SSIM {values['ssim']:.3f}"
            )
        self._add(step, phase, numbers)

    def samples(self, step: int, rows: UInt8[np.ndarray, "3 columns h w 3"]) -> None:
        """Saves a picture of `rows`: masked, completed, original."""
        if not self._active:
            return
        picture = mosaic(rows)
        path = self._workdir / "samples" / f"step_{step:06d}.png"
        with self._warn_on_error():
            for writer in self._writers:
                writer.write_samples(step, picture)
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, cv2.imencode(".png", picture[..., ::-1])[1].tobytes())

    def flush(self) -> None:
        """Writes all records that are not written yet."""
        with self._warn_on_error():
            for file in (self._metrics, *self._writers):
                file.flush()

    def close(self) -> None:
        """Writes all records, and ends the writers' runs."""
        self.flush()
        with self._warn_on_error():
            for writer in self._writers:
                writer.close()

    def _add(self, step: int, phase: str, numbers: dict[str, float]) -> None:
        if not self._active:
            return
        self._metrics.add(to_line({"step": step, "phase": phase} | numbers))
        for writer in self._writers:
            writer.write_scalars(step, numbers)
        if not in_bucket(self._workdir):
            self.flush()

    @contextlib.contextmanager
    def _warn_on_error(self) -> Iterator[None]:
        """Warns once instead of ending the run; only failed checkpoints end it."""
        try:
            yield
            self._has_failed = False
        except Exception as error:  # a bucket's errors are of many types
            if not self._has_failed:
                reason = describe(error)
                self.log(f"cannot write records to {self._workdir}: {reason}; training continues")
            self._has_failed = True


def read_records(workdir: Path) -> list[dict[str, Any]]:
    """Returns a run's records, oldest first, without half-written or damaged lines."""
    path = workdir / METRICS_FILE
    with report_unreadable(path):
        text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    records = []
    for line in text.split("\n")[:-1]:
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
    return records


def to_line(record: dict[str, Any]) -> bytes:
    return (dump_json(record) + "\n").encode()


def mosaic(rows: UInt8[np.ndarray, "r c h w 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """Tiles rows of images on white; images below 128 pixels are enlarged by whole pixels."""
    factor = max(1, 128 // rows.shape[2])
    rows = rows.repeat(factor, axis=2).repeat(factor, axis=3)
    padding = ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0))
    padded = np.pad(rows, padding, constant_values=255)
    joined = np.concatenate([np.concatenate(row, axis=1) for row in padded])
    return np.pad(joined, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=255)
