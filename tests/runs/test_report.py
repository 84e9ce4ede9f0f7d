import errno
import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from glinpaint_jax.errors import UserError
from glinpaint_jax.runs import report, writers
from glinpaint_jax.runs.report import GAP, METRICS_FILE, Reporter, mosaic, read_records
from tests.helpers.configs import make_small_config

SCORES = {"val": {"l1": 5.0, "psnr": 20.0, "ssim": 0.5}}


def train(reporter, *steps):
    for step in steps:
        reporter.train(step, "completion", {"l1_hole": 1 / step}, images_per_second=12.5, left=75.0)


def write_run(workdir, start, steps):
    reporter = Reporter(workdir, start, make_small_config())
    train(reporter, *steps)
    reporter.evaluation(steps[-1], "completion", SCORES)
    reporter.samples(steps[-1], np.zeros((3, 4, 16, 16, 3), np.uint8))
    reporter.flush()


def recorded(workdir):
    return [record["step"] for record in read_records(workdir) if "train/l1_hole" in record]


def shown(workdir, tag="train/l1_hole"):
    """The steps and values that TensorBoard shows."""
    events = EventAccumulator(str(workdir)).Reload().Scalars(tag)
    return [(event.step, pytest.approx(event.value)) for event in events]


def test_a_run_writes_records_samples_and_events(tmp_path, capsys):
    write_run(tmp_path, 0, [2, 4])
    scores = {f"eval/val/{name}": value for name, value in SCORES["val"].items()}
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert lines == [
        {"step": 2, "phase": "completion", "train/l1_hole": 0.5, "images_per_second": 12.5},
        {"step": 4, "phase": "completion", "train/l1_hole": 0.25, "images_per_second": 12.5},
        {"step": 4, "phase": "completion"} | scores,
    ]
    assert cv2.imread(str(tmp_path / "samples" / "step_000004.png")) is not None
    assert shown(tmp_path) == [(2, 0.5), (4, 0.25)]
    assert shown(tmp_path, "eval/val/l1") == [(4, 5.0)]
    (picture,) = EventAccumulator(str(tmp_path)).Reload().Images("samples")
    decoded = cv2.imdecode(np.frombuffer(picture.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert picture.step == 4 and decoded.shape[:2] == (picture.height, picture.width)
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == "step 2/10  completion  12.5 images/s  0:01:15 left  l1_hole 0.5000"
    assert any("eval/val  l1 5.000  PSNR 20.000  SSIM 0.500" in line for line in printed)


def test_a_resumed_run_replaces_repeated_records(tmp_path):
    write_run(tmp_path, 0, [2, 4, 6])
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('5\n{}\n"step"\n{"step": 8, "pha')  # damaged, and killed while writing
    write_run(tmp_path, 4, [6, 8])
    names = set(tmp_path.iterdir())
    Reporter(tmp_path, 4, make_small_config()).flush()  # records nothing, so it changes nothing
    assert set(tmp_path.iterdir()) == names
    assert recorded(tmp_path) == [2, 4, 6, 8]
    assert shown(tmp_path) == [(step, 1 / step) for step in (2, 4, 6, 8)]


def test_records_that_cannot_be_read_are_reported(tmp_path):
    (tmp_path / METRICS_FILE).mkdir()
    with pytest.raises(UserError, match=f"cannot read .*{METRICS_FILE}: Is a directory"):
        Reporter(tmp_path, 4, make_small_config())


def full_disk(path, content):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", [METRICS_FILE, "events"])
@pytest.mark.parametrize("fault", ["removed", "half written", "disk full"])
def test_files_that_are_lost_or_cannot_be_written_lose_no_point(
    fault, name, tmp_path, capsys, monkeypatch
):
    reporter = Reporter(tmp_path, 0, make_small_config())
    train(reporter, 1)
    (path,) = tmp_path.glob(f"{name}*")
    if fault == "half written":
        path.write_bytes(path.read_bytes() + b"half")
    else:
        path.unlink()
    with monkeypatch.context() as patched:
        if fault == "disk full":
            patched.setattr(writers, "write_atomically", full_disk)
            train(reporter, 2)
        train(reporter, 3)
    reporter.flush()
    assert recorded(tmp_path) == [step for step, _ in shown(tmp_path)]
    expected = [1, 2, 3] if fault == "disk full" else [1, 3]
    assert shown(tmp_path) == [(step, 1 / step) for step in expected]
    warning = f"cannot write records to {tmp_path}: No space left on device; training continues"
    assert capsys.readouterr().err.splitlines().count(warning) == (fault == "disk full")


def test_in_a_bucket_whole_files_are_written_by_flush(tmp_path, monkeypatch):
    """A folder on disk stands in for the bucket; its files cannot be appended to."""

    def open_file(path, mode="r", **options):
        assert "a" not in mode and "+" not in mode
        return open_path(path, mode, **options)

    open_path = Path.open
    monkeypatch.setattr(Path, "open", open_file)
    for module in (report, writers):
        monkeypatch.setattr(module, "in_bucket", lambda path: True)
    reporter = Reporter(tmp_path, 0, make_small_config())
    train(reporter, 1, 2)
    assert recorded(tmp_path) == []
    reporter.flush()
    assert recorded(tmp_path) == [1, 2]
    train(reporter, 3)
    reporter.flush()
    assert recorded(tmp_path) == [1, 2, 3]
    assert shown(tmp_path) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def read_wandb(path):
    """The history of an offline run: 7 bytes, then records of crc, length, type and protobuf."""
    content, start, rows = path.read_bytes(), 7, []
    while start < len(content):
        size, kind = struct.unpack_from("<HB", content, start + 4)
        assert kind == 1 and len(content) < 2**15  # one whole record, one block
        record = wandb_internal_pb2.Record.FromString(content[start + 7 : start + 7 + size])
        items = record.history.item
        row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
        rows += [{name: row[name] for name in row if name[0] != "_"}] if row else []
        start += 7 + size
    return rows


def test_weights_and_biases_gets_every_record_and_a_resumed_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for start in (0, 2):
        reporter = Reporter(tmp_path, start, make_small_config(log_to="wandb"))
        train(reporter, start + 1)
        reporter.samples(start + 1, np.zeros((3, 4, 16, 16, 3), np.uint8))
        reporter.close()
    wandb.teardown()  # its process completes a file only some time after the end of the run
    first, second = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert first.name == second.name
    for path, step in ((first, 1), (second, 3)):
        scalars, pictures = read_wandb(path)
        expected = {"step": step, "train/l1_hole": 1 / step, "images_per_second": 12.5}
        assert scalars == expected
        assert pictures["step"] == step
        assert len(list(path.parent.glob("files/media/images/samples*.png"))) == 1
    assert list(tmp_path.glob("events*")) == []


def test_what_weights_and_biases_lacks_is_one_line(tmp_path, monkeypatch):
    def fail(**_):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(UserError, match=r"cannot start .* No API key configured.* to log in; run"):
        Reporter(tmp_path, 0, make_small_config(log_to="wandb,tensorboard"))


def test_mosaics_keep_pixels_and_enlarge_small_images():
    rows = np.random.default_rng(0).integers(0, 255, (3, 2, 64, 64, 3), dtype=np.uint8)
    picture = mosaic(rows)
    assert picture.shape == (3 * (128 + GAP) + GAP, 2 * (128 + GAP) + GAP, 3)
    top, left = (128 + GAP) + GAP, (128 + GAP) + GAP
    np.testing.assert_array_equal(picture[top : top + 128 : 2, left : left + 128 : 2], rows[1, 1])
    assert (picture[:GAP] == 255).all()
