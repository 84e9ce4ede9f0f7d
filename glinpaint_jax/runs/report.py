"""Everything a run outputs: terminal, metrics.jsonl, TensorBoard, curves.png and samples/."""

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

from glinpaint_jax.files import in_bucket, write_atomically
from glinpaint_jax.runs.pictures import draw_curves, mosaic

METRICS_FILE = "metrics.jsonl"
EVENTS = "events.out.tfevents"  # TensorBoard's prefix of file names
SLOW = 3.0  # seconds
REWRITE_INTERVAL = 30.0  # seconds; a bucket cannot append, so objects are written again
EVENT_FILE_BYTES = 2**20  # after which a new file begins in a bucket
RGB_COLORS = 3  # TensorBoard's code for RGB images


def say(line: str) -> None:
    """Prints a line to stderr, above the progress bar if there is one; from any process."""
    with contextlib.suppress(OSError):  # stderr may be a file on a full disk
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


class Reporter:
    """Writes the records of one run; does nothing in any process but the first.

    `start_step` is the step the run resumes from: records of later steps are dropped, since those
    steps are repeated. A full disk during the run only causes a warning; records are written once
    there is room again; pictures are lost.
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
        self._unwritten: list[dict[str, Any]] = []
        self._next_write = 0.0  # time.monotonic()
        self._drawn = 0  # records in curves.png
        self._failing = False
        self._events = EventFile(workdir, start_step + 1)
        self._bar = tqdm(
            total=num_steps,
            initial=start_step,
            bar_format="{n_fmt}/{total_fmt} {bar:20}{postfix}",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def say(self, line: str) -> None:
        """Prints a line, from the first process only."""
        if self._active:
            say(line)

    @contextlib.contextmanager
    def say_if_slow(self, line: str) -> Iterator[None]:
        """Prints `line` if the body takes longer than SLOW seconds."""
        timer = threading.Timer(SLOW, self.say, [line])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def text(self, name: str, content: str) -> None:
        """Writes a text file to the workdir."""
        if self._active:
            with self._warn_on_error():
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
        """Records the mean losses since the last record, and the speed."""
        record = {"step": step, "phase": phase}
        record |= {f"train/{name}": value for name, value in means.items()}
        self._write(record | {"images_per_second": images_per_second})
        losses = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        left = tqdm.format_interval(seconds_left)
        self._status(step, f"{phase}  {images_per_second:.3g} images/s  {left} left  {losses}")

    def evaluation(self, step: int, phase: str, scores: dict[str, dict[str, float]]) -> None:
        """Records the scores of each evaluation set."""
        record = {"step": step, "phase": phase}
        for name, values in scores.items():
            record |= {f"eval/{name}/{metric}": value for metric, value in values.items()}
            self.say(
                f"step {step}  eval/{name}  l1 {values['l1']:.3f}  PSNR {values['psnr']:.3f}  "
                f"SSIM {values['ssim']:.3f}"
            )
        self._write(record)

    def samples(self, step: int, rows: np.ndarray) -> None:
        """Saves a picture of `rows`, uint8 [3, columns, h, w, 3]: masked, completed, original."""
        if not self._active:
            return
        path = self._workdir / "samples" / f"step_{step:06d}.png"
        picture = mosaic(rows)
        png = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
        with self._warn_on_error():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, png)
            self._events.image(step, "samples", png, *picture.shape[:2])
            self._draw_curves()

    def close(self) -> None:
        if self._active:
            self._bar.close()
            with self._warn_on_error():
                self._write_pending()
                self._events.close()
                self._draw_curves()

    def flush(self) -> None:
        """Writes the records that wait for their time (in a bucket) or for space."""
        if self._active and self._unwritten:
            with self._warn_on_error():
                self._write_pending()

    def _draw_curves(self) -> None:
        if self._drawn < len(self._records):
            draw_curves(self._records, self._workdir / "curves.png")
            self._drawn = len(self._records)

    def _write(self, record: dict[str, Any]) -> None:
        if not self._active:
            return
        self._records.append(record)
        self._unwritten.append(record)
        if time.monotonic() >= self._next_write:
            with self._warn_on_error():
                self._write_pending()
            if in_bucket(self._workdir):
                self._next_write = time.monotonic() + REWRITE_INTERVAL

    def _write_pending(self) -> None:
        """Writes the pending records, overwriting what an earlier failure left half written."""
        lines = "".join(json.dumps(record) + "\n" for record in self._unwritten).encode()
        if in_bucket(self._workdir):
            records = "".join(json.dumps(record) + "\n" for record in self._records)
            write_atomically(self._workdir / METRICS_FILE, records.encode())
        else:
            with (self._workdir / METRICS_FILE).open("r+b") as file:
                file.seek(self._written)
                file.truncate()
                file.write(lines)
        self._written += len(lines)
        records, self._unwritten = self._unwritten, []
        if records:
            self._events.scalars(records)

    @contextlib.contextmanager
    def _warn_on_error(self) -> Iterator[None]:
        """Warns once instead of ending the run; only failed checkpoints end it."""
        try:
            yield
        except OSError as error:
            if not self._failing:
                reason = error.strerror or error
                self.say(f"cannot write records to {self._workdir}: {reason}; training continues")
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
    """Returns a run's records, oldest first, without half-written or damaged lines."""
    path = workdir / METRICS_FILE
    if not path.is_file():
        return []
    records = []
    for line in path.read_bytes().decode(errors="replace").split("\n")[:-1]:
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


class EventFile:
    """TensorBoard's event file, written synchronously.

    After an error it continues in a new file. Hides what was written before for `start_step` and
    later. Raises OSError.
    """

    def __init__(self, folder: Path, start_step: int):
        self._folder = folder
        self._start_step = start_step
        self._writer: RecordWriter | None = None

    def scalars(self, records: list[dict[str, Any]]) -> None:
        """Writes the numbers of records, which have a step and a phase."""
        events = []
        for record in records:
            numbers = {n: value for n, value in record.items() if n not in ("step", "phase")}
            values = [Summary.Value(tag=n, simple_value=value) for n, value in numbers.items()]
            events.append((record["step"], values))
        self._write(events)

    def image(self, step: int, name: str, png: bytes, height: int, width: int) -> None:
        image = Summary.Image(
            encoded_image_string=png, height=height, width=width, colorspace=RGB_COLORS
        )
        self._write([(step, [Summary.Value(tag=name, image=image)])])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, events: list[tuple[int, list[Summary.Value]]]) -> None:
        try:
            if self._writer is None:
                self._writer = self._open()
            for step, values in events:
                event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
                self._writer.write(event.SerializeToString())
            self._writer.flush()
            self._start_step = step + 1  # a new file after an error hides nothing of this one
            if in_bucket(self._folder) and self._file.tell() > EVENT_FILE_BYTES:
                self._writer.close()
                self._writer = None
        except OSError:
            if self._writer is not None:
                with contextlib.suppress(OSError):
                    self._writer.close()
            self._writer = None
            raise

    def _open(self) -> RecordWriter:
        # TensorBoard reads the files in the order of their names, and the clock may have jumped.
        now = time.time()
        stamps = [path.name.split(".")[3] for path in self._folder.glob(f"{EVENTS}.*")]
        stamp = max([int(now), *(int(stamp) + 1 for stamp in stamps if stamp.isdecimal())])
        name = f"{EVENTS}.{stamp:010d}.{socket.gethostname()}.{time.time_ns()}"
        self._file = (self._folder / name).open("wb")
        writer = RecordWriter(self._file)
        start = SessionLog(status=SessionLog.START)
        for event in (
            Event(wall_time=now, file_version="brain.Event:2"),
            Event(wall_time=now, step=self._start_step, session_log=start),
        ):
            writer.write(event.SerializeToString())
        return writer
