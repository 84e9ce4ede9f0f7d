"""Pictures of a run: sample mosaics and training curves."""

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from glinpaint_jax.files import write_atomically

GAP = 4  # pixels between images
LINEAR_BELOW = 0.1  # of the axis of losses
PHASE_COLORS = ("#cfe8cf", "#f3dcc0", "#d5dff2")  # in the order the phases appear


def mosaic(rows: UInt8[np.ndarray, "r c h w 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """Tiles rows of images on white; images below 128 pixels are enlarged by whole pixels."""
    factor = max(1, 128 // rows.shape[2])
    rows = rows.repeat(factor, axis=2).repeat(factor, axis=3)
    padding = ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0))
    padded = np.pad(rows, padding, constant_values=255)
    r, c, h, w, _ = padded.shape
    joined = padded.transpose(0, 2, 1, 3, 4).reshape(r * h, c * w, 3)
    return np.pad(joined, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=255)


def draw_curves(records: list[dict[str, Any]], path: Path) -> None:
    """Plots losses above, the l1 error of each evaluation set below, phases as background."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(2, 1, sharex=True)
    _plot(losses, records, prefix="train/", suffix="")
    _plot(scores, records, prefix="eval/", suffix="/l1")
    losses.set_ylabel("training losses")
    _scale_losses(losses)
    scores.set_ylabel("l1 error in the hole, %")
    scores.set_xlabel("step")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())


def _plot(axes: Any, records: list[dict[str, Any]], prefix: str, suffix: str) -> None:
    """Draws a curve for each number whose name starts and ends so."""
    names = {name for record in records for name in record}
    for name in sorted(n for n in names if n.startswith(prefix) and n.endswith(suffix)):
        points = [(record["step"], record[name]) for record in records if name in record]
        label = name.removeprefix(prefix).removesuffix(suffix).replace("_", " ")
        marker = "." if len(points) < 30 else ""
        axes.plot(*zip(*points, strict=True), marker=marker, label=label, linewidth=1.3)
    if axes.lines:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False)
    axes.grid(alpha=0.3)
    _shade_phases(axes, records)


def _scale_losses(axes: Any) -> None:
    """A logarithmic scale if the losses span a decade; its ticks could all miss a smaller span."""
    from matplotlib.ticker import SymmetricalLogLocator

    values = [value for line in axes.lines for value in line.get_ydata()]
    if values and max(values) > 10 * max(min(values), LINEAR_BELOW):
        axes.set_yscale("symlog", linthresh=LINEAR_BELOW)
        ticks = SymmetricalLogLocator(base=10, linthresh=LINEAR_BELOW, subs=(1, 2, 5))
        axes.yaxis.set_major_locator(ticks)
        axes.yaxis.set_major_formatter("{x:g}")


def _shade_phases(axes: Any, records: list[dict[str, Any]]) -> None:
    colors, start = {}, 0
    for phase, group in itertools.groupby(records, key=lambda record: record["phase"]):
        end = max(record["step"] for record in group)
        color = colors.setdefault(phase, PHASE_COLORS[len(colors) % len(PHASE_COLORS)])
        axes.axvspan(start, end, color=color, alpha=0.6, linewidth=0)
        position = (start + end) / 2, 0.02  # step, share of the height
        frame = axes.get_xaxis_transform()
        axes.text(*position, phase, transform=frame, ha="center", size="x-small", color="#555555")
        start = end
