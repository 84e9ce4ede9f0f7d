"""Compares shards with the files they were made from: bytes, order, rejects, training stream."""

import io
import itertools
import json
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from glinpaint_jax.data.datasets import open_parts, open_sources
from glinpaint_jax.data.pipeline import train_batches
from glinpaint_jax.data.prepare import shard_task
from glinpaint_jax.data.shards import Plan, make_dataset_manifest, write_shard
from glinpaint_jax.data.sources import UndecodableImage, decode
from glinpaint_jax.errors import UserError
from tests.helpers.configs import make_small_config
from tests.helpers.sources import TinyPhotos, encoded, gradient


def write_all(folder, spec, shards=2, max_side=0):
    """Writes all shards of a source in this process; returns the manifest."""
    source = open_parts(spec)[0]
    plan = Plan(spec, len(source), shards, max_side)
    folder.mkdir(exist_ok=True)
    for number in range(shards):
        write_shard(folder, plan, number, source)
    return json.loads(make_dataset_manifest(folder, plan))


def records(folder):
    found = []
    for path in sorted(folder.glob("*.array_record")):
        reader = ArrayRecordReader(str(path))
        found += [reader.read([i])[0] for i in range(reader.num_records())]
    return found


def write_images(folder, count):
    """Writes JPEGs and PNGs of many sizes; returns their bytes in order."""
    folder.mkdir(parents=True)
    files = []
    for i in range(count):
        image = Image.fromarray(np.roll(gradient(20 + i, 50), i, axis=0))
        kind = ("JPEG", "PNG")[i % 2]
        files.append(encoded(image, kind))
        (folder / f"{i:03d}.{kind.lower()}").write_bytes(files[-1])
    return files


def prepare_tiny_photos(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from tfds
        TinyPhotos(data_dir=folder, file_format="array_record").download_and_prepare()


@pytest.mark.parametrize("kind", ["folder", "list", "layout", "tfds", "array_record", "photos"])
def test_records_equal_the_source_files_in_order(kind, tmp_path, monkeypatch):
    files = write_images(tmp_path / "train", 7)
    if kind == "folder":
        spec = f"folder:{tmp_path}/none|folder:{tmp_path}/train"
    elif kind == "list":
        (tmp_path / "list.txt").write_text("004.jpeg 3\n/001.png\n")
        spec, files = f"folder:{tmp_path}/train:{tmp_path}/list.txt", [files[4], files[1]]
    elif kind == "layout":
        write_images(tmp_path / "val", 2)
        spec = f"folder:{tmp_path}"
    elif kind == "tfds":
        prepare_tiny_photos(tmp_path, monkeypatch)
        builder = tfds.builder("tiny_photos", data_dir=tmp_path)
        source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
        spec, files = "tfds:tiny_photos:train", [example["image"] for example in source]
    elif kind == "array_record":
        write_all(tmp_path / "first", f"folder:{tmp_path}/train", shards=3)
        spec = f"array_record:{tmp_path}/first/*.array_record"
    else:
        source = open_parts("photos")[0]
        spec, files = "photos", None
    written = write_all(tmp_path / "shards", spec)
    if kind == "photos":
        for record, i in zip(records(tmp_path / "shards"), range(len(source)), strict=True):
            np.testing.assert_array_equal(decode(record, "x"), source[i])
    else:
        assert records(tmp_path / "shards") == files
    assert (written["source"], written["shards"], written["rejected"]) == (spec, 2, 0)
    assert written["count"] == written["length"] == len(records(tmp_path / "shards"))


@pytest.mark.parametrize(
    ("length", "shards"), [(7, 1), (7, 3), (7, 7), (1000, 37), (8_026_628, 128)]
)
def test_shards_split_the_records_evenly(length, shards):
    spans = [Plan("x", length, shards).span(k) for k in range(shards)]
    assert (spans[0].start, spans[-1].stop) == (0, length)
    assert all(a.stop == b.start for a, b in itertools.pairwise(spans))
    assert {len(span) for span in spans} <= {length // shards, length // shards + 1}


def test_shards_give_the_same_training_stream_as_the_folder(tmp_path):
    write_images(tmp_path / "images", 23)
    write_all(tmp_path / "shards", f"folder:{tmp_path}/images", shards=4)
    config = make_small_config()
    streams = []
    for spec in (f"folder:{tmp_path}/images", f"array_record:{tmp_path}/shards/*.array_record"):
        train, evaluation, _ = open_sources(spec, "", 10)
        assert (len(train), len(evaluation["held_out"])) == (21, 2)
        stream = train_batches(train, config, start=5, local_batch_size=4, process=0, count=1)
        streams.append(list(itertools.islice(stream, 12)))
    for first, second in zip(*streams, strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


def test_undecodable_images_are_listed_with_their_reason(tmp_path):
    folder = tmp_path / "images"
    files = write_images(folder, 6)
    (folder / "001.png").write_bytes(files[1][:60])
    (folder / "005.png").write_bytes(b"")
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(sorted(path.name for path in folder.iterdir())))
    (folder / "004.jpeg").unlink()
    written = write_all(tmp_path / "shards", f"folder:{folder}:{listed}")
    assert records(tmp_path / "shards") == [files[0], files[2], files[3]]
    assert [entry["count"] for entry in written["entries"]] == [2, 1]
    assert [(entry["first"], entry["last"]) for entry in written["entries"]] == [(0, 2), (3, 5)]
    rejected = [image for entry in written["entries"] for image in entry["rejected"]]
    assert [image["name"] for image in rejected] == [
        str(folder / name) for name in ("001.png", "004.jpeg", "005.png")
    ]
    assert [image["reason"] for image in rejected] == [
        "not a whole JPEG, PNG, WebP or BMP (60 bytes)",
        "No such file or directory",
        "not a whole JPEG, PNG, WebP or BMP (0 bytes)",
    ]


def test_an_empty_shard_keeps_the_others_in_order(tmp_path):
    files = write_images(tmp_path / "images", 6)
    for name in ("002.jpeg", "003.png"):
        (tmp_path / "images" / name).write_bytes(b"broken")
    written = write_all(tmp_path / "shards", f"folder:{tmp_path}/images", shards=3)
    assert [entry["count"] for entry in written["entries"]] == [2, 0, 2]
    source = open_parts(f"array_record:{tmp_path}/shards/*.array_record")[0]
    assert [source.encoded(i) for i in range(len(source))] == files[:2] + files[4:]


def test_larger_images_are_shrunk_and_turned_upright(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    big = Image.fromarray(np.kron(gradient(), np.ones((10, 10, 1), np.uint8)))  # 240 x 320
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
    contents = {
        "a.jpg": encoded(big, "JPEG", quality=95, exif=exif),
        "b.png": encoded(big, "PNG"),
        "c.webp": encoded(big, "WEBP", quality=95),
        "d.png": encoded(big.resize((64, 10)), "PNG"),  # exactly max_side
        "e.bmp": encoded(big.resize((640, 1)), "BMP"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    write_all(tmp_path / "shards", f"folder:{folder}", max_side=64)
    got = records(tmp_path / "shards")
    images = [Image.open(io.BytesIO(record)) for record in got]
    kinds = [(image.format, image.size) for image in images]
    assert kinds == [
        ("JPEG", (48, 64)),
        ("PNG", (64, 48)),
        ("JPEG", (64, 48)),
        ("PNG", (64, 10)),
        ("JPEG", (64, 1)),
    ]
    assert got[3] == contents["d.png"]
    assert not images[0].getexif()
    small = np.asarray(big.resize((64, 48), Image.Resampling.BOX), float)
    for image, expected in zip(images, [np.rot90(small, -1), small, small], strict=False):
        assert np.abs(np.asarray(image) - expected).mean() < 3
    assert images[0].quantization == Image.open(io.BytesIO(contents["a.jpg"])).quantization


def call_before_reading(source, index, action, monkeypatch):
    """Makes `source` call `action` before it reads image `index`."""
    read = source.encoded

    def read_after_action(i):
        if i == index:
            action()
        return read(i)

    monkeypatch.setattr(source, "encoded", read_after_action)


def test_a_failed_shard_leaves_nothing_behind(tmp_path, monkeypatch):
    write_images(tmp_path / "images", 5)

    def interrupt():
        raise KeyboardInterrupt

    source = open_parts(f"folder:{tmp_path}/images")[0]
    call_before_reading(source, 3, interrupt, monkeypatch)
    plan, folder = Plan("x", 5, 1), tmp_path / "shards"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_shard(folder, plan, 0, source)
    assert list(folder.iterdir()) == []
    assert make_dataset_manifest(folder, plan) is None


def test_only_leftovers_of_the_same_shard_are_removed(tmp_path):
    write_images(tmp_path / "images", 5)
    folder = tmp_path / "shards"
    folder.mkdir()
    plan = Plan("x", 5, 2)
    for number in (0, 1):
        (folder / f".{plan.stem(number)}.17-abc.tmp").write_text("half")
    write_shard(folder, plan, 0, open_parts(f"folder:{tmp_path}/images")[0])
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert left == [f".{plan.stem(1)}.17-abc.tmp"]


def test_two_runs_writing_the_same_shard_are_detected(tmp_path, monkeypatch):
    """The second removes the first one's unfinished file and writes an intact shard."""
    write_images(tmp_path / "images", 5)
    spec, plan, folder = f"folder:{tmp_path}/images", Plan("x", 5, 1), tmp_path / "s"
    folder.mkdir()
    source, other_source = open_parts(spec)[0], open_parts(spec)[0]

    def write_too():
        write_shard(folder, plan, 0, other_source)

    call_before_reading(source, 3, write_too, monkeypatch)
    with pytest.raises(UserError, match="Give each run its own --shard-range"):
        write_shard(folder, plan, 0, source)
    assert make_dataset_manifest(folder, plan) is not None
    assert records(folder) == [other_source.encoded(i) for i in range(5)]


def test_damage_within_a_record_makes_one_image_undecodable(tmp_path):
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (4, 200, 200, 3), np.uint8)
    for i in range(4):
        Image.fromarray(noise[i]).save(tmp_path / "images" / f"{i}.png")
    write_all(tmp_path / "shards", f"folder:{tmp_path}/images", shards=1)
    (path,) = (tmp_path / "shards").glob("*.array_record")
    content = bytearray(path.read_bytes())
    content[200_000] ^= 1
    path.write_bytes(content)
    source = open_parts(f"array_record:{path}")[0]
    source[0], source[3]
    with pytest.raises(UndecodableImage, match=r"record 1: Corrupted"):
        source[1]


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_truncated_shards_are_rejected_with_advice(size, tmp_path):
    write_images(tmp_path / "images", 3)
    write_all(tmp_path / "shards", f"folder:{tmp_path}/images", shards=1)
    (path,) = (tmp_path / "shards").glob("*.array_record")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"damaged: .*--check") as error:
        open_parts(f"array_record:{path}")[0]
    assert "\n" not in str(error.value)


def test_a_worker_receives_only_the_names_of_its_shard(tmp_path):
    (tmp_path / "0.png").touch()
    (tmp_path / "list.txt").write_text("0.png\n" * 100_000)
    source = open_parts(f"folder:{tmp_path}:list.txt")[0]
    number, part = pickle.loads(
        task := pickle.dumps(shard_task(Plan("x", 100_000, 100), source, 7))
    )
    assert len(task) < 1000 * (6 + 8) + 2000
    assert number == 7 and part.name(7_999) == source.name(7_999)


class Counted:
    """Records which indices are read."""

    def __init__(self, length):
        self._length = length
        self.read = []

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        self.read.append(index)
        return np.full((40, 48, 3), index % 251, np.uint8)

    def name(self, index):
        raise AssertionError("only broken records need a name")

    def fingerprint(self):
        raise NotImplementedError


def begin_training(length, monkeypatch):
    """Starts in the middle of the second epoch; returns the records read and the peak memory."""
    source = Counted(length)
    monkeypatch.setattr(
        "glinpaint_jax.data.datasets._open_array_record", lambda _: (source, None, "")
    )
    tracemalloc.start()
    train, evaluation, _ = open_sources("array_record:x", "", 1000)
    assert (len(train), len(evaluation["held_out"])) == (length - 1000, 1000)
    stream = train_batches(
        train, make_small_config(), start=length * 3 // 2, local_batch_size=4, process=1, count=2
    )
    next(stream), next(stream)
    stream.close()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return source.read, peak


def test_startup_cost_does_not_grow_with_the_number_of_records(monkeypatch):
    few, little = begin_training(100_000, monkeypatch)
    many, memory = begin_training(8_000_000, monkeypatch)
    assert 8 <= len(few) < 100 and 8 <= len(many) < 100
    assert max(many) > 1_000_000
    assert memory < little + 1e6  # less than a byte per record
