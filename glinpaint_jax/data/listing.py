"""Lists the images of a folder."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from glinpaint_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def find_images(folder: Path, left_out: Counter[str]) -> Iterator[str]:
    """Yields the images below `folder`, relative to it, in sorted order. Follows links to folders.

    Like os.walk, skips folders that cannot be read, such as lost+found. Counts in `left_out`:
    folders that links reach again, and images that are not regular files (pipes, broken links).
    """
    stack = [""]  # files, and folders with a trailing slash; the next path is the last
    entered = set()
    while stack:
        path = stack.pop()
        if path and not path.endswith("/"):
            yield path
            continue
        try:
            status = os.stat(os.path.join(folder, path))
            if (status.st_dev, status.st_ino) in entered:
                left_out["folders that links reach again"] += 1
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(os.path.join(folder, path)) as entries:
                names = [name for entry in entries if (name := _listed_name(entry, left_out))]
        except OSError:
            continue
        stack += [path + name for name in sorted(names, reverse=True)]


def _listed_name(entry: os.DirEntry, left_out: Counter[str]) -> str:
    """The name of an image or, with a slash, of a folder, so that it sorts as the paths below it.

    Empty for anything else.
    """
    try:
        if entry.is_dir():
            return f"{entry.name}/"
        is_file = entry.is_file()
    except OSError:  # a link to itself
        is_file = False
    if not entry.name.lower().endswith(EXTENSIONS):
        return ""
    if not is_file:  # a pipe would block its reader
        left_out["images that are not regular files"] += 1
        return ""
    return entry.name


def is_list(path: Path) -> bool:
    """Whether this is a text file that starts with the name of an image."""
    return path.is_file() and next(read_list(path), "").lower().endswith(EXTENSIONS)


def read_list(list_file: Path) -> Iterator[str]:
    """Yields the first word of each line, a relative path.

    MMagic and Places365 append labels; Places365 also puts a slash in front.
    """
    with list_file.open(errors="surrogateescape") as file:
        for line in file:
            if not line.isspace():
                yield line.split(None, 1)[0].lstrip("/")


def find_list(folder: Path, name: str) -> Path:
    """Returns the list file `name`, a path from the folder or from the working directory.

    Raises FileNotFoundError, whose text is the places searched.
    """
    candidates = [folder / name, Path(name).expanduser()]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(" or ".join(map(str, candidates)))


def find_base(folders: list[Path], list_file: Path) -> Path:
    """Returns the first folder that holds the first image of the list.

    Raises UserError if none does. An empty list belongs to the first folder.
    """
    first = next(read_list(list_file), "")
    for folder in folders:
        if not first or (folder / first).is_file():
            return folder
    raise UserError(
        f"{list_file} names {first}, which is not in {' or '.join(map(str, folders))}; its lines "
        "must be paths relative to that folder"
    )
