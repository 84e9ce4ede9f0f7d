"""Lists the images of a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from glinpaint_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def find_images(folder: Path) -> Iterator[str]:
    """Yields the images below `folder`, relative to it, in sorted order. Follows links to folders.

    Like os.walk, skips folders that cannot be read, such as lost+found.
    """
    stack = [""]  # files, and folders with a trailing slash; the next path is the last
    while stack:
        path = stack.pop()
        if path and not path.endswith("/"):
            yield path
            continue
        try:
            with os.scandir(os.path.join(folder, path)) as entries:
                # With its slash, a folder sorts as the paths below it do.
                names = [entry.name + "/" * _is_folder(entry) for entry in entries]
        except OSError:
            continue
        names = [name for name in names if name.lower().endswith(("/", *EXTENSIONS))]
        stack += [path + name for name in sorted(names, reverse=True)]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_list(path: Path) -> bool:
    """Whether a text file starts with the name of an image."""
    return next(read_list(path), "").lower().endswith(EXTENSIONS)


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
