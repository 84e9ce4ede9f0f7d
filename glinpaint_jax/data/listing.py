"""Which images a folder holds, and which a list names."""

import codecs
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from glinpaint_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
OTHER_FORMATS = (".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2")  # counted, but not read
# Folders of operating systems and network disks, with thumbnails and deleted files.
SYSTEM_FOLDERS = ("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found")
# LaMa's name for the mask of the image NAME beside it: NAME_mask.png, NAME_mask001.png.
MASK_NAME = re.compile(r"(.+)_mask\d*\.\w+")
# The image that a line of a list starts with; a label may follow. Names may contain spaces.
LISTED = re.compile(
    rf'\s*"?(.+?(?:{"|".join(map(re.escape, EXTENSIONS))}))(?=["\s,;]|$)', re.IGNORECASE
)


class SourceNotFoundError(UserError):
    """The source does not exist."""


def find_images(folder: Path, left_out: Counter[str]) -> Iterator[str]:
    """Yields the images below `folder`, relative to it, in sorted order. Follows links to folders.

    Counts in `left_out` what looks like an image but is not listed. Raises UserError for folders
    that cannot be read.
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
                names = _listed_names(list(entries), left_out)
        except OSError as error:
            raise UserError(
                f"cannot read the folder {folder / path}: {error.strerror}; make it readable or "
                "move it elsewhere"
            ) from None
        stack += [path + name for name in sorted(names, reverse=True)]


def _listed_names(entries: list[os.DirEntry], left_out: Counter[str]) -> list[str]:
    """The images and, with a slash, so that they sort as the paths below them, the folders."""
    names, stems = [], set()
    if any("_mask" in entry.name for entry in entries):
        stems = {os.path.splitext(entry.name)[0] for entry in entries}
    for entry in entries:
        name, reason = _listed_name(entry, stems)
        if name:
            names.append(name)
        elif reason:
            left_out[reason] += 1
    return names


def _listed_name(entry: os.DirEntry, stems: set[str]) -> tuple[str, str]:
    """The name of an image or folder; or none, and the reason if it looks like one."""
    lower = entry.name.lower()
    is_image = lower.endswith(EXTENSIONS)
    try:
        is_file = is_image and entry.is_file()
        is_folder = not is_file and entry.is_dir()
    except OSError:
        return "", "links that cannot be followed"
    if not is_image and not is_folder:
        return "", "images in other formats" if lower.endswith(OTHER_FORMATS) else ""
    if lower.startswith(".") or entry.name in SYSTEM_FOLDERS:
        return "", "hidden and system files and folders"
    if is_folder:
        return f"{entry.name}/", ""
    if not is_file:  # a pipe would block its reader
        return "", "images that are not regular files"
    if stems and (mask := MASK_NAME.fullmatch(entry.name)) and mask[1] in stems:
        return "", "masks beside their images"
    return entry.name, ""


def is_list(path: Path) -> bool:
    """Whether this file names an image in its first line, or after a header."""
    with _open_list(path) as file:
        return any(LISTED.match(line) for line in itertools.islice(file, 2))


def read_list(list_file: Path) -> Iterator[str]:
    """Yields the image of each line, as a path without a leading slash.

    Places365 puts a slash in front of its relative paths and appends labels, as MMagic does.
    Raises UserError for a line that does not start with an image, unless it is the first.
    """
    with _open_list(list_file) as file:
        for number, line in enumerate(file, start=1):
            if match := LISTED.match(line):
                yield match[1].replace("\\", "/").lstrip("/")
            elif number > 1 and not line.isspace():
                raise UserError(
                    f"{list_file}, line {number}: {line.strip()[:80]!r} does not start with the "
                    f"path of an image ({', '.join(EXTENSIONS)})"
                )


def _open_list(path: Path) -> TextIO:
    with path.open("rb") as file:
        is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if is_utf16:
        return path.open(encoding="utf-16", errors="replace")
    return path.open(encoding="utf-8-sig", errors="surrogateescape")


def find_list(folder: Path, name: str) -> Path:
    """Returns the list file `name`, a path from the folder or from the working directory."""
    candidates = [folder / name, Path(name).expanduser()]
    for path in candidates:
        if path.is_file():
            return path
    raise SourceNotFoundError(f"no list file {' or '.join(map(str, candidates))}")


def find_base(folders: list[Path], list_file: Path) -> Path:
    """Returns the first folder that holds the first image of the list; / if its path is absolute.

    Raises UserError if none does. An empty list belongs to the first folder.
    """
    first = next(read_list(list_file), "")
    for folder in (*folders, Path("/")):
        if not first or (folder / first).is_file():
            return folder
    raise UserError(
        f"{list_file} names {first}, which is not in {' or '.join(map(str, folders))}; its lines "
        "must be paths relative to that folder, or absolute"
    )
