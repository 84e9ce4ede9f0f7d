"""Finds weights by path, name, URL or Hugging Face repository. Downloads are kept in a cache."""

import hashlib
import os
import re
import sys
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import safetensors
from tqdm import tqdm

import glinpaint_jax
from glinpaint_jax.errors import UserError, import_extra
from glinpaint_jax.files import (
    as_path,
    cache_folder,
    checksum,
    replace_atomically,
    report_unreadable,
    report_unwritable,
)

MMAGIC_URL = "https://download.openmmlab.com/mmediting/inpainting/global_local/"
IIZUKA_URL = "http://iizuka.cs.tsukuba.ac.jp/data/"
BASE_VARIABLE, QUIET_VARIABLE = "GLINPAINT_WEIGHTS_URL", "GLINPAINT_QUIET"
OFFICIAL = {  # the files of MMagic and of the paper's authors, by our names
    "places": MMAGIC_URL + "gl_256x256_8x12_places_20200619-52a040a8.pth",
    "celeba_hq": MMAGIC_URL + "gl_256x256_8x12_celeba_20200619-5af0493f.pth",
    "iizuka": IIZUKA_URL + "completionnet_places2.t7",
    "iizuka_freeform": IIZUKA_URL + "completionnet_places2_freeform.t7",
    "iizuka_celeba": IIZUKA_URL + "completionnet_celeba.t7",
}
HUB_REPOSITORY = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
HUB_WEIGHTS = "model.safetensors"  # the file of a repository that holds the weights
BUNDLED = "small"  # the name of the weights that come with the package
BUNDLED_FOLDER = Path(glinpaint_jax.__file__).parent / "pretrained" / BUNDLED
CHECKPOINT_HELP = (
    "a workdir (its newest step), a step such as WORKDIR/checkpoints/1000, a .pth, .safetensors or "
    ".t7 file, its URL, hf://USER/REPO, places or celeba_hq (MMagic's weights), iizuka, "
    "iizuka_freeform or iizuka_celeba (the authors'), or small, which comes with glinpaint_jax"
)
MAX_BYTES = 10**9
CHUNK = 2**16  # bytes
TIMEOUT = 30  # seconds without a byte


def locate(spec: str | Path) -> Path:
    """Returns the path of the file or folder that `spec` (see CHECKPOINT_HELP) stands for.

    Downloads what is not in the cache yet. An existing file or folder wins over a name. A path need
    not exist.
    """
    text = str(spec)
    if text.startswith("hf://"):
        return _locate_in_hub(text)
    if "://" in text and not text.startswith("gs://"):
        return _locate_url(text)
    path = as_path(spec)
    with report_unreadable(path):  # its name may be too long
        exists = path.exists()
    if not exists and text == BUNDLED:
        return BUNDLED_FOLDER
    if not exists and text in OFFICIAL:
        base, name = OFFICIAL[text].rsplit("/", 1)
        base = os.environ.get(BASE_VARIABLE) or base
        return _locate_url(f"{base.rstrip('/')}/{name}")
    if path.is_file():
        if "://" in text:
            raise UserError(f"{path} is in a bucket; copy the file to disk and pass its path")
        if fault := find_fault(path, path.name):
            raise UserError(f"{path}: {fault}")
    return path


def checksum_in(name: str) -> str:
    """The first digits of the SHA-256 in a name such as model-52a040a8.pth (torch.hub), or ""."""
    match = re.search(r"-(?!\d+\.)([0-9a-f]{8,64})\.", name)  # digits only: a date or a step
    return match[1] if match else ""


def find_fault(path: Path, name: str = "") -> str:
    """Says why a file cannot be the weight file `name`, in a few words; "" if it can be."""
    with report_unreadable(path):
        if find_format(path) is None:
            return "it is not a weight file (.pth, .safetensors or .t7), or is damaged"
        digits = checksum_in(name)
        if digits and (found := checksum(path)[: len(digits)]) != digits:
            return (
                f"it has sha256 {found}..., not the one in its name; if that is no checksum, "
                "rename the file"
            )
    return ""


def find_format(path: Path) -> str | None:
    """Returns pth, safetensors or t7; None if the file is none of them or visibly damaged."""
    with path.open("rb") as file:
        start = file.read(9)
        if start[:8] == b"\3\0\0\0\1\0\0\0":  # the first object is a table
            return "t7"
        if start[8:] != b"{":  # else 8 bytes of length, then JSON
            # Files of PyTorch before 1.6 are pickles; nothing marks their end.
            return "pth" if start[:2] == b"\x80\x02" or zipfile.is_zipfile(file) else None
    try:
        with safetensors.safe_open(path, framework="np"):
            return "safetensors"
    except safetensors.SafetensorError:
        return None


def hide_secrets(text: str) -> str:
    """Removes passwords and queries, which may hold keys, from the URLs in a text."""
    return re.sub(r"(://.*?)\?\S*", r"\1?...", re.sub(r"://[^/\s]*@", "://", text))


def _locate_url(url: str) -> Path:
    try:
        scheme, host, path, *_ = urlsplit(url)
    except ValueError as error:
        raise UserError(f"{hide_secrets(url)} is not a valid URL: {error}") from None
    if scheme == "file" and host in ("", "localhost"):
        return locate(url2pathname(path))
    name = Path(path).name
    if scheme not in ("http", "https") or not host or name in ("", ".."):
        raise UserError(
            f"{hide_secrets(url)} must be http://HOST/FILE, https://HOST/FILE or file:///PATH; or "
            "download the file yourself and pass its path"
        )
    # Only a checksum makes a name unique among servers.
    folder = "" if checksum_in(name) else hashlib.sha256(os.fsencode(url)).hexdigest()[:8]
    cached = cache_folder() / folder / name
    if not os.path.isfile(cached) or find_fault(cached, name):
        download(url, cached)
    return cached


def _locate_in_hub(spec: str) -> Path:
    """Returns the weights of hf://USER/REPO[@REVISION] in huggingface_hub's own cache.

    huggingface_hub downloads them if they are not the newest, and works offline if it has them.
    """
    match = HUB_REPOSITORY.fullmatch(spec)
    if match is None:
        raise UserError(f"{spec} must be hf://USER/REPO or hf://USER/REPO@REVISION")
    hub = import_extra("huggingface_hub")
    try:
        return Path(hub.hf_hub_download(match[1], HUB_WEIGHTS, revision=match[2]))
    except (OSError, ValueError) as error:  # all of its errors are one of these
        is_unreachable = isinstance(error, FileNotFoundError)  # and not in the cache; caused by:
        reason = type(error.__cause__ if is_unreachable else error).__name__
        raise UserError(
            f"cannot download {HUB_WEIGHTS} of {spec}: {reason}; check the name and the network; "
            "for a private repository, run `hf auth login`"
        ) from None


def download(url: str, path: Path) -> None:
    """Downloads a weight file to `path`, with a progress bar on a terminal.

    Keeps nothing if the download fails or is not a whole weight file with the checksum in the
    path's name.
    """
    if not os.environ.get(QUIET_VARIABLE):
        print(f"downloading {hide_secrets(url)} to {path}", file=sys.stderr)
    with report_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for unfinished in path.parent.glob(".*.tmp"):
            if unfinished.stat().st_mtime < time.time() - 2 * TIMEOUT:  # its process was killed
                unfinished.unlink(missing_ok=True)
        with replace_atomically(path) as temporary:
            reason = _receive(url, temporary, path.name) or find_fault(temporary, path.name)
            if reason:
                raise UserError(
                    f"cannot download {hide_secrets(url)}: {reason}; try again, or put the file "
                    f"at {path}"
                )


def _receive(url: str, path: Path, name: str) -> str:
    """Writes what the server sends to `path`; returns why that failed, or ""."""
    import requests  # takes a while

    try:
        with requests.get(url, stream=True, timeout=TIMEOUT) as response, path.open("wb") as file:
            if not response.ok:
                return f"the server answered {response.status_code} {response.reason}".rstrip()
            size = response.raw.length_remaining
            with tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=None) as bar:
                for chunk in response.iter_content(CHUNK):
                    bar.update(file.write(chunk))
                    if file.tell() > MAX_BYTES:
                        return f"it is larger than {MAX_BYTES / 1e9:g} GB, the most allowed"
    except requests.RequestException as error:
        root = error
        while root.__context__:
            root = root.__context__
        return hide_secrets(getattr(root, "strerror", None) or f"{type(root).__name__}: {root}")
    return ""
