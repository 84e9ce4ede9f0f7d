"""TensorBoard's event file, written at once: the usual writer's thread hangs on a full disk."""

import contextlib
import time
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


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
