"""Files that are never half written."""

import contextlib
import os
import shutil
import uuid
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
