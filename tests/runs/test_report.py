import errno
import json
import struct

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2

from glinpaint_jax.runs import pictures, report
from glinpaint_jax.runs.pictures import GAP, draw_curves, mosaic
from glinpaint_jax.runs.report import METRICS_FILE, EventFile, Reporter, read_records

SCORES = {"val": {"l1": 5.0, "psnr": 20.0, "ssim": 0.5}}


def write_run(workdir, start, steps):
    reporter = Reporter(workdir, start, 10, active=True)
    for step in steps:
        reporter.train(
            step, "completion", {"l1_hole": 1 / step}, images_per_second=12.5, seconds_left=75.0
        )
    reporter.evaluation(steps[-1], "completion", SCORES)
    reporter.samples(steps[-1], np.zeros((3, 4, 16, 16, 3), np.uint8))
    reporter.close()


def tensorboard_scalars(workdir):
    """Tag, step and value of every scalar, read from the event files' records."""
    found = []
    for path in sorted(workdir.glob("events.*")):
        data, position = path.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack_from("<Q", data, position)
            event = event_pb2.Event.FromString(data[position + 12 : position + 12 + length])
            position += length + 16
            found += [
                (value.tag, event.step, round(value.simple_value, 4))
                for value in event.summary.value
                if value.HasField("simple_value")
            ]
    return found


def test_a_run_writes_records_curves_samples_and_events(tmp_path, capsys):
    write_run(tmp_path, 0, [2, 4])
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert lines == [
        {"step": 2, "phase": "completion", "train/l1_hole": 0.5, "images_per_second": 12.5},
        {"step": 4, "phase": "completion", "train/l1_hole": 0.25, "images_per_second": 12.5},
        {
            "step": 4,
            "phase": "completion",
            "eval/val/l1": 5.0,
            "eval/val/psnr": 20.0,
            "eval/val/ssim": 0.5,
        },
    ]
    assert cv2.imread(str(tmp_path / "curves.png")).std() > 1
    assert cv2.imread(str(tmp_path / "samples" / "step_000004.png")) is not None
    scalars = tensorboard_scalars(tmp_path)
    assert ("train/l1_hole", 2, 0.5) in scalars and ("eval/val/l1", 4, 5.0) in scalars
    # stderr is not a terminal here, so each record is one plain line.
    printed = capsys.readouterr().err.splitlines()
    assert printed[0].startswith("step 2/10  completion  12.5 images/s  01:15 left  l1_hole 0.5000")
    assert any("eval/val  l1 5.000  PSNR 20.000  SSIM 0.500" in line for line in printed)


def test_a_resumed_run_replaces_repeated_records(tmp_path):
    write_run(tmp_path, 0, [2, 4, 6])
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 8, "pha')  # killed while writing
    write_run(tmp_path, 4, [6, 8])
    steps = [record["step"] for record in read_records(tmp_path) if "train/l1_hole" in record]
    assert steps == [2, 4, 6, 8]


def test_tensorboard_shows_each_step_once_whatever_the_clock(tmp_path, monkeypatch):
    expected = {}
    for start, end, clock in ((1, 100, 2e9), (81, 150, 1e9), (151, 200, 1e8)):
        monkeypatch.setattr(report.time, "time", lambda clock=clock: clock)
        events = EventFile(tmp_path, start)
        for step in range(start, end + 1):
            events.scalars([{"step": step, "loss": clock}])
            expected[step] = clock
        events.close()
    shown = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in shown] == sorted(expected.items())


def test_an_error_hides_no_event_written_before_it(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    events = EventFile(tmp_path, 1)
    for step in range(1, 10):
        if step == 5:
            with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
                patched.setattr(report.RecordWriter, "write", fail)
                events.scalars([{"step": step, "loss": 1.0}])
        else:
            events.scalars([{"step": step, "loss": 1.0}])
    events.close()
    shown = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [event.step for event in shown] == [1, 2, 3, 4, 6, 7, 8, 9]


def test_other_processes_write_nothing(tmp_path):
    reporter = Reporter(tmp_path, 0, 10, active=False)
    reporter.train(1, "joint", {}, images_per_second=1.0, seconds_left=0.0)
    reporter.evaluation(1, "joint", SCORES)
    reporter.samples(1, np.zeros((3, 1, 16, 16, 3), np.uint8))
    reporter.say("x")
    reporter.advance(1)
    reporter.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        ((0.6, 0.31), "linear"),
        ((0.05, 0.01), "linear"),
        ((0.9, -0.2), "linear"),
        ((0.7,), "linear"),
        ((8.0, 0.6), "symlog"),
        ((1500.0, 20.0, 0.0), "symlog"),
    ],
)
def test_the_axis_of_losses_has_labels(losses, scale, tmp_path, monkeypatch):
    """A logarithmic axis labels powers of ten, which the losses of a short run may all miss."""
    figures = []
    monkeypatch.setattr(
        pictures, "_shade_phases", lambda axes, records: figures.append(axes.figure)
    )
    records = [{"step": n, "phase": "a", "train/l1": loss} for n, loss in enumerate(losses)]
    draw_curves(records, tmp_path / "curves.png")
    axes = figures[0].axes[0]
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    labels = [
        tick.label1.get_text()
        for tick in axes.yaxis.get_major_ticks()
        if low <= tick.get_loc() <= high
    ]
    assert len([label for label in labels if label]) >= 3


def test_mosaics_keep_pixels_and_enlarge_small_images():
    rows = np.random.default_rng(0).integers(0, 255, (3, 2, 64, 64, 3), dtype=np.uint8)
    picture = mosaic(rows)
    assert picture.shape == (3 * (128 + GAP) + GAP, 2 * (128 + GAP) + GAP, 3)
    top, left = (128 + GAP) + GAP, (128 + GAP) + GAP
    np.testing.assert_array_equal(picture[top : top + 128 : 2, left : left + 128 : 2], rows[1, 1])
    assert (picture[:GAP] == 255).all()
