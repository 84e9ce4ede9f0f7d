"""Paths, locks and records in a bucket: fsspec's file system in memory stands in for the server."""

import sys
import threading
from unittest import mock

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from glinpaint_jax import buckets
from glinpaint_jax.data.datasets import open_sources
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import (
    LOCK,
    as_path,
    find_damage,
    lock_file,
    remove_folder,
    replace_atomically,
    require_unlocked,
    write_atomically,
    write_from,
    write_manifest,
)
from glinpaint_jax.runs import report
from glinpaint_jax.runs.checkpoints import delete_superseded
from glinpaint_jax.runs.report import Reporter, read_records
from glinpaint_jax.step_folders import FOLDER, steps_in
from tests.helpers.programs import assert_rejected, run_here
from tests.runs.test_report import tensorboard_scalars, write_run


class ServerError(Exception):
    """Like gcsfs.retry.HttpError: not an OSError."""


class Server:
    """A bucket named `bucket` in memory, with the functions of gcsfs that are used."""

    def __init__(self):
        self.is_away = False
        self._memory = MemoryFileSystem(global_store=False, skip_instance_cache=True)
        self._memory.mkdir("/bucket")

    def __getattr__(self, name):
        def call(*arguments, **options):
            if self.is_away:
                raise ServerError("503")
            places = [a.replace("gs:/", "") if isinstance(a, str) else a for a in arguments]
            found = getattr(self._memory, name)(*places, **options)
            if name in ("ls", "find"):
                return [path.removeprefix("/") for path in found]
            return found

        return call


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(buckets, "_open_bucket", lambda scheme: server)
    monkeypatch.setattr(buckets, "BEAT", 0.05)
    return server


@pytest.fixture
def workdir(server):
    return as_path("gs://bucket/run")


def test_a_path_behaves_as_on_disk(workdir, tmp_path):
    seen = []
    for folder in (tmp_path / "run", workdir):
        folder.mkdir(parents=True)
        for name in ("a.txt", "deep/b.txt", "deep/er/c"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, name.encode())
        write_from(folder / "a.txt", 2, b"more")
        with replace_atomically(folder / "new") as temporary:
            (temporary / "x").mkdir(parents=True)
            (temporary / "x" / "y").write_bytes(b"z")
        kinds = [
            (path.exists(), path.is_file(), path.is_dir())
            for path in (folder, folder / "deep", folder / "deep/b.txt", folder / "no")
        ]
        moved = (folder / "deep").rename(folder / "moved")
        (folder / "a.txt").unlink()
        with pytest.raises(FileNotFoundError):
            (folder / "a.txt").read_text()
        remove_folder(folder / "new" / "x")
        with (folder / "text").open("w") as file:
            file.write("é")
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        seen.append(
            (
                kinds,
                {str(path.relative_to(folder)): path.read_bytes() for path in files},
                sorted(path.name for path in folder.iterdir() if path.name != "new"),
                [path.name for path in moved.glob("b*")],
                (moved / "b.txt").read_text(),
                moved.relative_to(folder).as_posix(),
            )
        )
    assert seen[0] == seen[1]


def test_a_manifest_finds_damage(workdir):
    for name in ("a", "deep/b"):
        (workdir / name).write_bytes(name.encode())
    write_manifest(workdir)
    assert find_damage(workdir) is None
    (workdir / "deep/b").write_bytes(b"c")
    assert find_damage(workdir) == "deep/b does not match its checksum"


def test_an_unavailable_bucket_is_no_damage_and_loses_no_best_step(workdir, server, monkeypatch):
    for step in (1, 2, 3, 4):
        metrics = workdir / FOLDER / str(step) / "metrics" / "metrics"
        metrics.write_text(f'{{"phase": "p", "l1": {step}}}')
    read = workdir._files.cat_file
    monkeypatch.setattr(
        server, "cat_file", mock.Mock(side_effect=ServerError("503")), raising=False
    )
    with pytest.raises(UserError, match=r"cannot read .*/checkpoints/1: ServerError: 503"):
        find_damage(workdir / FOLDER / "1")
    with pytest.raises(OSError, match="503"):
        delete_superseded(workdir, 0, "l1")
    monkeypatch.setattr(server, "cat_file", read)
    delete_superseded(workdir, 0, "l1")
    assert steps_in(workdir) == [1, 3, 4]


def test_a_living_run_keeps_its_lock_and_a_dead_one_loses_it(workdir, capfd):
    with lock_file(workdir / LOCK):
        for attempt in (require_unlocked, lambda path: lock_file(path).__enter__()):
            with pytest.raises(UserError, match=r"in use by another run, process \d+ on"):
                attempt(workdir / LOCK)
    assert not (workdir / LOCK).exists()
    (workdir / LOCK).write_bytes(b"process 1 on another host")  # killed
    with lock_file(workdir / LOCK):
        assert "another host" not in (workdir / LOCK).read_text()
    assert "to see if its run is alive" in capfd.readouterr().err


def test_of_two_runs_that_find_a_dead_lock_the_slower_one_leaves_the_new_lock(workdir, monkeypatch):
    (workdir / LOCK).write_bytes(b"process 1 on another host")  # killed

    def be_overtaken(*_):
        (workdir / LOCK).write_bytes(b"process 2 on another host")
        return 0

    monkeypatch.setattr("random.uniform", be_overtaken)
    with pytest.raises(UserError, match="in use by another run, process 2 on another host"):
        require_unlocked(workdir / LOCK)
    assert (workdir / LOCK).exists()


def test_a_run_that_lost_its_lock_warns_and_leaves_it(workdir):
    warned = pytest.warns(UserWarning, match="another run uses gs://bucket/run too")
    with warned, lock_file(workdir / LOCK):
        (workdir / LOCK).write_bytes(b"another")
        next(thread for thread in threading.enumerate() if thread.name == "lock").join()
    assert (workdir / LOCK).read_bytes() == b"another"


def test_a_run_writes_the_same_records_as_on_disk(workdir, tmp_path):
    for folder in (workdir, tmp_path):
        write_run(folder, 0, [2, 4])
        write_run(folder, 2, [4, 6])  # resumed
    assert read_records(workdir) == read_records(tmp_path)
    assert tensorboard_scalars(workdir) == tensorboard_scalars(tmp_path)
    names = [{p.name for p in f.iterdir() if "events" not in p.name} for f in (workdir, tmp_path)]
    assert names[0] == names[1]


def test_records_wait_while_a_bucket_is_away(workdir, server, capsys, monkeypatch):
    monkeypatch.setattr(report, "REWRITE_INTERVAL", 0.0)
    reporter = Reporter(workdir, 0, 10, active=True)
    for step in (1, 2, 3, 4):
        server.is_away = step in (2, 3)
        reporter.train(step, "joint", {"loss": 1.0}, images_per_second=1.0, seconds_left=1.0)
    reporter.close()
    assert [record["step"] for record in read_records(workdir)] == [1, 2, 3, 4]
    assert sorted({step for _, step, _ in tensorboard_scalars(workdir)}) == [1, 2, 3, 4]
    errors = capsys.readouterr().err
    assert errors.count("cannot write records to gs://bucket/run: ServerError: 503") == 1


def test_records_are_written_at_intervals_and_before_a_checkpoint(workdir):
    reporter = Reporter(workdir, 0, 10, active=True)
    for step in (1, 2, 3):
        reporter.train(step, "joint", {"loss": 1.0}, images_per_second=1.0, seconds_left=1.0)
    assert [record["step"] for record in read_records(workdir)] == [1]
    reporter.flush()
    assert [record["step"] for record in read_records(workdir)] == [1, 2, 3]
    reporter.close()


def test_events_continue_in_a_new_file_once_one_is_large(workdir, monkeypatch):
    monkeypatch.setattr(report, "EVENT_FILE_BYTES", 0)
    write_run(workdir, 0, [2, 4])
    assert len(list(workdir.glob("events.*"))) > 1
    assert {step for _, step, _ in tensorboard_scalars(workdir)} == {2, 4}


def test_what_cannot_be_opened_is_an_error_of_one_line(server):
    for place, reason in {
        "gs://nowhere/run": "there is no such bucket",
        "gs://bucket": "a folder in it must be named too",
    }.items():
        assert_rejected(run_here("verify", place), f"cannot open {place}: {reason}")
    assert_rejected(run_here("verify", "gs://bucket/no"), "no checkpoint in gs://bucket/no")
    assert_rejected(
        run_here("export", "gs://bucket/no", "--format=mmagic", "--output=gs://bucket/file"),
        "must be on disk",
    )
    server.is_away = True
    assert_rejected(run_here("verify", "gs://bucket/run"), "cannot open", "ServerError: 503")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"needs s3fs.*\[s3\]"):
        as_path("s3://bucket/run")


@pytest.mark.parametrize("spec", ["folder:gs://bucket/a:list.txt", "array_record:s3://bucket/*"])
def test_data_in_a_bucket_must_be_mounted(spec):
    with pytest.raises(UserError, match=r"mount it, `(gcsfuse|mount-s3) bucket FOLDER`"):
        open_sources(spec, "", 1)
