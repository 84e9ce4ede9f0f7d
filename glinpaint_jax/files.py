"""Writing files and folders whole or not at all; locks; checksums.

A workdir may be in a bucket, gs://BUCKET/FOLDER: an etils path, which orbax takes too. An object
appears whole or not at all, and a bucket has no locks.
"""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import socket
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from glinpaint_jax.errors import UserError, import_extra

MANIFEST_NAME = "manifest.sha256"
LOCK = "lock"  # in a workdir, held by its run
REQUEST_TIMEOUT = 30  # seconds that a bucket has to answer
MAX_REASON = 200  # characters


def in_bucket(place: str | Path) -> bool:
    return str(place).startswith(("gs://", "s3://"))


def as_path(place: str | Path) -> Path:
    """Returns a path on disk or, of gs://BUCKET/FOLDER, an etils path."""
    scheme, is_url, rest = str(place).partition("://")
    if not is_url:
        return Path(place)
    bucket, _, folder = rest.partition("/")
    if scheme != "gs" or not bucket or not folder.strip("/"):
        raise UserError(
            f"{place} must be on disk or gs://BUCKET/FOLDER; mount any other bucket, for example "
            f"`mount-s3 {bucket or 'BUCKET'} FOLDER`, and pass the path below FOLDER"
        )
    import_extra("gcsfs")
    # Limits for gcsfs and tensorstore; by default they wait forever for an answer.
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(REQUEST_TIMEOUT))
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
    os.environ.setdefault("EPATH_USE_TF", "false")  # else etils uses TensorFlow if it is installed
    import fsspec
    from etils import epath

    # Tensorstore writes past the listings that gcsfs caches.
    fsspec.config.conf["gs"] = {"requests_timeout": REQUEST_TIMEOUT, "use_listings_cache": False}
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs the errors that it raises
    sys.unraisablehook = _hide_late_answers
    try:
        next(epath.Path(f"gs://{bucket}").iterdir(), None)
    except Exception as error:
        missing = isinstance(error, FileNotFoundError)
        raise UserError(
            f"cannot open {place}: {'there is no such bucket' if missing else describe(error)}; "
            "check the name, the network and your credentials "
            "(`gcloud auth application-default login`)"
        ) from None
    return epath.Path(place)


def _hide_late_answers(unraisable: Any) -> None:
    """Hides that hundreds of requests of a failed save find orbax's event loop closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def absolute(path: Path) -> Path:
    """Orbax needs absolute paths; etils would take gs://... for a relative one."""
    return path if in_bucket(path) else path.absolute()


def describe(error: Exception) -> str:
    """The reason of an error in a few words; libraries wrap the system's in many lines."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    known = map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO))
    reason = next((words for words in known if words in text), f"{type(error).__name__}: {text}")
    return reason[:MAX_REASON].rstrip(": ")


@contextlib.contextmanager
def _report(verb: str, path: Path) -> Iterator[None]:
    """Turns an OSError while reading or writing `path` into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not in_bucket(path):  # a bucket's are of many types
            raise
        raise UserError(f"cannot {verb} {path}: {describe(error)}") from None


report_unreadable = functools.partial(_report, "read")
report_unwritable = functools.partial(_report, "write")


def cache_folder() -> Path:
    """The folder of downloaded weights and compiled programs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glinpaint_jax"


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yields a hidden path beside `path`; a file written there replaces `path`.

    If anything fails, removes it instead. Only on disk.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    if in_bucket(path):
        path.write_bytes(content)
        return
    with replace_atomically(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def dump_json(content: Any, **options: Any) -> str:
    """JSON text. Numbers that are not finite, which JSON does not have, become null."""
    return json.dumps(json.loads(json.dumps(content), parse_constant=lambda _: None), **options)


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_folder_writable(folder: Path) -> None:
    """Raises UserError if no file can be made in `folder`, or, if missing, the nearest above it."""
    with report_unwritable(folder):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        tempfile.TemporaryFile(dir=existing).close()


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Locks `workdir` and writes the owner into its lock; the lock ends with the process.

    Warns if the file system has no locks. Does nothing in a bucket.
    """
    if in_bucket(workdir):
        yield
        return
    path = workdir / LOCK
    with report_unwritable(path):
        opened = path.open("a+")
    with opened as file:
        try:
            _flock(file, path, exclusive=True)
        except OSError as error:
            warnings.warn(
                f"cannot lock {workdir} ({describe(error)}); make sure no second run uses it",
                stacklevel=3,
            )
        with contextlib.suppress(OSError):  # if the disk is full, a later write reports it
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield


def require_unlocked(workdir: Path) -> None:
    """Raises UserError if another process has locked `workdir`."""
    path = workdir / LOCK
    with contextlib.suppress(OSError), path.open() as file:  # a new workdir, no locks, or a bucket
        _flock(file, path, exclusive=False)


def _flock(file: IO[str], path: Path, *, exclusive: bool) -> None:
    """Raises UserError if another process holds the lock, OSError if the file system has none."""
    import fcntl  # Windows has none

    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{path.parent} is in use by another run, {path.read_text().strip()}; wait for it, "
            "stop it, or pass another --workdir"
        ) from None


def write_manifest(folder: Path) -> None:
    """Writes the checksums of all files below `folder`, in the format of sha256sum."""
    files = [path for path in _files_below(folder) if path.name != MANIFEST_NAME]
    lines = [f"{checksum(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    write_atomically(folder / MANIFEST_NAME, "".join(lines).encode())


def _files_below(folder: Path) -> Iterator[Path]:
    """Like rglob, which paths in buckets lack."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files_below(path)
        else:
            yield path


def find_damage(folder: Path) -> str | None:
    """Returns what differs from the manifest, in a few words, or None if nothing does.

    Ignores files that are not listed: file managers and syncing tools add theirs.
    """
    name = MANIFEST_NAME
    with report_unreadable(folder):
        try:
            *lines, rest = (folder / name).read_bytes().decode().split("\n")
            listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
            if rest or not listed or len(listed) < len(lines):
                return f"{MANIFEST_NAME} is incomplete"
            for name, digest in listed.items():
                if checksum(folder / name) != digest:
                    return f"{name} does not match its checksum"
        except FileNotFoundError:
            if name == MANIFEST_NAME:
                return f"it has no {name}, which is written last"
            return f"{name} is missing"
        except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError
            if in_bucket(folder):
                raise
            return f"{folder.name} cannot be read: {describe(error)}"
    return None
