"""What people see of a run: terminal, metrics.jsonl, TensorBoard, curves.png, samples/."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from glinpaint_jax.files import write_atomically
from glinpaint_jax.runs.pictures import draw_curves, mosaic

METRICS_FILE = "metrics.jsonl"


def say(line: str) -> None:
    """One line above the progress bar if there is one, from whichever process it concerns."""
    with contextlib.suppress(OSError):  # it may go to a file on a full disk
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


class Reporter:
    """Writes the records of one run; on all processes but the first it does nothing.

    `start_step` is the step the run resumes from: later records of a run that was stopped are
    dropped, for they will be written again. Once it has begun, what cannot be written is warned
    of and, but for pictures and events, written when it can be.
    """

    def __init__(self, workdir: Path, start_step: int, num_steps: int, *, active: bool):
        self._workdir = workdir
        self._active = active
        if not active:
            return
        self._records = [r for r in read_records(workdir) if r["step"] <= start_step]
        lines = "".join(json.dumps(record) + "\n" for record in self._records).encode()
        write_atomically(workdir / METRICS_FILE, lines)
        self._written = len(lines)  # bytes of the file
        self._unwritten = b""
        self._failing = False
        self._events = Events(workdir, start_step + 1)
        self._bar = tqdm(
            total=num_steps,
            initial=start_step,
            bar_format="{n_fmt}/{total_fmt} {bar:20}{postfix}",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def say(self, line: str) -> None:
        """One line above the progress bar, from the first process alone."""
        if self._active:
            say(line)

    def text(self, name: str, content: str) -> None:
        """A text file in the workdir."""
        if self._active:
            with self._forgiving():
                write_atomically(self._workdir / name, (content + "\n").encode())

    def advance(self, step: int) -> None:
        if self._active:
            self._bar.update(step - self._bar.n)

    def train(
        self,
        step: int,
        phase: str,
        means: dict[str, float],
        *,
        images_per_second: float,
        seconds_left: float,
    ) -> None:
        """The mean losses since the last record, and the speed at which the run goes on."""
        record = {"step": step, "phase": phase}
        record |= {f"train/{name}": value for name, value in means.items()}
        self._write(record | {"images_per_second": images_per_second})
        losses = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        left = tqdm.format_interval(seconds_left)
        self._status(step, f"{phase}  {images_per_second:.3g} images/s  {left} left  {losses}")

    def evaluation(self, step: int, phase: str, scores: dict[str, dict[str, float]]) -> None:
        """Scores by set."""
        record = {"step": step, "phase": phase}
        for name, values in scores.items():
            record |= {f"eval/{name}/{metric}": value for metric, value in values.items()}
            self.say(
                f"step {step}  eval/{name}  l1 {values['l1']:.3f}  PSNR {values['psnr']:.2f}  "
                f"SSIM {values['ssim']:.3f}"
            )
        self._write(record)

    def samples(self, step: int, rows: np.ndarray) -> None:
        """A picture of uint8 rows [3, columns, h, w, 3]: masked, completed, original."""
        if not self._active:
            return
        path = self._workdir / "samples" / f"step_{step:06d}.png"
        picture = mosaic(rows)
        _, encoded = cv2.imencode(".png", picture[..., ::-1])
        with self._forgiving():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, encoded.tobytes())
            self._events.image(step, "samples", picture)
            draw_curves(self._records, self._workdir / "curves.png")

    def close(self) -> None:
        if self._active:
            self._bar.close()
            with self._forgiving():
                self._append()
                self._events.close()
                draw_curves(self._records, self._workdir / "curves.png")

    def _write(self, record: dict[str, Any]) -> None:
        if not self._active:
            return
        self._records.append(record)
        self._unwritten += json.dumps(record).encode() + b"\n"
        scalars = {n: value for n, value in record.items() if n not in ("step", "phase")}
        with self._forgiving():
            self._append()
            self._events.scalars(record["step"], scalars)

    def _append(self) -> None:
        """Writes what is not yet in the records' file; half of a line is written over."""
        with (self._workdir / METRICS_FILE).open("r+b") as file:
            file.seek(self._written)
            file.truncate()
            file.write(self._unwritten)
        self._written += len(self._unwritten)
        self._unwritten = b""

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        """A full disk shall not end a run: that is for its checkpoints to decide."""
        try:
            yield
        except OSError as error:
            if not self._failing:
                reason = error.strerror or error
                self.say(f"cannot write records to {self._workdir}: {reason}; training goes on")
            self._failing = True
        else:
            self._failing = False

    def _status(self, step: int, text: str) -> None:
        if not self._active:
            return
        if self._bar.disable:
            self.say(f"step {step}/{self._bar.total}  {text}")
        else:
            self._bar.set_postfix_str(text)


def read_records(workdir: Path) -> list[dict[str, Any]]:
    """The records of a run, oldest first; half-written and damaged lines are left out."""
    path = workdir / METRICS_FILE
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(errors="replace").split("\n")[:-1]:
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


class Events:
    """Appends to a file in `folder`; after an error, to a new one.

    What earlier runs have written for `start_step` and later is hidden. Raises OSError.
    """

    def __init__(self, folder: Path, start_step: int):
        self._folder = folder
        self._start_step = start_step
        self._writer: EventsWriter | None = None

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._write(step, *(summary.scalar(name, value) for name, value in values.items()))

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """`picture` is uint8 [h, w, 3]."""
        self._write(step, summary.image(name, picture, dataformats="HWC"))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, step: int, *summaries: Summary) -> None:
        try:
            if self._writer is None:
                self._writer = self._open()
            for one in summaries:
                self._writer.write_event(Event(wall_time=time.time(), step=step, summary=one))
            self._writer.flush()
        except OSError:
            if self._writer is not None:
                with contextlib.suppress(OSError):  # the file cannot be mended
                    self._writer.close()
            self._writer = None
            raise

    def _open(self) -> EventsWriter:
        writer = EventsWriter(str(self._folder / "events"), f".{time.time_ns()}")
        start = SessionLog(status=SessionLog.START)
        writer.write_event(Event(wall_time=time.time(), step=self._start_step, session_log=start))
        return writer
