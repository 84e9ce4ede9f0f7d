import errno
import fcntl
import hashlib
import itertools
import re
import subprocess
import sys

import pytest

from glinpaint_jax import errors, files
from glinpaint_jax.data.datasets import open_sources
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import MANIFEST_NAME, find_damage
from tests.helpers.programs import assert_rejected, run_here

CONTENTS = {"a.txt": b"first", "deep/er/b": bytes(range(256)), "empty": b""}


@pytest.fixture
def folder(tmp_path):
    for name, content in CONTENTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    files.write_manifest(tmp_path)
    return tmp_path


def test_the_manifest_has_the_format_of_sha256sum(folder):
    lines = [f"{hashlib.sha256(c).hexdigest()}  {name}\n" for name, c in CONTENTS.items()]
    assert (folder / MANIFEST_NAME).read_text() == "".join(lines)
    assert find_damage(folder) is None
    subprocess.run(["sha256sum", "--check", "--quiet", MANIFEST_NAME], cwd=folder, check=True)


def test_every_damage_is_detected(folder):
    for name in (*CONTENTS, MANIFEST_NAME):
        content = (folder / name).read_bytes()
        for place, bits in itertools.product(range(len(content)), (0x01, 0x80)):
            damaged = bytearray(content)
            damaged[place] ^= bits
            (folder / name).write_bytes(damaged)
            assert find_damage(folder) is not None, (name, place, bits)
        for damaged in {content[:-1], b""} - {content}:
            (folder / name).write_bytes(damaged)
            assert name in find_damage(folder)
        (folder / name).unlink()
        assert name in find_damage(folder)
        (folder / name).write_bytes(content)
        assert find_damage(folder) is None
    assert MANIFEST_NAME in find_damage(folder / "nowhere")


def test_what_other_programs_add_to_a_folder_is_ignored(folder):
    for name in (".DS_Store", "desktop.ini", "deep/._b", "deep/er/b.bak"):
        (folder / name).write_text("x")
    assert find_damage(folder) is None
    (folder / "a.txt").write_bytes(b"First")
    assert find_damage(folder) == "a.txt does not match its checksum"


def test_where_no_files_can_be_locked_a_warning_says_so(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", fail)  # as on Lustre without the mount option `flock`
    warned = pytest.warns(UserWarning, match=r"cannot lock .* make sure no second run uses it")
    with warned, files.lock_workdir(tmp_path):
        files.require_unlocked(tmp_path)


ANYWHERE = "must be on disk or gs://BUCKET/FOLDER; mount any other bucket, for example `mount-s3 "
OTHERS = ("s3://bucket/run", "az://bucket/run", "gs://bucket", "gs:///a")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        *((f"train --workdir={place}", f"{place} {ANYWHERE}") for place in OTHERS),
        ("export small --format=mmagic --output=gs://bucket/file", "must be on disk"),
    ],
)
def test_other_places_than_disks_and_folders_in_googles_buckets_are_rejected(arguments, expected):
    assert_rejected(run_here(*arguments.split()), expected)


@pytest.mark.parametrize(
    ("file", "advice"),
    [("pyproject.toml", "pip install -e '.[gcs]'"), ("wheel", "pip install 'glinpaint_jax[gcs]'")],
)
def test_the_advice_on_a_missing_package_fits_how_we_are_installed(
    file, advice, tmp_path, monkeypatch
):
    (tmp_path / file).touch()
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "glinpaint_jax" / "errors.py"))
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=rf"needs gcsfs.*{re.escape(advice)}$"):
        files.as_path("gs://bucket/run")


@pytest.mark.parametrize("spec", ["folder:gs://bucket/a:list.txt", "array_record:s3://bucket/*"])
def test_data_in_a_bucket_must_be_mounted(spec):
    with pytest.raises(UserError, match=r"mount it, `(gcsfuse|mount-s3) bucket FOLDER`"):
        open_sources(spec, "", 1)
