"""Which images a folder holds: millions of names in little memory."""

import copy
import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from glinpaint_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Names:
    """Strings in one text and the places where they end.

    8 million in a list take four times the memory, and half a minute on the way to a worker.
    """

    def __init__(self, names: Iterable[str]):
        self._text, ends = bytearray(), array("q", [0])
        for name in names:
            self._text += os.fsencode(name)
            ends.append(len(self._text))
        self._ends = np.array(ends)
        self._first = 0

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        start, end = self._ends[index - self._first : index - self._first + 2]
        return os.fsdecode(bytes(self._text[start:end]))

    def only(self, first: int, stop: int) -> "Names":
        """The names first .. stop - 1 alone, under the same numbers."""
        part = copy.copy(self)
        ends = self._ends[first - self._first : stop - self._first + 1]
        part._text, part._ends, part._first = self._text[ends[0] : ends[-1]], ends - ends[0], first
        return part


def found(folder: Path) -> Iterator[str]:
    """Images below `folder`, relative to it, in sorted order; links to folders are followed.

    Folders that cannot be read are passed over, as by os.walk: lost+found is one.
    """
    waiting = [""]  # folders, which end in a slash, and files; the next one is the last
    while waiting:
        path = waiting.pop()
        if path and not path.endswith("/"):
            yield path
            continue
        try:
            with os.scandir(os.path.join(folder, path)) as entries:
                # A folder with its slash sorts as the paths below it do.
                names = [entry.name + "/" * _is_folder(entry) for entry in entries]
        except OSError:
            continue
        names = [name for name in names if name.lower().endswith(("/", *EXTENSIONS))]
        waiting += [path + name for name in sorted(names, reverse=True)]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def listed(folder: Path, list_file: Path) -> Iterator[str]:
    """First words of the list's lines (MMagic and Places365 append labels), relative to `folder`.

    Places365 writes a slash in front of its paths; they are below the folder all the same.
    """
    with list_file.open() as lines:
        paths = (line.split(maxsplit=1)[0].lstrip("/") for line in lines if not line.isspace())
        for number, path in enumerate(paths):
            if number == 0 and not (folder / path).is_file():
                raise UserError(
                    f"{list_file} names {path}, which is not in {folder}; its lines are paths "
                    "relative to that folder"
                )
            yield path
