"""Paths in buckets, gs:// and s3://, and their locks. Imported only where one is given.

A bucket has no folders, no append and no rename; an object appears whole or not at all.
"""

import contextlib
import functools
import io
import os
import random
import socket
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from glinpaint_jax.errors import UserError, import_extra

os.environ.setdefault("EPATH_USE_TF", "false")  # else etils uses TensorFlow where it is installed

from etils.epath.gpath import PosixGPath

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}  # by scheme
BEAT = 15.0  # seconds after which a run writes to its lock again
MISSED_BEATS = 3  # after which the owner of a lock is taken for dead


class BucketPath(PosixGPath, Path):
    """A path in a bucket with the methods of pathlib that a run uses; orbax accepts it too.

    Every failure is an OSError. gcsfs and s3fs repeat failed requests for up to a minute.
    """

    @property
    def _files(self) -> Any:
        return _open_bucket(self._uri_scheme)

    def absolute(self) -> "BucketPath":
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        return self

    def _kind(self) -> str:
        """file, directory, or nothing if there is none; fsspec's isfile is False on any error."""
        try:
            with _os_errors():
                return self._files.info(str(self))["type"]
        except FileNotFoundError:
            return ""

    def exists(self) -> bool:
        return self._kind() != ""

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def is_file(self) -> bool:
        return self._kind() == "file"

    def iterdir(self) -> Iterator["BucketPath"]:
        try:
            with _os_errors():
                names = self._files.ls(str(self), detail=False)
        except FileNotFoundError:
            names = []
        return (path for path in map(self._named, sorted(names)) if path != self)

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        """The pattern may have wildcards after its last slash."""
        folder, _, pattern = pattern.rpartition("/")
        return (path for path in (self / folder).iterdir() if fnmatch(path.name, pattern))

    def rglob(self, pattern: str) -> Iterator["BucketPath"]:
        """Yields files only."""
        with _os_errors():
            names = self._files.find(str(self))
        return (path for path in map(self._named, names) if fnmatch(path.name, pattern))

    def _named(self, name: str) -> "BucketPath":
        return self._new(f"{self._uri_scheme}://{name.strip('/')}")

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: the name of an object makes its folders."""

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Opens an object to read, downloaded whole, or to write; each flush uploads it whole."""
        content = io.BytesIO(self.read_bytes()) if "r" in mode else Upload(self)
        return content if "b" in mode else io.TextIOWrapper(content, encoding or "utf-8", errors)

    def read_bytes(self) -> bytes:
        with _os_errors():
            return self._files.cat_file(str(self))

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: bytes, *, create: bool = False) -> int:
        """Writes an object; with `create`, raises FileExistsError if there is one."""
        with _os_errors():
            self._files.pipe_file(str(self), data, mode="create" if create else "overwrite")
        return len(data)

    def rename(self, target: str | os.PathLike) -> "BucketPath":
        """Copies all objects of a folder, then deletes the old ones."""
        with _os_errors():
            for path in self.rglob("*"):
                self._files.cp_file(str(path), f"{target}/{path.relative_to(self)}")
        self.remove_folder()
        return self._new(target)

    def unlink(self, missing_ok: bool = False) -> None:
        with _os_errors(), contextlib.suppress(*[FileNotFoundError] * missing_ok):
            self._files.rm_file(str(self))

    def upload(self, place: Path, last: str = "") -> None:
        """Copies a file or folder from disk; files of the name `last` after all others."""
        files = [place] if place.is_file() else (p for p in place.rglob("*") if p.is_file())
        for file in sorted(files, key=lambda file: (file.name == last, file)):
            (self / file.relative_to(place)).write_bytes(file.read_bytes())

    def download(self, place: Path) -> None:
        """Copies a folder to disk."""
        for path in self.rglob("*"):
            file = place / path.relative_to(self)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(path.read_bytes())

    def remove_folder(self) -> None:
        with _os_errors():
            self._files.rm(str(self), recursive=True)


class Upload(io.BytesIO):
    """A new object; each flush writes it whole."""

    def __init__(self, path: BucketPath):
        super().__init__()
        self._path = path
        self._uploaded = -1  # bytes

    def flush(self) -> None:
        content = self.getvalue()
        if len(content) != self._uploaded:
            self._path.write_bytes(content)
            self._uploaded = len(content)

    def close(self) -> None:
        try:
            if not self.closed:
                self.flush()
        finally:
            super().close()


@functools.cache
def _open_bucket(scheme: str) -> Any:
    import_extra(PACKAGES[scheme])
    import fsspec

    # Also for orbax, which opens the bucket through etils: it writes past fsspec's listings.
    fsspec.config.conf.setdefault(scheme, {})["use_listings_cache"] = False
    sys.unraisablehook = functools.partial(_hide_late_answers, sys.unraisablehook)
    return fsspec.filesystem(scheme)


def _hide_late_answers(report: Callable[[Any], Any], unraisable: Any) -> None:
    """Hides that hundreds of requests of a failed save find the event loop of orbax closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Turns the errors of gcsfs and s3fs, which are of many types, into OSError."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def open_path(place: str) -> BucketPath:
    """Returns the path. Raises UserError if its bucket cannot be read."""
    path = BucketPath(place)
    login = {"gs": "gcloud auth application-default login", "s3": "aws configure"}
    try:
        if len(path.parts) < 4:
            raise OSError("a folder in it must be named too")
        if not BucketPath(*path.parts[:3]).exists():
            raise OSError("there is no such bucket")
    except OSError as error:
        raise UserError(
            f"cannot open {place}: {error}; check the name, the network and your credentials "
            f"(`{login[path._uri_scheme]}`)"
        ) from None
    return path


def take_lock(path: BucketPath) -> Callable[[], None]:
    """Makes the lock `path` and writes to it every BEAT seconds; returns what releases it.

    Raises FileExistsError if there is one already.
    """
    owner = f"process {os.getpid()} on {socket.gethostname()} ({uuid.uuid4().hex[:8]})"
    path.write_bytes(f"{owner}\n".encode(), create=True)
    released = threading.Event()
    arguments = (path, owner, released)
    beating = threading.Thread(target=_beat, args=arguments, name="lock", daemon=True)
    beating.start()

    def release() -> None:
        released.set()
        beating.join()
        with contextlib.suppress(OSError):  # a dead lock costs the next run a wait
            if path.read_text().startswith(owner):
                path.unlink()

    return release


def _beat(path: BucketPath, owner: str, released: threading.Event) -> None:
    number = 0
    while not released.wait(BEAT):
        with contextlib.suppress(OSError):  # the bucket is unavailable; later, maybe
            if not path.read_text().startswith(owner):
                warnings.warn(f"another run uses {path.parent} too; stop one", stacklevel=2)
                return
            number += 1
            path.write_bytes(f"{owner}, beat {number}\n".encode())


def release_dead_lock(path: BucketPath) -> bool:
    """Deletes the lock if its run is dead. Returns False if another run holds it.

    Waits for the next beat of that run; compares no clocks. Raises OSError.
    """
    try:
        before = path.read_text()
        seconds = BEAT * MISSED_BEATS
        print(
            f"{path} exists; watching it for up to {seconds + BEAT:g} s to see if its run is alive",
            flush=True,
            file=sys.stderr,
        )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(BEAT / 5)
            if path.read_text() != before:
                return False
        # gcsfs and s3fs delete an object whatever it holds by then: a run that takes the lock
        # between the next read and the deletion loses it. Two new runs rarely come at once.
        time.sleep(random.uniform(0, BEAT))
        if path.read_text() != before:
            return False
        path.unlink()
    except FileNotFoundError:  # released meanwhile, or by another process of this run
        pass
    return True
