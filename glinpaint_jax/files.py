"""Writing files and folders whole or not at all; locks; checksums. On disk or in a bucket."""

import contextlib
import errno
import hashlib
import os
import shutil
import socket
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from glinpaint_jax.errors import UserError

MANIFEST_NAME = "manifest.sha256"
LOCK = "lock"  # in a workdir, held by its run
BUCKETS = ("gs://", "s3://")


def as_path(place: str | Path) -> Path:
    """Returns a path on disk, or of gs://... and s3://... a `buckets.BucketPath`.

    Raises UserError if the bucket cannot be read.
    """
    if not in_bucket(place):
        return Path(place)
    from glinpaint_jax.buckets import open_path  # takes 0.3 s to import

    return open_path(str(place))


def in_bucket(place: str | Path) -> bool:
    return str(place).startswith(BUCKETS)


def unknown_to_orbax(path: Path) -> bool:
    """Whether orbax, which knows disks and gs://, cannot read or write there."""
    return str(path).startswith("s3://")


def cache_folder() -> Path:
    """The folder of downloaded weights and compiled programs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glinpaint_jax"


@contextlib.contextmanager
def replace_atomically(path: Path, prefix: str = "") -> Iterator[Path]:
    """Yields a hidden path beside `path`; a file or folder written there replaces `path`.

    If anything fails, removes it instead. The hidden name starts with `prefix`. If `path` is in a
    bucket, yields a path on disk and uploads what is written there.
    """
    if in_bucket(path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
            path.upload(Path(folder) / path.name, last=MANIFEST_NAME)
        return
    temporary = path.with_name(f".{prefix}{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def report_unwritable(path: Path) -> Iterator[None]:
    """Turns an OSError while writing `path` into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def write_atomically(path: Path, content: bytes) -> None:
    if in_bucket(path):
        path.write_bytes(content)
        return
    with replace_atomically(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_from(path: Path, start: int, content: bytes) -> None:
    """Replaces what follows the first `start` bytes of a file; in a bucket, the whole object."""
    if in_bucket(path):
        path.write_bytes(path.read_bytes()[:start] + content)
        return
    with path.open("r+b") as file:
        file.seek(start)
        file.truncate()
        file.write(content)


@contextlib.contextmanager
def readable_by_orbax(folder: Path) -> Iterator[Path]:
    """Yields the folder, or if orbax does not know its bucket, a temporary copy on disk."""
    if not unknown_to_orbax(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder.download(Path(temporary) / folder.name)
        yield Path(temporary) / folder.name


def remove_folder(path: Path) -> None:
    """Deletes a folder, or as much of it as possible."""
    if in_bucket(path):
        with contextlib.suppress(OSError):
            path.remove_folder()
    else:
        shutil.rmtree(path, ignore_errors=True)


def fsync_path(path: Path) -> None:
    """Flushes a file or folder to disk, so that it survives a power failure."""
    if in_bucket(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, size: int) -> None:
    """Raises OSError if `size` bytes do not fit; orbax's own error would be a page long."""
    if in_bucket(folder):
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(file.fileno(), 0, size)


def check_folder_writable(folder: Path) -> None:
    """Raises UserError if no file can be made in `folder`, or, if missing, the nearest above it."""
    with report_unwritable(folder):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        require_space(existing, 1)


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Locks `path` and writes the owner into it; the lock ends with the process.

    Raises UserError if another process holds the lock or the file cannot be opened; warns if the
    file system has no locks. In a bucket, the owner keeps writing to the lock.
    """
    if in_bucket(path):
        from glinpaint_jax.buckets import take_lock

        require_unlocked(path)
        with report_unwritable(path):
            release = take_lock(path)
        try:
            yield
        finally:
            release()
        return
    with report_unwritable(path):
        opened = path.open("a+")
    with opened as file:
        try:
            _flock(file, exclusive=True)
        except BlockingIOError:
            raise _locked(path) from None
        except OSError as error:
            warnings.warn(
                f"cannot lock {path.parent} ({error.strerror}); make sure no second run uses it",
                stacklevel=3,
            )
        owner = f"process {os.getpid()} on {socket.gethostname()}\n"
        with contextlib.suppress(OSError):  # if the disk is full, a later write reports it
            path.write_text(owner)
        yield


def require_unlocked(path: Path) -> None:
    """Raises UserError if another process holds the lock of `lock_file`.

    In a bucket, first deletes the lock of a dead run.
    """
    if in_bucket(path):
        from glinpaint_jax.buckets import release_dead_lock

        with report_unwritable(path):
            if not release_dead_lock(path):
                raise _locked(path)
        return
    with contextlib.suppress(OSError), path.open() as file:  # a new workdir, or no locks
        try:
            _flock(file, exclusive=False)
        except BlockingIOError:
            raise _locked(path) from None


def _flock(file: IO[str], *, exclusive: bool) -> None:
    """Raises BlockingIOError if another process holds the lock, OSError if there are no locks."""
    try:
        import fcntl
    except ModuleNotFoundError:
        raise OSError(errno.ENOSYS, "Windows has no flock") from None
    fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)


def _locked(path: Path) -> UserError:
    return UserError(
        f"{path.parent} is in use by another run, {path.read_text().strip()}; wait for it, stop "
        "it, or pass another --workdir"
    )


def write_manifest(folder: Path) -> None:
    """Writes the checksums of all files below `folder`, in the format of sha256sum.

    First flushes the files to disk.
    """
    lines = []
    for path in _list_files(folder):
        fsync_path(path)
        lines.append(f"{checksum(path)}  {path.relative_to(folder).as_posix()}\n")
    write_atomically(folder / MANIFEST_NAME, "".join(lines).encode())
    for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder, folder.parent):
        fsync_path(path)


def find_damage(folder: Path) -> str | None:
    """Returns what differs from the manifest, in a few words, or None if nothing does.

    Raises UserError if a bucket is unavailable, which is no damage.
    """
    try:
        *lines, rest = (folder / MANIFEST_NAME).read_bytes().decode().split("\n")
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        if rest:
            return f"{MANIFEST_NAME} does not end with its last line"
        found = {path.relative_to(folder).as_posix(): path for path in _list_files(folder)}
        for name in sorted(listed.keys() | found.keys()):
            if name not in found:
                return f"{name} is missing"
            if name not in listed:
                return f"{name} is not in its {MANIFEST_NAME}"
            if checksum(found[name]) != listed[name]:
                return f"{name} does not match its checksum"
    except FileNotFoundError:
        return f"it has no {MANIFEST_NAME}, which is written last"
    except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError
        if in_bucket(folder) and isinstance(error, OSError):
            raise UserError(f"cannot read {folder}: {error}; try again later") from None
        return f"{folder.name} cannot be read: {error}"
    return None


def _list_files(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if in_bucket(path) or path.is_file())
    return sorted(path for path in files if path.name != MANIFEST_NAME)
