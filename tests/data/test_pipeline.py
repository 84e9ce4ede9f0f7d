import hashlib
import tracemalloc

import numpy as np
import pytest

from glinpaint_jax.config import DataConfig
from glinpaint_jax.data import pipeline
from glinpaint_jax.data.folders import FolderSource
from glinpaint_jax.data.pipeline import FailureLog
from glinpaint_jax.data.sources import HoldOut
from glinpaint_jax.errors import UserError
from tests.helpers.configs import make_small_config
from tests.helpers.sources import Numbered, assert_equal, numbers, take, write_reds


def test_each_epoch_contains_every_image_once_in_a_new_order(small_config):
    seen = numbers(take(Numbered(12), small_config, 9))
    epochs = [seen[i : i + 12] for i in (0, 12, 24)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_large_sources_are_shuffled_each_epoch():
    length = pipeline.MIN_INDEX_SHUFFLE + 10
    stream = pipeline.record_numbers(length, 0)
    epochs = [np.array([stream[i] for i in range(e * length, (e + 1) * length)]) for e in (0, 1)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(length))
    assert (epochs[0] != epochs[1]).mean() > 0.99


def test_startup_cost_does_not_grow_with_the_number_of_records(small_config):
    class Large(Numbered):
        def __getitem__(self, index):
            return super().__getitem__(index % 251)

    share, peaks = {"local_batch_size": 4, "process": 1, "count": 2}, []
    for length in (100_000, 8_000_000):
        tracemalloc.start()
        source = HoldOut(Large(length), 1000, held_out=False)
        stream = pipeline.train_batches(source, small_config, start=length * 3 // 2, **share)
        next(stream), next(stream)
        stream.close()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1e6  # less than a byte per record


def test_the_stream_never_changes():
    """Or resumed runs would differ from uninterrupted ones."""

    class Waves(Numbered):
        def __getitem__(self, index):
            rows, columns = np.mgrid[0:70, 0:90]
            waves = [rows * 3 + index, columns * 2, rows * columns % 251]
            return np.stack(waves, axis=-1).astype(np.uint8)

    config = make_small_config(data=DataConfig(crop_size=32, num_workers=0, horizontal_flip=True))
    drawn = hashlib.sha256()
    for batch in take(Waves(13), config, 10, start=8):
        drawn.update(batch["image"].tobytes() + batch["bbox"].tobytes())
    assert drawn.hexdigest()[:16] == "0cbbdd68681a9d10"


def test_the_seed_changes_the_stream_and_repeated_images_get_new_holes(small_config):
    first = numbers(take(Numbered(12), small_config, 4))
    assert first != numbers(take(Numbered(12), make_small_config(seed=1), 4))
    boxes = [tuple(b) for batch in take(Numbered(1), small_config, 8) for b in batch["bbox"]]
    assert len(set(boxes)) > 20


def test_the_stream_can_start_at_any_example_and_processes_split_it(small_config):
    source = Numbered(7)
    whole = take(source, small_config, 6)
    assert_equal(whole[2:], take(source, small_config, 4, start=8))
    parts = [take(source, small_config, 6, local_batch_size=2, process=i, count=2) for i in (0, 1)]
    together = [
        {name: np.concatenate([first[name], second[name]]) for name in first}
        for first, second in zip(*parts, strict=True)
    ]
    assert_equal(whole, together)


def test_broken_images_are_replaced_counted_and_reported(tmp_path):
    write_reds(tmp_path, 200)
    (tmp_path / "007.png").write_bytes(b"broken")
    lines = []
    log = FailureLog(lines.append)
    batches = take(FolderSource(tmp_path), make_small_config(), 50)
    assert all("failed" not in log.take(batch) for batch in [*batches, *batches])
    (line,) = lines
    assert line.startswith(f"skipped, {tmp_path / '007.png'}: not a whole JPEG")
    assert sum(batch["failed"].astype(bool).sum() for batch in batches) == 1
    assert_equal(batches, take(FolderSource(tmp_path), make_small_config(), 50))


def test_more_than_ten_and_one_percent_broken_images_end_the_run():
    def read(count, broken=()):
        failed = [f"{number}.png: broken" for number in broken]
        log.take({"failed": np.array([*failed, *[""] * (count - 2 * len(failed))], "S100")})

    log = FailureLog(lambda _: None)
    for _ in range(5):
        read(100, range(pipeline.MAX_FAILED))  # the same ones
    with pytest.raises(UserError, match=r"11 of 600 images cannot be used: over 1% and over 10"):
        read(100, [99])
    log = FailureLog((lines := []).append)
    read(9_800)
    read(200, range(100))  # 1 %
    read(100, [100])
    assert lines[-1] == "skipped, 100.png: broken (101 of 10100 so far)"
    with pytest.raises(UserError, match=r"102 of 10199 images .*; remove or replace .* 0.* 2\.png"):
        read(99, [101])


def test_a_source_with_only_broken_images_raises_also_from_a_worker(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"broken")
    config = make_small_config()
    config.data.num_workers = 1
    with pytest.raises(Exception, match="4 images in a row cannot be decoded"):
        take(FolderSource(tmp_path), config, 1)


def positions(shape, crop, config, draws=300):
    """Crops of a picture whose first two channels are the row and the column of each pixel."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    picture = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    rng = np.random.default_rng(0)
    crops = [pipeline.crop_and_resize(picture, 32, config, rng) for _ in range(draws)]
    assert {crop.shape for crop in crops} == {(32, 32, 3)}
    return crops


def test_crops_can_be_anywhere_in_the_image():
    crops = positions((40, 48), 32, DataConfig(crop_size=32))
    corners = {tuple(int(v) for v in crop[0, 0, :2]) for crop in crops}
    assert {row for row, _ in corners} == set(range(9))
    assert {column for _, column in corners} == set(range(17))


def test_small_images_are_stretched_not_cropped():
    (crop, *_) = positions((16, 64), 32, DataConfig(crop_size=384))
    assert crop[-1, -1, 0] == 15 and crop[-1, -1, 1] in (62, 63)  # bilinear: 62.5
    for kind in ("crop_then_resize", "resize_then_crop"):
        assert not any(crop.any() for crop in positions((1, 1), 32, DataConfig(crop=kind), draws=2))


def test_resize_then_crop_keeps_the_aspect_ratio_and_varies_the_scale():
    config = DataConfig(crop="resize_then_crop", crop_size=64)
    spans = []
    for crop in positions((64, 128), 32, config):
        spans.append(int(crop[-1, 16, 0]) - int(crop[0, 16, 0]))
        width = int(crop[16, -1, 1]) - int(crop[16, 0, 1])
        assert abs(width - spans[-1]) <= 2
    # With the short side resized to 32..64, a crop shows between all and half of the 64 rows.
    assert min(spans) in (30, 31, 32) and max(spans) >= 61


def gather_eval(config, length, count, local_batch_size):
    """The hole of each valid example of all processes, by image number."""
    found, lengths = [], set()
    for process in range(count):
        share = {"local_batch_size": local_batch_size, "process": process, "count": count}
        batches = list(pipeline.eval_batches(Numbered(length), config, **share))
        lengths.add(len(batches))
        for batch in batches:
            found += [
                (int(batch["image"][i, 0, 0, 0]), batch["bbox"][i].tolist())
                for i in np.flatnonzero(batch["valid"])
            ]
    assert len(lengths) == 1
    assert len(dict(found)) == len(found)
    return dict(found)


def test_evaluation_is_the_same_in_all_runs_and_for_any_number_of_processes():
    config = make_small_config(data=DataConfig(crop_size=32, num_workers=0, eval_images=100))
    alone = gather_eval(config, 23, 1, 8)
    assert sorted(alone) == list(range(23))
    assert gather_eval(config, 23, 3, 4) == alone
    config.seed = 7  # another run
    assert gather_eval(config, 23, 2, 8) == alone
    config.data.eval_images = 5  # spread evenly
    some = gather_eval(config, 23, 1, 8)
    assert sorted(some) == [0, 4, 9, 13, 18] and some.items() <= alone.items()
