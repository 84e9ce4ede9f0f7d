"""Files that are never half written."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

from glinpaint_jax.errors import UserError


@contextlib.contextmanager
def replacing(path: Path, prefix: str = "") -> Iterator[Path]:
    """Yields a path beside `path` for a file or a folder, hidden; `prefix` says whose it is.

    What is written there is moved into place at the end, and removed if anything fails before.
    """
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
def refuse_unwritable(path: Path) -> Iterator[None]:
    """Raises UserError in place of an OSError met while writing `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def write_atomically(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        keep_on_disk(temporary)


def keep_on_disk(path: Path) -> None:
    """A file or folder: not in the kernel's memory alone, where a power failure would take it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, size: int) -> None:
    """Raises OSError where `size` bytes cannot be written there; libraries notice that loudly."""
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(file.fileno(), 0, size)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, which says who holds it; the system frees it with the process.

    Raises UserError where another process holds it, or the file cannot be opened; warns where the
    file system has no locks.
    """
    with refuse_unwritable(path):
        opened = path.open("a+")
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{path.parent} is in use by another run, {file.read().strip()}; wait for it, "
                "stop it, or pass another --workdir"
            ) from None
        except OSError as error:
            warnings.warn(
                f"cannot lock {path.parent} ({error.strerror}): nothing keeps a second run out",
                stacklevel=3,
            )
        owner = f"process {os.getpid()} on {socket.gethostname()}\n"
        with contextlib.suppress(OSError):  # a full disk is for others to report
            path.write_text(owner)
        yield


NAME = "manifest.sha256"


def write_manifest(folder: Path) -> None:
    """Lists every file below `folder`, once they are on the disk and not only in its cache."""
    lines = []
    for path in _files(folder):
        keep_on_disk(path)
        lines.append(f"{checksum(path)}  {path.relative_to(folder)}\n")
    write_atomically(folder / NAME, "".join(lines).encode())
    for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder, folder.parent):
        keep_on_disk(path)


def find_damage(folder: Path) -> str | None:
    """What differs from the manifest, in a few words; None where nothing does."""
    try:
        *lines, rest = (folder / NAME).read_bytes().decode().split("\n")
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        if rest:
            return f"{NAME} does not end with its last line"
        found = {str(path.relative_to(folder)): path for path in _files(folder)}
        for name in sorted(listed.keys() | found.keys()):
            if name not in found:
                return f"{name} is missing"
            if name not in listed:
                return f"{name} is not in its {NAME}"
            if checksum(found[name]) != listed[name]:
                return f"{name} has another checksum than when it was written"
    except FileNotFoundError:
        return f"it has no {NAME}, which is written last"
    except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError
        return f"{folder.name} cannot be read: {error}"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
