"""`prepare` as a command: killed, interrupted, on a full disk, with a changed source."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from glinpaint_jax.data.datasets import open_sources
from tests.helpers.programs import Started, assert_rejected, run_here, small_disk, wait_for

SHARDS = 4


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """40 images of 100 kB; number 3 is broken."""
    folder = tmp_path_factory.mktemp("source") / "images"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 180, 180, 3), np.uint8)
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    (folder / "03.png").write_bytes(b"<html>404</html>")
    return folder


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """The folder an undisturbed run writes, and its result."""
    folder = tmp_path_factory.mktemp("whole") / "shards"
    result = prepare(images, folder)
    assert (result.returncode, result.stderr) == (0, "")
    return folder, result


def arguments_for(images, folder, *more):
    return ["prepare", f"folder:{images}", f"--output={folder}", f"--shards={SHARDS}", *more]


def prepare(images, folder, *more):
    return run_here(*arguments_for(images, folder, "--workers=1", *more))


def read_shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.array_record")}


def shards_in(folder):
    """Inode and time of each finished shard: they change if it is written again."""
    stats = {path.name: path.stat() for path in folder.glob("*.array_record")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def test_prints_and_keeps_what_was_written(images, whole):
    folder, result = whole
    lines = result.stdout.splitlines()
    shard_lines, (total, only, train) = sorted(lines[:-3]), lines[-3:]
    assert shard_lines[0] == "records-00000-of-00004.array_record: 9 images, 1 rejected"
    assert len(shard_lines) == SHARDS
    assert total.startswith(f"4 shards in {folder}: 39 images, ")
    assert total.endswith(" MB, 1 rejected (see manifest.json)")
    assert only == f"folder:{images} has no validation part; training evaluates on held-out images"
    spec = f"array_record:{folder}/*.array_record"
    assert train == f"train with '--config.data.source={spec}'"
    train, evaluation, _ = open_sources(spec, "", 100)
    assert (len(train), list(evaluation)) == (36, ["held_out"])

    manifest = json.loads((folder / "manifest.json").read_bytes())
    entries = manifest.pop("entries")
    assert len(manifest.pop("fingerprint")) == 16
    assert manifest == {"source": f"folder:{images}", "images": 40, "shards": 4, "max_side": 0}
    assert set(read_shards(folder)) == {entry["file"] for entry in entries}
    assert [entry["count"] for entry in entries] == [9, 10, 10, 10]
    rejected = f"{images}/03.png: not a whole JPEG, PNG, WebP, BMP or TIFF (16 bytes)"
    assert [entry["rejected"] for entry in entries] == [[rejected], [], [], []]
    for entry in entries:
        assert entry["bytes"] == (folder / entry["file"]).stat().st_size


def test_both_parts_of_a_layout_are_prepared(tmp_path):
    """MMagic's CelebA-HQ with 9 training and 4 validation images."""
    for i in range(13):
        path = tmp_path / "celeba" / ("train_256" if i < 9 else "test_256") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(path)
    folder = tmp_path / "shards"
    output = prepare(tmp_path / "celeba", folder).stdout
    assert f"1 shards in {folder}/val: 4 images, " in output
    assert f"4 shards in {folder}: 9 images, " in output and "train with" in output
    spec = f"array_record:{folder}/*.array_record"
    train, evaluation, description = open_sources(spec, "", 100)
    reds = [[int(s[i][0, 0, 0]) for i in range(len(s))] for s in (train, evaluation["val"])]
    assert reds == [list(range(9)), [9, 10, 11, 12]]
    assert description.endswith(": 9 training images; evaluation: val 4")
    assert len(open_sources("photos", spec, 100)[1]["val"]) == 4


INTERRUPTIONS = {
    "kill": (-signal.SIGKILL, ""),
    "ctrl-c": (130, "interrupted; finished shards are kept, rerun the command to continue\n"),
    "killed worker": (
        1,
        "error: a worker process was killed; if memory ran out, pass fewer --workers. Finished "
        "shards are kept; rerun the command to continue\n",
    ),
}


@pytest.mark.parametrize("kind", INTERRUPTIONS)
def test_interruptions_end_in_one_line_and_a_rerun_keeps_finished_shards(
    kind, images, whole, tmp_path
):
    """An image of the third shard is a named pipe: whoever reads it waits for its writer.

    A list names it, since pipes in folders are left out.
    """
    copy, listed, folder = tmp_path / "copy", tmp_path / "list.txt", tmp_path / "shards"
    shutil.copytree(images, copy)
    listed.write_text("\n".join(sorted(path.name for path in copy.iterdir())))
    pipe = copy / "25.png"
    pipe.unlink()
    os.mkfifo(pipe)
    arguments = arguments_for(f"{copy}:{listed}", folder, "--workers=1")
    started = Started("glinpaint_jax", *arguments)
    writer = wait_for(lambda: os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), errors=[OSError])
    manifest = folder / "manifest.json"
    wait_for(lambda: manifest.read_text().count('"file"') == 2, errors=[OSError])
    if kind == "ctrl-c":
        os.killpg(started.process.pid, signal.SIGINT)
    else:
        (worker,) = started.workers()
        os.kill(started.process.pid if kind == "kill" else worker, signal.SIGKILL)
    result = started.result(60)  # once the workers, which hold its stderr, have ended too
    os.close(writer)
    assert (result.returncode, result.stderr) == INTERRUPTIONS[kind]
    pipe.unlink()
    shutil.copy(images / pipe.name, pipe)
    before = shards_in(folder)
    result = run_here(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("2 of 4 shards are finished and kept\n")
    assert before.items() <= shards_in(folder).items()
    assert read_shards(folder) == read_shards(whole[0])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("--shards=3", "another shards: 4, not 3; pass the same source and flags or another --o"),
        ("added", "another number of images: 4, not 5"),
        ("renamed", "another list of images"),
    ],
)
def test_changed_plans_and_sources_are_rejected(change, expected, images, tmp_path):
    """Even if the number of images is the same, as after an interrupted run."""
    source, folder = tmp_path / "images", tmp_path / "shards"
    source.mkdir()
    for name in ("01.png", "02.png", "04.png", "05.png"):
        shutil.copy(images / name, source)
    evaluated = "training evaluates on new crops of its images\n"
    assert evaluated in prepare(source, folder).stdout
    (folder / "records-00003-of-00004.array_record").unlink()
    before = read_shards(folder)
    if change == "added":
        shutil.copy(images / "06.png", source)
    if change == "renamed":
        (source / "01.png").rename(source / "07.png")
    result = prepare(source, folder, *([change] if change.startswith("--") else []))
    assert_rejected(result, f"{folder} holds", expected)
    assert read_shards(folder) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("photos --output={0} --shards=2", "photos need no shards; pass another source"),
        ("folder:{0}/images --output={0}/out --shards=2", "--shards 2 of 1 images"),
        ("folder:{0}/images --output={0}/out --shards=0", "is not a whole number of at least 1"),
        ("folder:{0}/images --output={0}/file --shards=1", "cannot write {0}/file"),
        ("folder:{0}/images --output=/proc/shards --shards=1", "cannot write /proc/shards"),
        ("folder:{0}/images --output={0}/others --shards=1", "holds other .array_record files"),
        ("folder:{0}/images --output={0}/damaged --shards=1", "damaged/manifest.json is damaged"),
    ],
)
def test_bad_arguments_are_rejected_in_one_line(arguments, expected, tmp_path):
    for name in ("images/1.png", "others/a.array_record", "damaged/manifest.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text('{"source": "photos"')
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    result = run_here("prepare", *arguments.format(tmp_path).split())
    assert_rejected(result, expected.format(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_source_without_any_valid_image_fails(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"broken")
    result = run_here("prepare", f"folder:{tmp_path}", f"--output={tmp_path}/out", "--shards=1")
    assert_rejected(result, "none of the 1 images of folder:", "can be decoded; see ", "manifest.j")


def test_a_full_disk_ends_in_one_line_and_leaves_no_partial_file(images, whole, tmp_path):
    """With more space, a rerun completes the folder."""
    folder = tmp_path / "disk"
    with small_disk(folder, "3m") as resize:
        result = prepare(images, folder)
        assert_rejected(result, f"cannot write {folder}", "No space left on device")
        assert not list(folder.glob(".*"))
        for path in folder.glob("*.array_record"):
            assert path.read_bytes() == (whole[0] / path.name).read_bytes()
        resize("64m")
        assert prepare(images, folder).returncode == 0
        assert read_shards(folder) == read_shards(whole[0])
