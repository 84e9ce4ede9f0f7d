"""Where a run's records go besides metrics.jsonl: TensorBoard, Weights & Biases.

A writer has `write_scalars`, `write_samples`, `flush` and `close`. Those of clu.metric_writers
cannot be imported without TensorFlow.
"""

import io
import os
import time
import uuid
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from glinpaint_jax.errors import UserError, import_extra
from glinpaint_jax.files import describe, in_bucket, write_atomically

WANDB_ID = "wandb_id"  # in a workdir: the run that a resumed one continues
Picture = UInt8[np.ndarray, "h w 3"]


class GrowingFile:
    """A file that is appended to. Keeps its content, to write it again if the file is damaged."""

    def __init__(self, path: Path, content: bytes):
        self._path, self._content = path, bytearray(content)
        self._size = len(content)  # bytes of the file, if it is as it was left

    def add(self, content: bytes) -> None:
        self._content += content

    def flush(self) -> None:
        """Writes what is new, or everything if the file is not as it was left."""
        path, news = self._path, self._content[self._size :]
        if not news:
            return
        if not in_bucket(path) and path.exists() and path.stat().st_size == self._size:
            with path.open("ab") as file:
                file.write(news)
        else:
            write_atomically(path, bytes(self._content))
        self._size = len(self._content)


class TensorBoardWriter(GrowingFile):
    """An event file. Records of steps after `start_step` in others are hidden: they are repeated.

    TensorBoard's own EventFileWriter writes in a thread, which prints a traceback if the disk is
    full.
    """

    def __init__(self, workdir: Path, start_step: int, config: dict[str, Any]):
        start = encode_event(step=start_step + 1, session_log=SessionLog(status=SessionLog.START))
        version = encode_event(file_version="brain.Event:2")
        path = workdir / f"events.out.tfevents.{time.time_ns()}"  # read by name
        super().__init__(path, version + start)

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in scalars.items()]
        self.add(encode_event(step=step, summary=Summary(value=values)))

    def write_samples(self, step: int, picture: Picture) -> None:
        jpeg = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
        height, width, _ = picture.shape
        image = Summary.Image(encoded_image_string=jpeg, height=height, width=width)
        values = [Summary.Value(tag="samples", image=image)]
        self.add(encode_event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        self.flush()


def encode_event(**fields: Any) -> bytes:
    """A record of TensorBoard's file."""
    buffer = io.BytesIO()
    RecordWriter(buffer).write(Event(wall_time=time.time(), **fields).SerializeToString())
    return buffer.getvalue()


class WandbWriter:
    """A run of Weights & Biases, which a resumed run continues. WANDB_... variables apply."""

    def __init__(self, workdir: Path, start_step: int, config: dict[str, Any]):
        self._wandb = import_extra("wandb")
        path = workdir / WANDB_ID
        if not path.exists():
            write_atomically(path, uuid.uuid4().hex[:8].encode())
        try:
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", "glinpaint_jax"),
                name=os.environ.get("WANDB_NAME", workdir.name),
                id=path.read_text(),
                dir=None if in_bucket(workdir) else workdir,
                resume="allow",
                config=config,
                allow_val_change=True,
            )
        except Exception as error:  # of many types
            reason = describe(error).rstrip(".")
            raise UserError(
                f"cannot start Weights & Biases: {reason}; run `wandb login`, set "
                "WANDB_MODE=offline, or pass --config.log_to=tensorboard"
            ) from None
        # Its own steps never go back; those of a resumed run may.
        self._run.define_metric("*", step_metric="step")
        self._records: list[dict[str, Any]] = []  # not logged yet

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        self._records.append({"step": step} | scalars)

    def write_samples(self, step: int, picture: Picture) -> None:
        self._records.append({"step": step, "samples": self._wandb.Image(picture)})

    def flush(self) -> None:
        while self._records:
            self._run.log(self._records[0])
            del self._records[0]

    def close(self) -> None:
        self._run.finish()


WRITERS = {"tensorboard": TensorBoardWriter, "wandb": WandbWriter}
