"""Files that are never half written."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside `path` and moves into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
