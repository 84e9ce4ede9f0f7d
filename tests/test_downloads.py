"""Weights by name and URL, from a local server that works or fails."""

import hashlib
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from glinpaint_jax import downloads
from glinpaint_jax.downloads import OFFICIAL, hide_secrets, locate
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import replace_atomically
from glinpaint_jax.inference.completer import Completer
from tests.helpers.downloads import file, redirect, serve, stall
from tests.helpers.programs import execute


def saved_by_torch(**options):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(50_000)}, buffer, **options)
    return buffer.getvalue()


def named(content):
    """The name of a file with this content, with a checksum as in torch.hub."""
    return f"model-{hashlib.sha256(content).hexdigest()[:8]}.pth"


CONTENT = saved_by_torch()
NAME = named(CONTENT)
SAFETENSORS = safetensors.numpy.save({"a": np.zeros(9, np.float32)})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(downloads.BASE_VARIABLE, raising=False)
    return tmp_path / "cache" / "glinpaint_jax"


def assert_fails(url, *expected):
    """Checks for one line that contains the expected texts."""
    with pytest.raises(UserError) as error:
        locate(url)
    for text in expected:
        assert text in str(error.value)
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_small_network_comes_with_the_package(tmp_path, monkeypatch):
    folder = locate("small")
    assert folder.parent.parent == Path(downloads.__file__).parent
    assert sum(path.stat().st_size for path in files_in(folder)) < 6e6
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()  # a run of this name wins
    assert locate("small") == Path("small")
    Completer()  # but the default does not depend on the folder


@pytest.mark.parametrize("length", [None, ""], ids=["length", "no length"])
@pytest.mark.parametrize(
    "content",
    [CONTENT, saved_by_torch(_use_new_zipfile_serialization=False), SAFETENSORS],
    ids=["zip", "legacy", "safetensors"],
)
def test_a_file_is_downloaded_once_and_then_found_offline(content, length, cache, capsys):
    name = named(content)
    with serve({f"/a/{name}": file(content, length=length)}) as (url, server):
        assert locate(f"{url}/a/{name}") == cache / name
        assert locate(f"{url}/a/{name}") == cache / name
        assert server.asked == [f"/a/{name}"]
    assert capsys.readouterr().err == f"downloading {url}/a/{name} to {cache / name}\n"
    assert locate(f"{url}/a/{name}").read_bytes() == content
    assert files_in(cache) == [cache / name]


def test_redirects_are_followed_and_files_of_one_name_stay_apart():
    answers = {"/a/x.pth": redirect("/moved?to=here"), "/moved?to=here": file(CONTENT)}
    with serve(answers | {"/b/x.pth?k=1": file(SAFETENSORS)}) as (url, _):
        first, second = locate(f"{url}/a/x.pth"), locate(f"{url}/b/x.pth?k=1")
    assert (first.name, second.name) == ("x.pth", "x.pth")
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, SAFETENSORS)


NO_WEIGHTS = "it is not a weight file (.pth, .safetensors or .t7), or is damaged"
ANSWERS = {
    "cut off": (file(CONTENT[:-1], length=len(CONTENT)), "IncompleteRead"),
    "404": (lambda handler: handler.send_error(404), "the server answered 404 Not Found"),
    "503": (lambda handler: handler.send_error(503), "the server answered 503 Service Unavailable"),
    "closed": (lambda handler: None, "Remote end closed connection without response"),
    "stalled": (stall(CONTENT), "timed out"),
    "to a file": (redirect("file:///etc/hostname"), "InvalidSchema"),
    "endless": (file(CONTENT * 2, length=""), "larger than 0.0003 GB, the most allowed"),
    "text": (file(b"rate limit exceeded"), NO_WEIGHTS),
    "json": (file(b'{"message": "Not Found"}'), NO_WEIGHTS),
    "empty": (file(b""), NO_WEIGHTS),
    "half a pth": (file(CONTENT[: len(CONTENT) // 2], length=""), NO_WEIGHTS),
    "half a safetensors": (file(SAFETENSORS[:-1], length=""), NO_WEIGHTS),
}


@pytest.mark.parametrize("name", [NAME, "model.pth"], ids=["checksum", "no checksum"])
@pytest.mark.parametrize(("answer", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_failed_downloads_give_one_line_and_keep_nothing(
    answer, expected, name, cache, monkeypatch
):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    monkeypatch.setattr(downloads, "MAX_BYTES", 300_000)
    with serve({f"/{name}": answer}) as (url, _):
        error = f"cannot download {url}/{name}: "
        assert_fails(f"{url}/{name}", error, expected, f"try again, or put the file at {cache}")
    assert files_in(cache) == []


def test_a_file_with_another_checksum_than_its_name_is_rejected_and_not_kept(cache, tmp_path):
    expected = f"it has sha256 {hashlib.sha256(SAFETENSORS).hexdigest()[:8]}..., not the one in its"
    with serve({f"/{NAME}": file(SAFETENSORS)}) as (url, _):
        assert_fails(f"{url}/{NAME}", expected)
    assert files_in(cache) == []
    (tmp_path / NAME).write_bytes(SAFETENSORS)
    assert_fails(tmp_path / NAME, NAME, expected, "if that is no checksum, rename the file")
    locate((tmp_path / NAME).rename(tmp_path / "net-20261201.pth"))  # a date is no checksum


@pytest.mark.parametrize("name", [NAME, "model.pth"])
@pytest.mark.parametrize("broken", [b"rate limit exceeded", b"", CONTENT[:99]])
def test_a_broken_file_in_the_cache_is_downloaded_again(broken, name):
    with serve({f"/{name}": file(CONTENT)}) as (url, server):
        path = locate(f"{url}/{name}")
        path.write_bytes(broken)
        assert locate(f"{url}/{name}").read_bytes() == CONTENT
        assert len(server.asked) == 2


def test_passwords_and_keys_in_urls_are_not_printed(capsys):
    with serve({"/x.pth?key=secret": file(CONTENT)}) as (url, _):
        url = url.replace("http://", "http://me:secret@")
        assert locate(f"{url}/x.pth?key=secret").read_bytes() == CONTENT
        assert_fails(f"{url}/y.pth?key=secret", "the server answered 404")
    assert_fails(f"{url}/y.pth?key=secret", "Connection refused", "put the file at")
    assert_fails("ftp://me:secret@host/y.pth?key=secret", "ftp://host/y.pth?... must be http:")
    assert_fails("http://me:secret@h ost/y.pth?key=secret", "invalid character")
    assert "secret" not in capsys.readouterr().err
    assert hide_secrets("from https://a:b@x@c.d/e?f=g then h") == "from https://c.d/e?... then h"
    assert hide_secrets("runs/a@b?c") == "runs/a@b?c"


def test_leftovers_of_killed_downloads_are_removed(cache):
    cache.mkdir(parents=True)
    leftovers = []
    for age in (0, 3 * downloads.TIMEOUT):
        with replace_atomically(cache / "x") as path:
            path.touch()
        path.write_text("half")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
        leftovers.append(path)
    with serve({f"/{NAME}": file(CONTENT)}) as (url, _):
        locate(f"{url}/{NAME}")
    recent, old = (path.exists() for path in leftovers)
    assert recent and not old  # another process may be writing the recent one


def test_names_are_found_at_their_address_or_below_another(cache, tmp_path, monkeypatch):
    assert OFFICIAL["places"].startswith("https://download.openmmlab.com/")
    authors = [url for name, url in OFFICIAL.items() if name.startswith("iizuka")]
    assert {url.rpartition("/")[0] for url in authors} == {"http://iizuka.cs.tsukuba.ac.jp/data"}
    with serve({f"/base/{NAME}": file(CONTENT)}) as (url, _):
        monkeypatch.setitem(OFFICIAL, "places", f"{url}/base/{NAME}")
        assert locate("places") == cache / NAME
    (tmp_path / NAME).write_bytes(CONTENT)
    monkeypatch.setenv(downloads.BASE_VARIABLE, tmp_path.as_uri())
    assert locate("places") == tmp_path / NAME


def locate_in_new_process(place, **environment):
    """huggingface_hub reads its environment when it is imported."""
    code = "import sys; from glinpaint_jax.downloads import locate; print(locate(sys.argv[1]))"
    return execute([sys.executable, "-c", code, place], **environment)


def test_repositories_are_downloaded_and_then_found_offline(tmp_path):
    hub = {"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "*"}
    headers = {"X_Repo_Commit": "0" * 40, "ETag": '"123"'}
    answers = {
        "/me/model/resolve/v1/model.safetensors": file(CONTENT, **headers),
        "/me/other/resolve/main/model.safetensors": file(
            b"", status=404, X_Error_Code="RepoNotFound"
        ),
    }
    with serve(answers) as (url, _):
        found = locate_in_new_process("hf://me/model@v1", HF_ENDPOINT=url, **hub)
        assert found.returncode == 0, found.stderr
        missing = locate_in_new_process("hf://me/other", HF_ENDPOINT=url, **hub)
    path = Path(found.stdout.strip())
    assert path.read_bytes() == CONTENT
    assert path.name == "model.safetensors" and path.is_relative_to(tmp_path)
    error = "cannot download model.safetensors of hf://me/other: RepositoryNotFoundError; check"
    assert error in missing.stderr.splitlines()[-1]
    offline = locate_in_new_process("hf://me/model@v1", HF_HUB_OFFLINE="1", **hub)
    assert offline.stdout == found.stdout, offline.stderr


@pytest.mark.parametrize("spec", ["hf://me", "hf://me/model/file", "hf://me/model@", "hf:///a"])
def test_unusable_repositories_are_rejected(spec):
    assert_fails(spec, f"{spec} must be hf://USER/REPO or hf://USER/REPO@REV")


def test_local_files_are_found_by_path_and_url_and_win_over_names(tmp_path, monkeypatch):
    path = tmp_path / "places"
    path.write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    for spec in ("places", path, str(path), path.as_uri(), f"file://localhost{path}"):
        assert locate(spec).samefile(path)


def test_a_file_in_a_bucket_must_be_copied(tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(CONTENT)
    monkeypatch.setattr(downloads, "as_path", lambda _: tmp_path / "a.pth")
    assert_fails("gs://bucket/a.pth", "is in a bucket; copy the file to disk")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/a.pth",
        "s3://bucket/a.pth",
        "http://",
        "https://host/",
        "https://host/..",
        "http:///a.pth",
        "http://[::1/a.pth",
        "http://127.0.0.1:x/a.pth",
        "http://h ost/a.pth",
        "file://elsewhere/a.pth",
    ],
)
def test_unusable_urls_give_one_line(url, cache, monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("asked a server"))
    assert_fails(url)
    assert files_in(cache) == []


def test_a_cache_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with serve({f"/{NAME}": file(CONTENT)}) as (url, _):
        assert_fails(f"{url}/{NAME}", f"cannot write {tmp_path / 'file'}")
