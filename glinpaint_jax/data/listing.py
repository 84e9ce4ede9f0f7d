"""Which images a folder holds: millions of names in little memory."""

import copy
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from glinpaint_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
AT_ONCE = 2**16  # names or bytes


class Names:
    """Names of files in one text, each ended by a 0, and the places where they end.

    A list of 8 million takes twice the memory, four times while it is made, and twenty times as
    long to be sent to a worker.
    """

    def __init__(self, names: Iterable[str]):
        names, self._text, ends = iter(names), bytearray(), [np.zeros(1, np.int64)]
        while some := list(itertools.islice(names, AT_ONCE)):
            text = os.fsencode("\0".join(some) + "\0")
            ends.append(len(self._text) + 1 + np.flatnonzero(np.frombuffer(text, np.uint8) == 0))
            self._text += text
        self._ends, self._first = np.concatenate(ends), 0

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        start, end = self._ends[index - self._first : index - self._first + 2]
        return os.fsdecode(bytes(self._text[start : end - 1]))

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
    checked = False
    with list_file.open() as file:
        while lines := file.readlines(AT_ONCE):
            paths = [line.split(None, 1)[0].lstrip("/") for line in lines if not line.isspace()]
            if paths and not checked and not (folder / paths[0]).is_file():
                raise UserError(
                    f"{list_file} names {paths[0]}, which is not in {folder}; its lines are paths "
                    "relative to that folder"
                )
            checked = checked or bool(paths)
            yield from paths
