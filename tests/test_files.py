import hashlib
import subprocess
import sys

import pytest

from glinpaint_jax.files import MANIFEST_NAME, find_damage, lock_file, write_manifest

CONTENTS = {"a.txt": b"first", "deep/er/b": bytes(range(256)), "empty": b""}


@pytest.fixture
def folder(tmp_path):
    for name, content in CONTENTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    write_manifest(tmp_path)
    return tmp_path


def test_the_manifest_has_the_format_of_sha256sum(folder):
    lines = [f"{hashlib.sha256(c).hexdigest()}  {name}\n" for name, c in CONTENTS.items()]
    assert (folder / MANIFEST_NAME).read_text() == "".join(lines)
    assert find_damage(folder) is None
    subprocess.run(["sha256sum", "--check", "--quiet", MANIFEST_NAME], cwd=folder, check=True)


def test_every_flipped_byte_is_detected(folder):
    for name in (*CONTENTS, MANIFEST_NAME):
        content = (folder / name).read_bytes()
        for place in range(len(content)):
            for bits in (0x01, 0x80):
                damaged = bytearray(content)
                damaged[place] ^= bits
                (folder / name).write_bytes(damaged)
                assert find_damage(folder) is not None, (name, place, bits)
        (folder / name).write_bytes(content)
    assert find_damage(folder) is None


@pytest.mark.parametrize("name", [*CONTENTS, MANIFEST_NAME])
def test_missing_and_truncated_files_are_reported(name, folder):
    content = (folder / name).read_bytes()
    if content:
        (folder / name).write_bytes(content[:-1])
        assert name in find_damage(folder)
    (folder / name).unlink()
    assert name in find_damage(folder)


def test_unlisted_files_are_reported(folder):
    (folder / "deep" / "more").write_text("x")
    assert find_damage(folder) == f"deep/more is not in its {MANIFEST_NAME}"


def test_a_missing_folder_is_reported(tmp_path):
    assert MANIFEST_NAME in find_damage(tmp_path / "nowhere")


def test_where_no_files_can_be_locked_a_warning_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    warned = pytest.warns(UserWarning, match=r"cannot lock .* make sure no second run uses it")
    with warned, lock_file(tmp_path / "lock"):
        pass
