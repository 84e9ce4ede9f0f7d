"""Every kind of source, and images of every format."""

import io

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from glinpaint_jax.data.datasets import HELD_OUT_PHOTOS, TRAINING_PHOTOS, open_sources
from glinpaint_jax.data.sources import HoldOut, UnusableFile, decode
from glinpaint_jax.errors import UserError
from tests.helpers.sources import Numbered, encode, gradient, prepare_tiny_photos, write_reds


def reds(source):
    return [int(source[i][0, 0, 0]) for i in range(len(source))]


GRAY, SIDEWAYS = gradient()[..., 0], Image.Exif()
SIDEWAYS[0x0112] = 6  # rotate by 90 degrees clockwise to view
PALETTE = Image.fromarray(gradient()).quantize(16)
CMYK = encode(Image.fromarray(gradient()).convert("CMYK"), "JPEG", quality=95)
TURNED = encode(gradient(), "JPEG", quality=95, exif=SIDEWAYS)


@pytest.mark.parametrize(
    ("content", "expected", "tolerance"),
    [
        (encode(gradient()), gradient(), 0),
        (encode(gradient(), "BMP"), gradient(), 0),
        (encode(gradient(), "TIFF"), gradient(), 0),
        (encode(gradient(), "JPEG", quality=95), gradient(), 3),
        (encode(gradient(), "WEBP"), gradient(), 3),
        (encode(GRAY), GRAY[..., None], 0),
        (encode(GRAY.astype(np.uint16) * 257), GRAY[..., None], 0),
        (encode(np.dstack([gradient(), GRAY])), gradient(), 0),
        (encode(PALETTE), np.asarray(PALETTE.convert("RGB")), 0),
        (encode(Image.new("RGB", (1, 1), (1, 2, 3))), [[[1, 2, 3]]], 0),
        (CMYK, np.asarray(Image.open(io.BytesIO(CMYK)).convert("RGB")), 3),
        (TURNED, np.rot90(gradient(), -1), 3),
    ],
)
def test_every_format_and_mode_becomes_upright_rgb(content, expected, tolerance):
    got = decode(content, "x").astype(int)
    expected = np.broadcast_to(expected, (*np.shape(expected)[:2], 3))
    assert got.shape == expected.shape and np.abs(got - expected).mean() <= tolerance


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_truncated_images_are_rejected_with_their_name(kind):
    whole = encode(np.repeat(np.repeat(gradient(), 8, 0), 8, 1), kind)
    for share in (0, 0.1, 0.6):
        with pytest.raises(UnusableFile, match=r"cut\.img"):
            decode(whole[: int(share * len(whole))], "cut.img")
    with pytest.raises(UnusableFile, match="not a whole"):
        decode(b"<html>404</html>" * 10, "x.jpg")


def test_photos_separate_training_from_held_out():
    train, evaluation, _ = open_sources("photos", "", 20)
    assert not set(TRAINING_PHOTOS) & set(HELD_OUT_PHOTOS)
    assert len(train) == len(TRAINING_PHOTOS)
    assert list(evaluation) == ["held_out", "new_crops"]
    assert [len(source) for source in evaluation.values()] == [20, 20]
    assert evaluation["held_out"].name(0).endswith(HELD_OUT_PHOTOS[0])
    assert all(train[i].ndim == 3 for i in range(len(train)))


@pytest.mark.parametrize("eval_images", [1000, 2])
def test_folders_without_a_layout_hold_out_a_tenth(tmp_path, eval_images):
    """No matter how many of them are scored: `evaluate --limit` must not score training images."""
    write_reds(tmp_path, 50)
    train, evaluation, found = open_sources(f"folder:{tmp_path}", "", eval_images)
    held_out = reds(evaluation["held_out"])
    assert held_out == [0, 10, 20, 30, 40]
    assert sorted(reds(train) + held_out) == list(range(50))
    assert found.endswith("held_out 5" if eval_images > 5 else "held_out 2 of 5")


@pytest.mark.parametrize(("length", "count"), [(10, 1), (11, 1), (23, 2), (100, 10), (47, 3)])
def test_hold_out_splits_any_source(length, count):
    sides = [HoldOut(Numbered(length), count, held_out=side) for side in (True, False)]
    numbers = [[int(side.name(i).split()[1]) for i in range(len(side))] for side in sides]
    assert len(numbers[0]) == count
    assert sorted(numbers[0] + numbers[1]) == list(range(length))


def test_tfds_datasets_are_read_with_their_validation_split(tmp_path, monkeypatch):
    prepare_tiny_photos(tmp_path, monkeypatch)
    train, evaluation, _ = open_sources("tfds:tiny_photos:train", "", 100)
    assert sorted(reds(train)) == [0, 1, 2]
    assert sorted(reds(evaluation["val"])) == [100, 101]
    assert train.name(2) == "tfds tiny_photos:train record 2"
    specs = ("train", "train[:2]", "train[1:]", "validation")
    assert len({fingerprint(f"tfds:tiny_photos:{split}") for split in specs}) == len(specs)
    for spec, expected in {"train": [0, 1, 2], "validation": [100, 101]}.items():
        evaluation = open_sources("photos", f"tfds:tiny_photos:{spec}", 100)[1]
        assert sorted(reds(evaluation["val"])) == expected
    for split, error in {"test": "Unknown split 'test'", "train[:x]": "Error parsing"}.items():
        with pytest.raises(UserError, match=f"^tfds:.*: {error}.*[^\n]*$"):
            open_sources(f"tfds:tiny_photos:{split}", "", 100)


def test_tfrecord_datasets_are_rejected_with_a_remedy(tmp_path, monkeypatch):
    """Writing TFRecord files needs tensorflow, so files of another format are renamed."""
    folder = prepare_tiny_photos(tmp_path, monkeypatch)
    for path in folder.glob("*.array_record*"):
        path.rename(folder / path.name.replace("array_record", "tfrecord"))
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="holds tfrecord files") as error:
        open_sources("tfds:tiny_photos:train", "", 100)
    message = str(error.value)
    assert "\n" not in message and str(folder) in message
    assert "download_and_prepare(file_format='array_record')" in message


def fingerprint(spec):
    return open_sources(spec, "", 5).train.fingerprint()


def test_fingerprints_of_folders_depend_on_the_names_and_their_order(tmp_path):
    write_reds(tmp_path / "a", 20)
    before = fingerprint(f"folder:{tmp_path}/a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert fingerprint(f"folder:{tmp_path}/b") == before
    lists = {"sorted": [0, 1, 2], "reversed": [2, 1, 0]}
    for name, numbers in lists.items():
        lines = "".join(f"{number:03d}.png\n" for number in numbers)
        (tmp_path / name).write_text(lines)
    by_list = [fingerprint(f"folder:{tmp_path}/b:{tmp_path / name}") for name in lists]
    assert len({before, *by_list}) == 3
    (tmp_path / "b" / "007.png").rename(tmp_path / "b" / "7.png")
    assert fingerprint(f"folder:{tmp_path}/b") != before


def test_fingerprints_of_shards_depend_on_their_names_and_sizes(tmp_path):
    def write(folder, name, size):
        (tmp_path / folder).mkdir()
        writer = ArrayRecordWriter(f"{tmp_path}/{folder}/{name}", "group_size:1,uncompressed")
        writer.write(bytes(size))
        writer.close()
        return fingerprint(f"array_record:{tmp_path}/{folder}/*")

    first = write("a", "0.array_record", 1)
    assert len({first, write("b", "1.array_record", 1), write("c", "0.array_record", 10**5)}) == 3
    (tmp_path / "a").rename(tmp_path / "moved")
    assert fingerprint(f"array_record:{tmp_path}/moved/*") == first


def test_the_first_existing_alternative_is_used_and_few_images_are_evaluated_on_new_crops(tmp_path):
    write_reds(tmp_path, 3)
    train, evaluation, _ = open_sources(f"folder:{tmp_path}/none | folder:{tmp_path}", "", 1000)
    assert len(train) == 3 and evaluation == {"new_crops": train}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (f"folder:{'x' * 300}", "no folder /"),  # too long for a file system
        ("folder:~nobody-here/images", "no folder /"),
        ("folder:/nowhere", "no folder /nowhere. Put images there, or pass --config.data.source="),
        ("array_record:/nowhere/*", "no file matches /nowhere/*. Put images there, or pass --conf"),
        ("tfds:places365_small:train", "no prepared TFDS places365_small at"),
        ("tfds:no_such_dataset:train", "Dataset no_such_dataset not found"),
        ("video:x", "must be photos, folder:PATH"),
        ("folder:{}", "holds no images; put .jpg, .jpeg, .jpe, .jfif, .png, .webp, .tif, .tiff"),
    ],
)
def test_missing_data_is_reported_with_a_remedy(spec, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError) as error:
        open_sources(spec.format(tmp_path), "", 5)
    assert expected in str(error.value) and "\n" not in str(error.value)
