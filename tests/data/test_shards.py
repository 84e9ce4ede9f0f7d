"""Compares shards with the files they were made from: bytes, order, rejects, training stream."""

import io
import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from glinpaint_jax.data.datasets import open_first, open_sources
from glinpaint_jax.data.shards import spans, write_shard
from glinpaint_jax.data.sources import UnusableFile
from glinpaint_jax.errors import UserError
from tests.helpers.programs import run_here
from tests.helpers.sources import encode, gradient, prepare_tiny_photos


def write_all(folder, spec, shards=2, max_side=0):
    """Writes all shards of a source in this process; returns their entries."""
    source = open_first(spec).train
    folder.mkdir(exist_ok=True)
    parts = spans(len(source), shards).items()
    return [write_shard(folder / name, max_side, source, span) for name, span in parts]


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
        kind = ("JPEG", "PNG")[i % 2]
        files.append(encode(np.roll(gradient(20 + i, 50), i, axis=0), kind))
        (folder / f"{i:03d}.{kind.lower()}").write_bytes(files[-1])
    return files


@pytest.mark.parametrize("kind", ["folder", "list", "tfds", "array_record"])
def test_records_equal_the_source_files_in_order(kind, tmp_path, monkeypatch):
    files = write_images(tmp_path / "train", 7)
    spec = {
        "folder": f"folder:{tmp_path}/none|folder:{tmp_path}/train",
        "list": f"folder:{tmp_path}/train:{tmp_path}/list.txt",
        "tfds": "tfds:tiny_photos:train",
        "array_record": f"array_record:{tmp_path}/first/*.array_record",
    }[kind]
    if kind == "list":
        (tmp_path / "list.txt").write_text("004.jpeg 3\n/001.png\n")
        files = [files[4], files[1]]
    elif kind == "tfds":
        prepare_tiny_photos(tmp_path, monkeypatch)
        builder = tfds.builder("tiny_photos", data_dir=tmp_path)
        source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
        files = [example["image"] for example in source]
    elif kind == "array_record":
        write_all(tmp_path / "first", f"folder:{tmp_path}/train", shards=3)
    written = write_all(tmp_path / "shards", spec)
    assert records(tmp_path / "shards") == files
    assert [entry["rejected"] for entry in written] == [[], []]
    assert sum(entry["count"] for entry in written) == len(files)


def test_undecodable_images_are_left_out_and_listed_with_their_reason(tmp_path):
    """A cut, a missing and an empty file; the second shard is empty."""
    folder, listed = tmp_path / "images", tmp_path / "list.txt"
    files = write_images(folder, 6)
    listed.write_text("\n".join(sorted(path.name for path in folder.iterdir())))
    (folder / "001.png").write_bytes(files[1][:60])
    (folder / "002.jpeg").unlink()
    (folder / "003.png").write_bytes(b"")
    written = write_all(tmp_path / "shards", f"folder:{folder}:{listed}", shards=3)
    assert [entry["count"] for entry in written] == [1, 0, 2]
    source = open_first(f"array_record:{tmp_path}/shards/*.array_record").train
    assert [source.encoded(i) for i in range(len(source))] == [files[0], *files[4:]]
    assert [line for entry in written for line in entry["rejected"]] == [
        f"{folder}/001.png: not a whole JPEG, PNG, WebP, BMP or TIFF (60 bytes)",
        f"{folder}/002.jpeg: No such file or directory",
        f"{folder}/003.png: not a whole JPEG, PNG, WebP, BMP or TIFF (0 bytes)",
    ]


def test_larger_images_are_shrunk_and_turned_upright(tmp_path):
    (tmp_path / "images").mkdir()
    big = Image.fromarray(np.kron(gradient(), np.ones((10, 10, 1), np.uint8)))  # 240 x 320
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
    small = np.asarray(big.resize((64, 48), Image.Resampling.BOX), float)
    cases = {
        "a.jpg": (encode(big, "JPEG", quality=95, exif=exif), "JPEG", np.rot90(small, -1)),
        "b.png": (encode(big), "PNG", small),
        "c.webp": (encode(big, "WEBP", quality=95), "JPEG", small),
        "d.bmp": (encode(Image.new("RGB", (640, 1)), "BMP"), "JPEG", 0 * small[:1]),
        "e.png": (encode(big.resize((64, 10))), "PNG", None),  # exactly max_side
    }
    for name, (content, _, _) in cases.items():
        (tmp_path / "images" / name).write_bytes(content)
    write_all(tmp_path / "shards", f"folder:{tmp_path}/images", max_side=64)
    got = records(tmp_path / "shards")
    assert got.pop() == cases.pop("e.png")[0]
    images = [Image.open(io.BytesIO(record)) for record in got]
    for image, (_, kind, expected) in zip(images, cases.values(), strict=True):
        assert (image.format, np.shape(image)) == (kind, expected.shape)
        assert np.abs(np.asarray(image) - expected).mean() < 3
    assert not images[0].getexif()
    assert images[0].quantization == Image.open(io.BytesIO(cases["a.jpg"][0])).quantization


def test_damaged_and_cut_shards_of_other_programs(tmp_path):
    """A flipped bit makes one image undecodable; a file that has lost its end is rejected."""
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (4, 200, 200, 3), np.uint8)
    for i in range(4):
        Image.fromarray(noise[i]).save(tmp_path / "images" / f"{i}.png")
    write_all(tmp_path / "shards", f"folder:{tmp_path}/images", shards=1)
    (path,) = (tmp_path / "shards").glob("*.array_record")
    content = bytearray(path.read_bytes())
    content[200_000] ^= 1
    path.write_bytes(content)
    source = open_first(f"array_record:{path}").train
    source[0], source[3]
    with pytest.raises(UnusableFile, match=r"record 1: Corrupted"):
        source[1]
    for size in (100_000, 100, 0):
        os.truncate(path, size)
        with pytest.raises(UserError, match=r"^one of the files .* is damaged: [^\n]*$"):
            open_first(f"array_record:{path}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """27 images in 3 shards."""
    folder = tmp_path_factory.mktemp("prepared")
    write_images(folder / "images", 27)
    arguments = f"prepare folder:{folder}/images --output={folder}/shards --shards=3 --workers=1"
    assert run_here(*arguments.split()).returncode == 0
    return folder / "shards"


def replace_by_broken_link(path):
    path.unlink()
    path.symlink_to("/nowhere")


SHARD = "records-00001-of-00003.array_record"


@pytest.mark.parametrize(
    ("change", "pattern", "expected"),
    [
        (lambda x: (x / SHARD).unlink(), "*", f"{SHARD} is missing .*--output .*/shards$"),
        (lambda x: replace_by_broken_link(x / SHARD), "*", f"{SHARD} is missing"),
        (lambda x: os.truncate(x / SHARD, 9), "*", "one of the files .* is damaged"),
        (lambda x: shutil.copy(x / SHARD, x / "a.array_record"), "*", "a.array_record is no shard"),
        (lambda x: None, "*[01]-of*", "records-00002-of-00003.* left out by the pattern"),
        (lambda x: (x / SHARD).rename(x / "a.array_record"), "*", f"{SHARD} is missing"),
    ],
    ids=["missing", "broken link", "cut", "doubled", "pattern", "renamed"],
)
def test_missing_doubled_and_damaged_shards_are_rejected(
    change, pattern, expected, prepared, tmp_path, monkeypatch
):
    folder = tmp_path / "shards"
    shutil.copytree(prepared, folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_first("array_record:~/shards/*.array_record").train) == 27
    change(folder)
    with pytest.raises(UserError, match=expected) as error:
        open_sources(f"array_record:{folder}/{pattern}.array_record", "", 5)
    assert "\n" not in str(error.value)
