"""What people see of a run: terminal, metrics.jsonl, TensorBoard, curves.png, samples/."""

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorboardX
from tqdm import tqdm

from glinpaint_jax.files import write_atomically
from glinpaint_jax.training.pictures import draw_curves, mosaic

METRICS_FILE = "metrics.jsonl"


class Reporter:
    """Writes the records of one run; on all processes but the first it does nothing.

    `start_step` is the step the run resumes from: later records of a run that was stopped are
    dropped, for they will be written again.
    """

    def __init__(self, workdir: Path, start_step: int, num_steps: int, *, active: bool):
        self._workdir = workdir
        self._active = active
        if not active:
            return
        self._records = [r for r in read_records(workdir) if r["step"] <= start_step]
        lines = "".join(json.dumps(record) + "\n" for record in self._records)
        write_atomically(workdir / METRICS_FILE, lines.encode())
        self._file = (workdir / METRICS_FILE).open("a")
        self._tensorboard = tensorboardX.SummaryWriter(str(workdir), purge_step=start_step + 1)
        self._bar = tqdm(
            total=num_steps,
            initial=start_step,
            bar_format="{n_fmt}/{total_fmt} {bar:20}{postfix}",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def say(self, line: str) -> None:
        """One line above the progress bar."""
        if self._active:
            tqdm.write(line, file=sys.stderr)
            sys.stderr.flush()

    def warn(self, line: str) -> None:
        """One line, from whichever process it concerns."""
        if self._active:
            self.say(line)
        else:
            print(line, file=sys.stderr)

    def text(self, name: str, content: str) -> None:
        """A text file in the workdir."""
        if self._active:
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
        path.parent.mkdir(exist_ok=True)
        picture = mosaic(rows)
        _, encoded = cv2.imencode(".png", picture[..., ::-1])
        write_atomically(path, encoded.tobytes())
        self._tensorboard.add_image("samples", picture, step, dataformats="HWC")

    def close(self) -> None:
        if self._active:
            self._bar.close()
            self._file.close()
            self._tensorboard.close()
            draw_curves(self._records, self._workdir / "curves.png")

    def _write(self, record: dict[str, Any]) -> None:
        if not self._active:
            return
        self._records.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in record.items():
            if name not in ("step", "phase"):
                self._tensorboard.add_scalar(name, value, record["step"])

    def _status(self, step: int, text: str) -> None:
        if not self._active:
            return
        if self._bar.disable:
            self.say(f"step {step}/{self._bar.total}  {text}")
        else:
            self._bar.set_postfix_str(text)


def read_records(workdir: Path) -> list[dict[str, Any]]:
    """The records of a run, oldest first; a half-written last line is left out."""
    path = workdir / METRICS_FILE
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]
