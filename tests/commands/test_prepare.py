"""`prepare` as a command: killed, interrupted, on a full disk, with a changed source."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glinpaint_jax.data.datasets import open_sources, open_splits
from tests.helpers.programs import ROOT, assert_rejected, command, environment, run, run_here

SHARDS = 4
PIPES = ("25.png", "35.png")
DEADLINE = 60  # seconds to wait for anything


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
    source = ["glinpaint_jax", "prepare", f"folder:{images}", f"--output={folder}"]
    return [*source, f"--shards={SHARDS}", *more]


def prepare(images, folder, *more):
    return run(*arguments_for(images, folder, *more))


def read_all(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shards_in(folder):
    """Inode and time of each finished shard: they change if it is written again."""
    stats = {path.name: path.stat() for path in folder.glob("*.array_record")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


@contextlib.contextmanager
def at_work(images, folder, tmp_path):
    """Yields the running command, its source and the writers of two named pipes.

    The first two shards are finished. An image of each of the last two is a named pipe: reading it
    blocks until its writer is closed. A list names them, since pipes in folders are left out.
    """
    copy, listed = tmp_path / "copy", tmp_path / "list.txt"
    shutil.copytree(images, copy)
    listed.write_text("\n".join(sorted(path.name for path in copy.iterdir())))
    source = f"{copy}:{listed}"
    for name in PIPES:
        (copy / name).unlink()
        os.mkfifo(copy / name)
    process = subprocess.Popen(
        command(*arguments_for(source, folder, "--workers=2")),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        writers = [open_when_read(copy / name) for name in PIPES]
        yield process, source, writers
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=DEADLINE)


def wait_for(condition):
    deadline = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
    return found


def open_when_read(pipe):
    def opened():
        with contextlib.suppress(OSError):  # nobody is reading it yet
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)

    return wait_for(opened)


def close_all(writers):
    """Unblocks the readers of the pipes; they read an empty image."""
    for writer in writers:
        os.close(writer)


def find_workers(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [
        int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    ]


def test_prints_what_was_written_and_how_to_train(images, whole):
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
    assert open_splits(spec)[0].encoded(3) == (images / "04.png").read_bytes()
    train, evaluation, _ = open_sources(spec, "", 100)
    assert (len(train), list(evaluation)) == (36, ["held_out"])


def test_the_manifest_says_what_is_in_each_shard(images, whole):
    folder = whole[0]
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert set(read_all(folder)) == {"manifest.json", *(e["file"] for e in manifest["entries"])}
    assert (manifest["source"], manifest["images"], manifest["shards"], manifest["max_side"]) == (
        f"folder:{images}",
        40,
        4,
        0,
    )
    assert [entry["count"] for entry in manifest["entries"]] == [9, 10, 10, 10]
    assert [entry["rejected"] for entry in manifest["entries"]] == [
        [f"{images}/03.png: not a whole JPEG, PNG, WebP, BMP or TIFF (16 bytes)"],
        [],
        [],
        [],
    ]
    for entry in manifest["entries"]:
        assert entry["bytes"] == (folder / entry["file"]).stat().st_size


def test_both_parts_of_a_layout_are_prepared_and_kept(tmp_path):
    """MMagic's CelebA-HQ with 9 training and 4 validation images."""
    for i in range(13):
        path = tmp_path / "celeba" / ("train_256" if i < 9 else "test_256") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(path)
    folder = tmp_path / "shards"
    arguments = arguments_for(tmp_path / "celeba", folder, "--workers=1")[1:]
    output = run_here(*arguments).stdout
    assert f"1 shards in {folder}/val: 4 images, " in output
    assert f"4 shards in {folder}: 9 images, " in output and "train with" in output
    spec = f"array_record:{folder}/*.array_record"
    train, evaluation, description = open_sources(spec, "", 100)
    reds = [[int(s[i][0, 0, 0]) for i in range(len(s))] for s in (train, evaluation["val"])]
    assert reds == [list(range(9)), [9, 10, 11, 12]]
    assert description.endswith(": 9 training images; evaluation: val 4")
    assert len(open_sources("photos", spec, 100)[1]["val"]) == 4
    before = {**shards_in(folder), "val": shards_in(folder / "val")}
    assert "1 of 1 shards are finished and kept" in run_here(*arguments).stdout
    assert {**shards_in(folder), "val": shards_in(folder / "val")} == before


def test_a_rerun_after_a_kill_keeps_finished_shards(images, tmp_path):
    folder = tmp_path / "shards"
    with at_work(images, folder, tmp_path) as (process, source, writers):
        wait_for(lambda: len(shards_in(folder)) == 2 and "00001" in read_manifest(folder))
        workers = find_workers(process)
        process.kill()
        process.wait(DEADLINE)
        close_all(writers)
        wait_for(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers))
        for name in PIPES:
            (tmp_path / "copy" / name).unlink()
            shutil.copy(images / name, tmp_path / "copy" / name)
        before = shards_in(folder)
        result = prepare(source, folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("2 of 4 shards are finished and kept\n")
    assert before.items() <= shards_in(folder).items()
    assert prepare(source, tmp_path / "undisturbed").returncode == 0
    assert read_all(folder) == read_all(tmp_path / "undisturbed")


def read_manifest(folder):
    return (folder / "manifest.json").read_text()


def test_ctrl_c_ends_in_one_line(images, tmp_path):
    """Without waiting for the images that are being read."""
    folder = tmp_path / "shards"
    with at_work(images, folder, tmp_path) as (process, _, writers):
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
        close_all(writers)
        assert process.returncode == 130
        assert errors == "interrupted; finished shards are kept, rerun the command to continue\n"
        assert len(shards_in(folder)) == 2


def test_a_killed_worker_ends_the_command_in_one_line(images, tmp_path):
    with at_work(images, tmp_path / "shards", tmp_path) as (process, _, writers):
        os.kill(find_workers(process)[0], signal.SIGKILL)
        close_all(writers)
        output, errors = process.communicate(timeout=DEADLINE)
        result = subprocess.CompletedProcess([], process.returncode, output, errors)
        assert_rejected(result, "was killed", "--workers", "rerun the command")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--shards=5"], ["another shards: 4, not 5", "another --output"]),
        (["--max-side=64"], ["another max_side: 0, not 64"]),
        (["--shards=41"], ["--shards 41 of 40 images"]),
        (["--shards=0"], ["'0' is not a positive integer"]),
        (["--workers=x"], ["'x' is not a positive integer"]),
        (["--max-side=70000"], ["70000", "65500"]),
    ],
    ids=lambda value: value[0],
)
def test_changed_or_impossible_plans_are_rejected(more, expected, images, whole):
    before = read_all(whole[0])
    _, *arguments = arguments_for(images, whole[0], *more)
    assert_rejected(run_here(*arguments), *expected)
    assert read_all(whole[0]) == before


@pytest.mark.parametrize("change", ["added", "renamed", "other"])
def test_a_changed_source_is_rejected(change, images, tmp_path):
    """Even if the number of images is the same, as after an interrupted run."""
    source, folder = tmp_path / "images", tmp_path / "shards"
    source.mkdir()
    for name in ("01.png", "02.png", "04.png", "05.png"):
        shutil.copy(images / name, source)
    assert run_here(*arguments_for(source, folder)[1:]).returncode == 0
    (folder / "records-00003-of-00004.array_record").unlink()
    before = read_all(folder)
    expected = "another list of images"
    if change == "added":
        shutil.copy(images / "06.png", source)
        expected = "another number of images: 4, not 5"
    elif change == "renamed":
        (source / "01.png").rename(source / "07.png")
    else:
        source = images
        expected = f"another source: 'folder:{tmp_path}/images', not 'folder:{images}'"
    assert_rejected(run_here(*arguments_for(source, folder)[1:]), f"{folder} holds", expected)
    assert read_all(folder) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["folder:/nowhere", "--output={}", "--shards=2"], ["no data for folder:/nowhere", "tfds"]),
        (["film:x", "--output={}", "--shards=2"], ["'film:x'", "array_record:GLOB"]),
        (["photos", "--output={}"], ["--shards"]),
        (["--output={}", "--shards=2"], ["SOURCE"]),
        (["photos", "--shards=2"], ["--output"]),
        (["photos", "--output={}/file", "--shards=2"], ["cannot write", "/file"]),
        (["photos", "--output={}/file/below", "--shards=2"], ["cannot write", "/file/below"]),
        (["photos", "--output=/proc/shards", "--shards=2"], ["cannot write /proc/shards"]),
        (["photos", "--output={}/others", "--shards=2"], ["holds other .array_record files"]),
        (["photos", "--output={}/damaged", "--shards=2"], ["damaged/manifest.json is damaged"]),
    ],
)
def test_bad_arguments_are_rejected_in_one_line(arguments, expected, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "a.array_record").touch()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "manifest.json").write_text('{"source": "photos"')
    before = sorted(tmp_path.rglob("*"))
    arguments = [argument.format(tmp_path) for argument in arguments]
    assert_rejected(run_here("prepare", *arguments), *expected)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_source_without_any_valid_image_fails(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(SHARDS):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(b"broken")
    result = prepare(tmp_path / "images", tmp_path / "shards")
    assert_rejected(
        result, "none of the 4 images of folder:", "can be decoded; see ", "manifest.json"
    )


@pytest.mark.parametrize("megabytes", [1, 3])
def test_a_full_disk_ends_in_one_line_and_leaves_no_partial_file(
    megabytes, images, whole, tmp_path
):
    """With more space, a rerun completes the folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={megabytes}m"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", folder]).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        result = prepare(images, folder)
        assert_rejected(result, f"cannot write {folder}", "No space left on device")
        assert not list(folder.glob(".*"))
        for path in folder.glob("*.array_record"):
            assert path.read_bytes() == (whole[0] / path.name).read_bytes()
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
        assert prepare(images, folder).returncode == 0
        assert read_all(folder) == read_all(whole[0])
    finally:
        subprocess.run(["umount", folder], check=True)
