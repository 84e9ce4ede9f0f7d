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
PHASE_COLOURS = ("#cfe8cf", "#f3dcc0", "#d5dff2")  # in the order the phases appear


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
    top, bottom = figure.subplots(2, 1, sharex=True)
    for axes, prefix, suffix in ((top, "train/", ""), (bottom, "eval/", "/l1")):
        names = sorted({n for r in records for n in r if n.startswith(prefix)})
        for name in names:
            if name.endswith(suffix):
                points = [(r["step"], r[name]) for r in records if name in r]
                marker = "." if len(points) < 30 else ""
                label = name.removeprefix(prefix).removesuffix(suffix).replace("_", " ")
                axes.plot(*zip(*points, strict=True), marker=marker, label=label, linewidth=1.3)
        _shade_phases(axes, records)
        axes.grid(alpha=0.3)
        if names:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False)
    top.set_ylabel("training losses")
    _scale_losses(top)
    bottom.set_ylabel("l1 error in the hole, %")
    bottom.set_xlabel("step")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())


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
    phases = list(dict.fromkeys(record["phase"] for record in records))
    start = 0
    for phase, group in itertools.groupby(records, key=lambda record: record["phase"]):
        end = max(record["step"] for record in group)
        axes.axvspan(
            start,
            end,
            color=PHASE_COLOURS[phases.index(phase) % len(PHASE_COLOURS)],
            alpha=0.6,
            lw=0,
        )
        axes.annotate(
            phase,
            ((start + end) / 2, 0.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            fontsize="x-small",
            color="#555555",
        )
        start = end
