"""`prepare` as a command: killed, interrupted, on two hosts, on a full disk."""

import argparse
import concurrent.futures
import contextlib
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glinpaint_jax.commands import prepare as prepare_command
from glinpaint_jax.data.datasets import open_parts, open_sources
from glinpaint_jax.errors import UserError
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


def replace_pipes_by_files(images, copy):
    for name in PIPES:
        (copy / name).unlink()
        shutil.copy(images / name, copy / name)


def find_workers(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [
        int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    ]


def file_versions(folder):
    """Inode and time of each finished file: they change if it is written again."""
    stats = {path.name: path.stat() for path in folder.glob("records*")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def test_prints_what_was_written_and_how_to_train(images, whole):
    folder, result = whole
    lines = result.stdout.splitlines()
    shard_lines, (total, only, train) = sorted(lines[:-3]), lines[-3:]
    assert shard_lines[0] == "records-00000-of-00004.array_record: 9 images, 1 rejected"
    assert len(shard_lines) == SHARDS
    assert total.startswith(f"4 of 4 shards in {folder}: 39 images, ")
    assert total.endswith(" MB, 1 rejected (see manifest.json)")
    assert only == f"folder:{images} has no validation part; training evaluates on held-out images"
    assert train == f"train with '--config.data.source=array_record:{folder}/*.array_record'"
    source = open_parts(f"array_record:{folder}/*.array_record")[0]
    assert source.encoded(3) == (images / "04.png").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["entries"][0]["rejected"] == [
        {"name": f"{images}/03.png", "reason": "not a whole JPEG, PNG, WebP or BMP (16 bytes)"}
    ]
    assert (manifest["length"], manifest["count"], manifest["rejected"]) == (40, 39, 1)


def prepare_here(capsys, *arguments):
    """Runs the command in this process; returns its lines, or the error it ends with."""
    parser = argparse.ArgumentParser()
    prepare_command.add_arguments(parser)
    try:
        prepare_command.main(parser.parse_args(list(map(str, arguments))))
    except UserError as error:
        print(error)
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def layout(tmp_path):
    """MMagic's CelebA-HQ with 9 training and 4 validation images."""
    for i in range(13):
        folder = tmp_path / "celeba" / ("train_256" if i < 9 else "test_256")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i:02d}.png")
    return tmp_path / "celeba"


def reds(source):
    return [int(source[i][0, 0, 0]) for i in range(len(source))]


def test_both_parts_of_a_layout_are_prepared_kept_and_checked(layout, tmp_path, capsys):
    folder = tmp_path / "shards"
    arguments = (f"folder:{layout}", f"--output={folder}", "--shards=4", "--workers=1")
    lines = prepare_here(capsys, *arguments)
    assert f"1 of 1 shards in {folder}/val: 4 images, " in "\n".join(lines)
    assert lines[-2].startswith(f"4 of 4 shards in {folder}: 9 images, ")
    spec = f"array_record:{folder}/*.array_record"
    assert lines[-1] == f"train with '--config.data.source={spec}'"

    train, evaluation, description = open_sources(spec, "", 100)
    assert (reds(train), reds(evaluation["val"])) == (list(range(9)), [9, 10, 11, 12])
    assert description.endswith(": 9 training images; evaluation: val 4")
    assert reds(open_sources("photos", spec, 100)[1]["val"]) == [9, 10, 11, 12]

    before = {path: path.stat().st_ino for path in folder.rglob("*records*")}
    lines = prepare_here(capsys, *arguments)
    assert "val/1 of 1 shards are finished and kept" in lines
    assert {path: path.stat().st_ino for path in folder.rglob("*records*")} == before
    check = (f"--output={folder}", "--check")
    assert prepare_here(capsys, *check) == [
        f"4 of 4 shards in {folder} are intact",
        f"1 of 1 shards in {folder}/val are intact",
    ]
    shard = folder / "val" / "records-00000-of-00001.array_record"
    content = shard.read_bytes()
    shard.write_bytes(flip_bit(content))
    damage, advice = prepare_here(capsys, *check)
    assert damage == "val/records-00000-of-00001.array_record: wrong checksum"
    assert advice.startswith("1 of the files in") and f"folder:{layout} --output" in advice
    shard.unlink()
    prepare_here(capsys, *arguments)
    assert shard.read_bytes() == content


def test_the_host_with_shard_0_writes_the_validation_part(layout, tmp_path, capsys):
    folder = tmp_path / "shards"
    arguments = (f"folder:{layout}", f"--output={folder}", "--shards=4", "--workers=1")
    prepare_here(capsys, *arguments, "--shard-range=1:4")
    assert not (folder / "val").exists()
    lines = prepare_here(capsys, *arguments, "--shard-range=0:1")
    assert (folder / "val" / "manifest.json").exists()
    assert lines[-1].startswith("train with")


def test_shards_without_a_validation_part_hold_out_a_tenth(whole):
    train, evaluation, _ = open_sources(f"array_record:{whole[0]}/*.array_record", "", 100)
    assert (len(train), list(evaluation)) == (36, ["held_out"])


def test_rerun_after_kill_keeps_finished_shards(images, tmp_path):
    folder = tmp_path / "shards"
    with at_work(images, folder, tmp_path) as (process, source, writers):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)
        close_all(writers)
        replace_pipes_by_files(images, tmp_path / "copy")
        before = file_versions(folder)
        result = prepare(source, folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("2 of 4 shards are finished and kept\n")
    after = file_versions(folder)
    assert len(before) == 4 and before.items() <= after.items()
    assert prepare(source, tmp_path / "undisturbed").returncode == 0
    assert read_all(folder) == read_all(tmp_path / "undisturbed")


def test_workers_exit_and_clean_up_when_the_command_is_killed(images, tmp_path):
    folder = tmp_path / "shards"
    with at_work(images, folder, tmp_path) as (process, _, writers):
        workers = find_workers(process)
        assert len(workers) == 2
        process.kill()
        process.wait(DEADLINE)
        close_all(writers)
        wait_for(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers))
        assert len(file_versions(folder)) == 4 and not list(folder.glob(".records*"))


@pytest.mark.parametrize("stuck", [False, True])
def test_ctrl_c_ends_in_one_line(stuck, images, tmp_path):
    folder = tmp_path / "shards"
    with at_work(images, folder, tmp_path) as (process, _, writers):
        os.killpg(process.pid, signal.SIGINT)
        if not stuck:
            close_all(writers)
        _, errors = process.communicate(timeout=DEADLINE)
        if stuck:
            close_all(writers)
        assert process.returncode == 130
        assert errors == "interrupted; finished shards are kept, rerun the command to continue\n"
        assert not list(folder.glob(".records*"))
        assert len(file_versions(folder)) == 4 or not stuck  # unblocked, they may have finished


def test_a_killed_worker_ends_the_command_in_one_line(images, tmp_path):
    with at_work(images, tmp_path / "shards", tmp_path) as (process, _, writers):
        os.kill(find_workers(process)[0], signal.SIGKILL)
        close_all(writers)
        output, errors = process.communicate(timeout=DEADLINE)
        result = subprocess.CompletedProcess([], process.returncode, output, errors)
        assert_rejected(result, "was killed by SIGKILL", "--workers", "rerun the command")
        assert len(file_versions(tmp_path / "shards")) in (4, 6)  # the other one may have finished
        assert not list((tmp_path / "shards").glob(".records*"))


def test_two_hosts_write_the_same_bytes_as_one(images, whole, tmp_path):
    with concurrent.futures.ThreadPoolExecutor() as hosts:
        ranges = ("--shard-range=0:1", "--shard-range=1:4")
        results = list(hosts.map(lambda flag: prepare(images, tmp_path / "s", flag), ranges))
    assert [(result.returncode, result.stderr) for result in results] == [(0, "")] * 2
    assert read_all(tmp_path / "s") == read_all(whole[0])


def test_some_of_the_shards_give_no_manifest_yet(images, tmp_path):
    result = prepare(images, tmp_path / "s", "--shard-range=1:2", "--workers=1")
    assert result.stdout.splitlines()[-2].startswith(f"1 of 4 shards in {tmp_path}/s: 10 images")
    assert result.stdout.endswith("will be written once the other shards are finished\n")
    assert {path.name for path in (tmp_path / "s").iterdir()} == {
        "plan.json",
        "records-00001-of-00004.array_record",
        "records-00001-of-00004.json",
    }
    checked = run("glinpaint_jax", "prepare", f"--output={tmp_path}/s", "--check")
    assert checked.stdout.splitlines() == [
        f"records-0000{k}-of-00004.array_record: missing" for k in (0, 2, 3)
    ]
    here = run("glinpaint_jax", "prepare", f"--output={tmp_path}/s", "--check", "--shard-range=1:2")
    assert (here.returncode, here.stdout) == (0, f"1 of 4 shards in {tmp_path}/s are intact\n")


def flip_bit(content):
    """`content` with a bit flipped in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("records-00001-of-00004.array_record", "flipped", "wrong checksum"),
        ("records-00002-of-00004.array_record", "truncated", "1000 bytes, not "),
        ("records-00003-of-00004.array_record", "deleted", "missing"),
        ("records-00000-of-00004.json", "deleted", "its .json is missing or damaged"),
        ("records-00000-of-00004.json", "truncated", "its .json is missing or damaged"),
        ("manifest.json", "flipped", "missing, or disagrees with the shards' .json"),
        ("manifest.json", "deleted", "missing, or disagrees with the shards' .json"),
    ],
)
def test_check_finds_damage_and_its_advice_repairs_it(
    name, damage, expected, images, whole, tmp_path
):
    folder = tmp_path / "shards"
    shutil.copytree(whole[0], folder)
    path = folder / name
    content = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(flip_bit(content))
    elif damage == "truncated":
        path.write_bytes(content[:1000] if len(content) > 1000 else content[:-5])
    else:
        path.unlink()
    result = run("glinpaint_jax", "prepare", f"--output={folder}", "--check", "--workers=2")
    assert_rejected(
        result, "1 of the files", "delete them and run: python -m glinpaint_jax prepare"
    )
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"{path.with_suffix('').name}.") and expected in line
    path.unlink(missing_ok=True)
    advice = shlex.split(result.stderr.partition("run: python -m ")[2])
    assert run(*advice).returncode == 0
    assert read_all(folder) == read_all(whole[0])
    checked = run("glinpaint_jax", "prepare", f"--output={folder}", "--check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == f"4 of 4 shards in {folder} are intact\n"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--shards=5"], ["shards 4, not 5", "another --output"]),
        (["--max-side=64"], ["max_side 0, not 64"]),
        (["--shards=41"], ["--shards 41 of 40 images"]),
        (["--shards=0"], ["'0' is not a positive integer"]),
        (["--workers=x"], ["'x' is not a positive integer"]),
        (["--max-side=70000"], ["70000", "65500"]),
        (["--shard-range=2"], ["'2' is not A:B"]),
        (["--shard-range=2:2"], ["2:2 of 4 shards"]),
        (["--shard-range=0:5"], ["0:5 of 4 shards"]),
    ],
    ids=lambda value: value[0],
)
def test_changed_or_impossible_plans_are_rejected(more, expected, images, whole):
    before = read_all(whole[0])
    _, *arguments = arguments_for(images, whole[0], *more)
    assert_rejected(run_here(*arguments), *expected)
    assert read_all(whole[0]) == before


def test_another_source_is_rejected(images, whole, tmp_path):
    folder = whole[0]
    result = run_here("prepare", "photos", f"--output={folder}", "--shards=4")
    assert_rejected(result, f"{folder} holds shards of source 'folder:{images}', not 'photos'")
    shutil.copytree(folder, tmp_path / "shards")
    more = tmp_path / "more"
    shutil.copytree(images, more)
    plan = json.loads((folder / "plan.json").read_bytes()) | {"source": f"folder:{more}"}
    (tmp_path / "shards" / "plan.json").write_text(json.dumps(plan))
    shutil.copy(images / "00.png", more / "99.png")
    _, *arguments = arguments_for(more, tmp_path / "shards")
    assert_rejected(run_here(*arguments), "length 40, not 41")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["folder:/nowhere", "--output={}", "--shards=2"], ["no data for folder:/nowhere", "tfds"]),
        (["film:x", "--output={}", "--shards=2"], ["'film:x'", "array_record:GLOB"]),
        (["photos", "--output={}"], ["SOURCE and --shards are needed"]),
        (["--output={}", "--shards=2"], ["SOURCE and --shards are needed"]),
        (["photos", "--shards=2"], ["--output"]),
        (["photos", "--output={}/file", "--shards=2"], ["cannot write", "/file"]),
        (["photos", "--output={}/file/below", "--shards=2"], ["cannot write", "/file/below"]),
        (["photos", "--output=/proc/shards", "--shards=2"], ["cannot write /proc/shards"]),
        (["photos", "--output={}/others", "--shards=2"], ["holds other .array_record files"]),
        (["photos", "--output={}/damaged", "--shards=2"], ["cannot read", "plan.json: damaged"]),
        (["--output={}", "--check"], ["no plan.json in", "nothing was prepared"]),
    ],
)
def test_bad_arguments_are_rejected_in_one_line(arguments, expected, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "a.array_record").touch()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "plan.json").write_text('{"source": "photos"')
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
        assert_rejected(result, f"cannot write to {folder}", "No space left on device")
        assert not list(folder.glob(".*"))
        for path in folder.glob("*.array_record"):
            assert path.read_bytes() == (whole[0] / path.name).read_bytes()
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
        assert prepare(images, folder).returncode == 0
        assert read_all(folder) == read_all(whole[0])
    finally:
        subprocess.run(["umount", folder], check=True)


def test_terminals_show_a_progress_bar(images, tmp_path):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(
        command(*arguments_for(images, tmp_path / "shards")),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # end of output
        while piece := os.read(ours, 1 << 16):
            shown += piece
    os.close(ours)
    output, _ = process.communicate(timeout=DEADLINE)
    shown = shown.decode()
    assert process.returncode == 0
    assert "100%|" in shown and "40/40" in shown and "images/s" in shown
    assert len(output.splitlines()) == 3
