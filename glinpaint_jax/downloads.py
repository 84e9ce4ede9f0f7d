"""Finds weights by path, name, URL or Hugging Face repository. Downloads are kept in a cache."""

import hashlib
import http.client
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener, url2pathname

from tqdm import tqdm

import glinpaint_jax
from glinpaint_jax.errors import UserError, import_extra
from glinpaint_jax.files import (
    as_path,
    cache_folder,
    checksum,
    in_bucket,
    replace_atomically,
    report_unwritable,
    write_atomically,
)

BASE_URL = "https://download.openmmlab.com/mmediting/inpainting/global_local/"
BASE_VARIABLE = "GLINPAINT_WEIGHTS_URL"
SCHEMES = ("http", "https")
HUB_SCHEME = "hf://"
HUB_PLACE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
HUB_WEIGHTS = "model.safetensors"  # the file of a repository that holds the weights
BUNDLED = "small"  # the name of the weights that come with the package
BUNDLED_FOLDER = Path(glinpaint_jax.__file__).parent / "pretrained" / BUNDLED
MAX_BYTES = 10**9
CHUNK = 2**16  # bytes
TIMEOUT = 30  # seconds without a byte
MIN_RATE = 1000  # bytes per second on average; checked after TIMEOUT seconds
Report = Callable[[int, int | None], None]


class Official(NamedTuple):
    """MMagic's weights and their scores, from its configs/global_local/README.md."""

    file: str
    config: str  # the name of our file in configs/
    test_set: str
    scores: dict[str, float]


OFFICIAL = {
    "places": Official(
        "gl_256x256_8x12_places_20200619-52a040a8.pth",
        "places.py",
        "Places365-val",
        {"l1": 11.164, "psnr": 23.152, "ssim": 0.862},
    ),
    "celeba_hq": Official(
        "gl_256x256_8x12_celeba_20200619-5af0493f.pth",
        "celeba_hq.py",
        "CelebA-val",
        {"l1": 6.678, "psnr": 26.780, "ssim": 0.904},
    ),
}


def locate(place: str | Path, report: Report | None = None) -> Path:
    """Returns the path of a file or folder, a URL, hf://USER/REPO, BUNDLED or a name in OFFICIAL.

    Downloads what is not in the cache yet; `report` is called with the bytes received so far and
    the size, if known. An existing file or folder wins over a name. A file in a bucket is always
    downloaded; a folder in a bucket stays there. Raises UserError if the download fails, if a path
    cannot be read, or if a file's name holds a checksum that is not the file's.
    """
    text = str(place)
    if in_bucket(text):
        path = _locate_in_bucket(as_path(text))
    elif text.startswith(HUB_SCHEME):
        path = _locate_in_hub(text)
    elif "://" in text:
        path = _locate_url(text, report)
    elif text == BUNDLED and not Path(text).exists():
        path = BUNDLED_FOLDER
    elif text in OFFICIAL and not Path(text).exists():
        base = os.environ.get(BASE_VARIABLE) or BASE_URL
        path = _locate_url(f"{base.rstrip('/')}/{OFFICIAL[text].file}", report)
    else:
        path = Path(place)
    try:
        is_file = path.is_file()
    except OSError as error:  # Python 3.11: the name is too long
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    if is_file and (found := find_wrong_checksum(path, path.name)):
        raise UserError(
            f"{path} has sha256 {found}..., not the one in its name: it is damaged or another "
            "file; replace it, or rename it"
        )
    return path


def identify(path: Path) -> Official | None:
    """Returns which of MMagic's files this is, by its content."""
    if not path.is_file():
        return None
    digest = checksum(path)
    return next((o for o in OFFICIAL.values() if digest.startswith(checksum_in(o.file))), None)


def checksum_in(name: str) -> str:
    """The first digits of the SHA-256 in a name such as model-52a040a8.pth (torch.hub), or ""."""
    match = re.search(r"-([0-9a-f]{8,64})\.", name)
    return match[1] if match else ""


def find_wrong_checksum(path: Path, name: str) -> str:
    """Returns the first digits of the file's SHA-256 if `name` holds others, else ""."""
    expected = checksum_in(name)
    if not expected:
        return ""
    try:
        digest = checksum(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    return "" if digest.startswith(expected) else digest[: len(expected)]


def _locate_url(url: str, report: Report | None) -> Path:
    try:
        scheme, host, path, *_ = urlsplit(url)
    except ValueError as error:
        raise UserError(f"{url} is not a valid URL: {error}") from None
    if scheme == "file" and host in ("", "localhost"):
        return Path(url2pathname(path))
    name = Path(unquote(path)).name
    if scheme not in SCHEMES or not host or name in ("", "..") or not name.isprintable():
        raise UserError(
            f"{url} must be http://HOST/FILE, https://HOST/FILE or file:///PATH; or download the "
            "file yourself and pass its path"
        )
    # Only a checksum makes a name unique among servers.
    folder = "" if checksum_in(name) else hashlib.sha256(os.fsencode(url)).hexdigest()[:8]
    cached = cache_folder() / folder / name
    if not os.path.exists(cached):  # unlike Path.exists, takes names of any length
        download(url, cached, report)
    return cached


def _locate_in_bucket(path: Path) -> Path:
    if not path.is_file():
        return path
    cached = cache_folder() / hashlib.sha256(os.fsencode(path)).hexdigest()[:8] / path.name
    with report_unwritable(cached):
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cached, path.read_bytes())
    return cached


def _locate_in_hub(place: str) -> Path:
    """Returns the weights of hf://USER/REPO[@REVISION] in huggingface_hub's own cache.

    huggingface_hub downloads them if they are not the newest, and works offline if it has them.
    """
    match = HUB_PLACE.fullmatch(place)
    if match is None:
        raise UserError(f"{place} must be hf://USER/REPO or hf://USER/REPO@REVISION")
    hub = import_extra("huggingface_hub")
    try:
        return Path(hub.hf_hub_download(match[1], HUB_WEIGHTS, revision=match[2]))
    except (OSError, ValueError) as error:  # all of its errors are one of these
        is_unreachable = isinstance(error, FileNotFoundError)  # and not in the cache; caused by:
        reason = type(error.__cause__ if is_unreachable else error).__name__
        raise UserError(
            f"cannot download {HUB_WEIGHTS} of {place}: {reason}; check the name and the network; "
            "for a private repository, run `hf auth login`"
        ) from None


def download(url: str, path: Path, report: Report | None = None) -> None:
    """Downloads `url` to `path`, with a progress bar on a terminal.

    Raises UserError and keeps nothing if the download fails, exceeds MAX_BYTES, or does not have
    the checksum in the path's name.
    """
    print(f"downloading {url} to {path}", file=sys.stderr)
    with report_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(path) as temporary:
            with temporary.open("wb") as file:
                for chunk in _receive(url, path, report):
                    file.write(chunk)
            if found := find_wrong_checksum(temporary, path.name):
                raise UserError(
                    f"{url} has sha256 {found}..., not the one in its name; the download was "
                    "discarded; try again or another server"
                )


def _receive(url: str, path: Path, report: Report | None) -> Iterator[bytes]:
    """Yields the bytes of `url`; every failure is a UserError that names `path` as the remedy."""
    agent = {"User-Agent": f"glinpaint_jax/{glinpaint_jax.__version__}"}
    try:
        opener = build_opener(SafeRedirects)
        with opener.open(Request(url, headers=agent), timeout=TIMEOUT) as response:
            yield from _read_chunks(response, path.name, report)
        return
    except HTTPError as error:
        error.close()
        status = http.client.responses.get(error.code, "")
        reason = f"the server answered {error.code} {status}".rstrip()
    except http.client.IncompleteRead:
        reason = "the connection was cut off"
    except TimeoutError:
        reason = f"the server sent nothing for {TIMEOUT} s"
    except DownloadError as error:
        reason = str(error)
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = getattr(error, "reason", error)  # of a URLError
        reason = getattr(cause, "strerror", None) or repr(cause)
    raise UserError(f"cannot download {url}: {reason}; try again, or put the file at {path}")


class DownloadError(Exception):
    """Why a download was given up."""


def _read_chunks(
    response: http.client.HTTPResponse, name: str, report: Report | None
) -> Iterator[bytes]:
    size, received, start = response.length, 0, time.monotonic()
    if response.headers.get_content_type() == "text/html":
        raise DownloadError("it is a web page, not a file of weights")
    with tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=None) as bar:
        # read1 returns what has arrived, so the bar moves even if the server is slow.
        while max(size or 0, received) <= MAX_BYTES and (chunk := response.read1(CHUNK)):
            received += len(chunk)
            bar.update(len(chunk))
            if report is not None:
                report(received, size)
            seconds = time.monotonic() - start
            if seconds > TIMEOUT and received < MIN_RATE * seconds:
                raise DownloadError(f"the server is too slow: {received} bytes in {seconds:.0f} s")
            yield chunk
    if max(size or 0, received) > MAX_BYTES:
        raise DownloadError(f"it is larger than {MAX_BYTES / 1e9:g} GB, the most allowed")
    if size is not None and received < size:
        raise DownloadError(f"the connection was cut off after {received} of {size} bytes")


class SafeRedirects(HTTPRedirectHandler):
    """Follows redirects to the same scheme or to https."""

    def http_error_302(
        self, request: Request, response: Any, code: int, message: str, headers: Any
    ) -> Any:
        target = urljoin(request.full_url, headers.get("Location", ""))
        if urlsplit(target).scheme not in (request.type, "https"):
            response.close()
            raise DownloadError(
                f"it redirects to {target!r}; only the same scheme or https is allowed"
            )
        return super().http_error_302(request, response, code, message, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302
