"""Weights by name and URL, from a local server that works or fails."""

import hashlib
import io
import sys
import warnings
from pathlib import Path
from urllib.request import Request

import pytest

from glinpaint_jax import downloads
from glinpaint_jax.commands import cli, import_torch
from glinpaint_jax.downloads import OFFICIAL, download, identify, locate
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.completer import Completer
from tests.helpers.downloads import break_a_chunk, file, redirect, serve, stall, trickle
from tests.helpers.programs import execute

CONTENT = b"weights " * 50_000  # several reads
NAME = f"model-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(downloads.BASE_VARIABLE, raising=False)
    return tmp_path / "cache" / "glinpaint_jax"


@pytest.fixture
def official(monkeypatch):
    """`places` is a file of our own."""
    monkeypatch.setitem(OFFICIAL, "places", OFFICIAL["places"]._replace(file=NAME))


def assert_fails(url, *expected):
    """Checks for one line that contains the expected texts."""
    with pytest.raises(UserError) as error:
        locate(url)
    for text in (*expected, url):
        assert text in str(error.value)
    assert "\n" not in str(error.value)


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_small_network_comes_with_the_package(tmp_path, monkeypatch):
    folder = locate("small")
    assert folder.parent.parent == Path(downloads.__file__).parent
    assert sum(path.stat().st_size for path in files_in(folder)) < 6e6
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()  # a run of this name wins
    assert locate("small") == Path("small")
    assert Completer().default_blend == "none"  # but the default does not depend on the folder


@pytest.mark.parametrize("length", [None, ""], ids=["length", "no length"])
def test_a_file_is_downloaded_once_and_then_found_offline(length, cache, capsys):
    with serve({f"/a/{NAME}": file(CONTENT, length=length)}) as (url, server):
        reports = []
        assert locate(f"{url}/a/{NAME}", lambda *report: reports.append(report)) == cache / NAME
        assert reports[-1] == (len(CONTENT), len(CONTENT) if length is None else None)
        assert locate(f"{url}/a/{NAME}") == cache / NAME
        assert server.asked == [f"/a/{NAME}"]
    assert capsys.readouterr().err == f"downloading {url}/a/{NAME} to {cache / NAME}\n"
    assert locate(f"{url}/a/{NAME}").read_bytes() == CONTENT
    assert files_in(cache) == [cache / NAME]


def test_files_of_one_name_from_two_addresses_stay_apart():
    with serve({"/a/x.pth": file(b"a"), "/b/x.pth?k=1": file(b"b")}) as (url, _):
        first, second = locate(f"{url}/a/x.pth"), locate(f"{url}/b/x.pth?k=1")
    assert (first.name, second.name) == ("x.pth", "x.pth")
    assert (first.read_bytes(), second.read_bytes()) == (b"a", b"b")


def test_redirects_to_the_same_scheme_are_followed():
    answers = {f"/{NAME}": redirect("/moved?to=here"), "/moved?to=here": file(CONTENT)}
    with serve(answers) as (url, _):
        assert locate(f"{url}/{NAME}").read_bytes() == CONTENT


def test_redirects_from_https_to_http_are_rejected():
    request, headers = Request("https://host/a.pth"), {"Location": "http://host/a.pth"}
    with pytest.raises(downloads.DownloadError, match="redirects to 'http://host/a"):
        downloads.SafeRedirects().http_error_302(request, io.BytesIO(), 302, "Found", headers)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (file(b"other"), "has sha256 d9298a10..., not the one in its name; the download was disc"),
        (file(CONTENT[:-1], length=len(CONTENT)), "cut off after 399999 of 400000 bytes"),
        (break_a_chunk, "the connection was cut off;"),
        (lambda handler: handler.send_error(404), "the server answered 404 Not Found"),
        (lambda handler: handler.send_error(503), "the server answered 503 Service Unavailable"),
        (lambda handler: None, "Remote end closed connection without response"),
        (lambda handler: handler.wfile.write(b"no http\n"), "BadStatusLine"),
        (stall(CONTENT), "the server sent nothing for 0.3 s"),
        (trickle(CONTENT), "the server is too slow"),
        (redirect("file:///etc/hostname"), "redirects to 'file:///etc/hostname'; only the"),
        (redirect("ftp://127.0.0.1/x"), "redirects to 'ftp://127.0.0.1/x'; only the"),
        (redirect(f"/{NAME}"), "the server answered 302 Found"),
        (file(b"", length=10**12), "larger than 0.0005 GB, the most allowed"),
        (file(CONTENT * 2, length=""), "larger than 0.0005 GB, the most allowed"),
        (file(b"<html>", Content_Type="text/html"), "it is a web page, not a file of weights"),
    ],
    ids=[
        "hash", "cut off", "chunk", "404", "503", "closed", "no http", "stalled", "slow",
        "to a file", "to ftp", "loop", "huge", "endless", "page",
    ],
)  # fmt: skip
def test_failed_downloads_give_one_line_and_keep_nothing(answer, expected, cache, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    monkeypatch.setattr(downloads, "MAX_BYTES", 500_000)
    with serve({f"/{NAME}": answer}) as (url, _):
        remedy = "try again" if "sha256" in expected else f"try again, or put the file at {cache}"
        assert_fails(f"{url}/{NAME}", expected, remedy)
    assert files_in(cache) == []


def test_offline_the_error_names_the_file_to_put_there(cache):
    with serve({}) as (url, _):
        pass  # now gone
    assert_fails(f"{url}/{NAME}", "Connection refused", f"put the file at {cache / NAME}")
    (cache / NAME).write_bytes(CONTENT)
    assert locate(f"{url}/{NAME}") == cache / NAME


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_names_are_found_below_the_base_url(scheme, official, cache, tmp_path, monkeypatch):
    (tmp_path / NAME).write_bytes(CONTENT)
    with serve({f"/base/{NAME}": file(CONTENT)}) as (url, _):
        base = f"{url}/base/" if scheme == "http" else tmp_path.as_uri()
        monkeypatch.setenv(downloads.BASE_VARIABLE, base)
        path = locate("places")
    assert path == (cache / NAME if scheme == "http" else tmp_path / NAME)
    assert identify(path) is OFFICIAL["places"]


def test_names_stand_for_mmagics_addresses(monkeypatch):
    """As in MMagic's configs/global_local/metafile.yml."""
    asked = []
    monkeypatch.setattr(downloads, "download", lambda url, path, report: asked.append(url))
    for name in OFFICIAL:
        locate(name)
    base = "https://download.openmmlab.com/mmediting/inpainting/global_local"
    assert asked == [
        f"{base}/gl_256x256_8x12_places_20200619-52a040a8.pth",
        f"{base}/gl_256x256_8x12_celeba_20200619-5af0493f.pth",
    ]


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


@pytest.mark.parametrize("place", ["hf://me", "hf://me/model/file", "hf://me/model@", "hf:///a"])
def test_unusable_repositories_are_rejected(place):
    with pytest.raises(UserError, match=f"{place} must be hf://USER/REPO or hf://USER/REPO@REV"):
        locate(place)


@pytest.mark.parametrize("is_folder", [True, False])
def test_an_existing_path_wins_over_a_name(is_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if is_folder:
        (tmp_path / "places").mkdir()
    else:
        (tmp_path / "places").write_bytes(b"mine")
    assert locate("places").samefile(tmp_path / "places")


def test_local_files_are_checked_against_the_digits_in_their_names(tmp_path):
    good, bad = tmp_path / NAME, tmp_path / "b-52a040a8.pth"
    good.write_bytes(CONTENT)
    bad.write_bytes(CONTENT)
    for place in (good, str(good), good.as_uri(), f"file://localhost{good}"):
        assert locate(place) == good
    assert_fails(str(bad), f"has sha256 {NAME[6:14]}...", "rename it")
    assert_fails(bad.as_uri().removeprefix("file://"), "not the one in its name")
    assert bad.exists()
    long_name = tmp_path / f"c-{hashlib.sha256(CONTENT).hexdigest()}.pth"
    assert locate(bad.rename(long_name)) == long_name
    assert locate(good.rename(tmp_path / "gl_8x12.pth")).exists()  # no digits, no check
    assert identify(tmp_path / "gl_8x12.pth") is None


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/a.pth",
        "http://",
        "https://host/",
        "https://host/..%2f..",
        "http:///a.pth",
        "http://host/%00a.pth",
        "http://[::1/a.pth",
        "file://elsewhere/a.pth",
    ],
)
def test_unusable_urls_are_rejected(url):
    assert_fails(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:x/a.pth", "http://h\tost/ä.pth", f"http://h ost/{'a' * 300}"]
)
def test_urls_that_only_the_client_rejects_give_one_line(url, cache):
    with pytest.raises(UserError, match="cannot download"):
        locate(url)
    assert files_in(cache) == []


def test_a_cache_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with serve({f"/{NAME}": file(CONTENT)}) as (url, _), pytest.raises(UserError) as error:
        locate(f"{url}/{NAME}")
    assert str(error.value).startswith(f"cannot write {tmp_path / 'file'}")


def test_a_download_replaces_nothing_until_it_is_whole(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"old")
    with serve({"/a.pth": file(CONTENT[:9], length=10)}) as (url, _), pytest.raises(UserError):
        download(f"{url}/a.pth", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == b"old"


def test_a_command_prints_one_error_line_and_exits_with_1(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONWARNINGS", "")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    arguments = ["--output", str(tmp_path / "weights")]
    with serve({}) as (url, _), pytest.raises(SystemExit) as end:
        cli.run(import_torch, "program", [f"{url}/{NAME}", *arguments])
    assert end.value.code == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("downloading ")
    assert second.startswith(f"error: cannot download {url}/{NAME}: the server answered 404")
    assert files_in(tmp_path) == []
