"""Compares shards with the files they were made from: bytes, order, rejects, training stream."""

import argparse
import io
import itertools
import json
import shutil
import warnings

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from glinpaint_jax.commands import prepare as prepare_command
from glinpaint_jax.data.datasets import open_sources, open_splits
from glinpaint_jax.data.pipeline import train_batches
from glinpaint_jax.data.shards import Plan, write_shard
from glinpaint_jax.data.sources import UndecodableImage, decode
from glinpaint_jax.errors import UserError
from tests.helpers.configs import make_small_config
from tests.helpers.sources import TinyPhotos, encoded, gradient


def write_all(folder, spec, shards=2, max_side=0):
    """Writes all shards of a source in this process; returns their entries."""
    source = open_splits(spec)[0]
    plan = Plan(spec, len(source), "", shards, max_side)
    folder.mkdir(exist_ok=True)
    return [
        write_shard(folder / plan.file(number), max_side, source, plan.span(number))
        for number in range(shards)
    ]


def prepare(*arguments):
    """Runs the command in this process."""
    parser = argparse.ArgumentParser()
    prepare_command.add_arguments(parser)
    prepare_command.main(parser.parse_args(list(map(str, arguments))))


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
        source = open_splits("photos")[0]
        spec, files = "photos", None
    written = write_all(tmp_path / "shards", spec)
    if kind == "photos":
        for record, i in zip(records(tmp_path / "shards"), range(len(source)), strict=True):
            np.testing.assert_array_equal(decode(record, "x"), source[i])
    else:
        assert records(tmp_path / "shards") == files
    assert [entry["rejected"] for entry in written] == [[], []]
    assert sum(entry["count"] for entry in written) == len(records(tmp_path / "shards"))


@pytest.mark.parametrize(
    ("length", "shards"), [(7, 1), (7, 3), (7, 7), (1000, 37), (8_026_628, 128)]
)
def test_shards_split_the_records_evenly(length, shards):
    spans = [Plan("x", length, "", shards, 0).span(k) for k in range(shards)]
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
    assert [entry["count"] for entry in written] == [2, 1]
    assert [line for entry in written for line in entry["rejected"]] == [
        f"{folder}/001.png: not a whole JPEG, PNG, WebP, BMP or TIFF (60 bytes)",
        f"{folder}/004.jpeg: No such file or directory",
        f"{folder}/005.png: not a whole JPEG, PNG, WebP, BMP or TIFF (0 bytes)",
    ]


def test_an_empty_shard_keeps_the_others_in_order(tmp_path):
    files = write_images(tmp_path / "images", 6)
    for name in ("002.jpeg", "003.png"):
        (tmp_path / "images" / name).write_bytes(b"broken")
    written = write_all(tmp_path / "shards", f"folder:{tmp_path}/images", shards=3)
    assert [entry["count"] for entry in written] == [2, 0, 2]
    source = open_splits(f"array_record:{tmp_path}/shards/*.array_record")[0]
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


def test_a_failed_shard_leaves_nothing_behind(tmp_path, monkeypatch):
    write_images(tmp_path / "images", 5)
    source, folder = open_splits(f"folder:{tmp_path}/images")[0], tmp_path / "shards"
    folder.mkdir()

    def interrupt(index):
        raise KeyboardInterrupt

    monkeypatch.setattr(source, "encoded", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_shard(folder / "x.array_record", 0, source, range(5))
    assert list(folder.iterdir()) == []


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
    source = open_splits(f"array_record:{path}")[0]
    source[0], source[3]
    with pytest.raises(UndecodableImage, match=r"record 1: Corrupted"):
        source[1]


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_truncated_shards_of_other_programs_are_rejected(size, tmp_path):
    write_images(tmp_path / "images", 3)
    write_all(tmp_path / "shards", f"folder:{tmp_path}/images", shards=1)
    (path,) = (tmp_path / "shards").glob("*.array_record")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"one of the files .* is damaged: ") as error:
        open_splits(f"array_record:{path}")
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """27 images and 3 shards of them."""
    folder = tmp_path_factory.mktemp("prepared")
    write_images(folder / "images", 27)
    prepare(f"folder:{folder}/images", f"--output={folder}/shards", "--shards=3", "--workers=1")
    return folder


def remove(folder, shards):
    shards[1].unlink()


def cut(folder, shards):
    shards[1].write_bytes(shards[1].read_bytes()[:-1])


def copy(folder, shards):
    shutil.copy(shards[1], folder / "copy.array_record")


def forget(folder, shards):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["entries"][2]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def damage(folder, shards):
    (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (remove, r"records-00001-of-00003.array_record is missing .*--output .*/shards$"),
        (cut, r"records-00001-of-00003.array_record has \d+ bytes, must have \d+; run `prepare`"),
        (copy, r"shards/copy.array_record is not in its manifest.json; move it"),
        (forget, r"has only 2 of 3 shards; run `prepare` again"),
        (damage, r"manifest.json is damaged; remove "),
    ],
)
def test_shards_that_differ_from_their_manifest_are_rejected(change, expected, prepared, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(prepared / "shards", folder)
    spec = f"array_record:{folder}/*.array_record"
    assert len(open_splits(spec)[0]) == 27
    change(folder, sorted(folder.glob("*.array_record")))
    with pytest.raises(UserError, match=expected) as error:
        open_sources(spec, "", 5)
    assert "\n" not in str(error.value)


def test_a_pattern_for_some_of_the_shards_is_rejected(prepared):
    with pytest.raises(UserError, match=r"records-00002-of-00003.* left out by the pattern"):
        open_sources(f"array_record:{prepared}/shards/*[01]-of*.array_record", "", 5)


def test_manifests_of_earlier_versions_are_read(prepared, tmp_path):
    shutil.copytree(prepared / "shards", tmp_path / "shards")
    manifest = json.loads((prepared / "shards" / "manifest.json").read_text())
    old = {"source": "x", "length": 27, "shards": 3, "max_side": 0, "count": 27, "rejected": 0}
    entries = [entry | {"first": 0, "last": 8, "sha256": "0"} for entry in manifest["entries"]]
    (tmp_path / "shards" / "manifest.json").write_text(json.dumps(old | {"entries": entries}))
    assert len(open_splits(f"array_record:{tmp_path}/shards/*.array_record")[0]) == 27
