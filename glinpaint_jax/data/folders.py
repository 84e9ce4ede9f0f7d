"""Folders of images: which files they hold, which a list names, and what their layout is."""

import codecs
import collections
import copy
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from glinpaint_jax.data.images import FORMATS, UNSUPPORTED
from glinpaint_jax.data.sources import Image, SourceNotFoundError, UnusableFile, decode, digest
from glinpaint_jax.errors import UserError

EXTENSIONS = tuple(FORMATS)
# Folders of operating systems and network disks, with thumbnails and deleted files.
SYSTEM_FOLDERS = ("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found")
# LaMa's name for the mask of the image NAME beside it: NAME_mask.png, NAME_mask001.png.
MASK_NAME = re.compile(r"(.+)_mask\d*\.\w+")
# The image that a line of a list starts with; a label may follow. Names may contain spaces.
LISTED = re.compile(
    rf'\s*"?(.+?(?:{"|".join(map(re.escape, EXTENSIONS))}))(?=["\s,;]|$)', re.IGNORECASE
)
# The folders of the training and validation images; the first two that exist are taken. Lists may
# be in the root or in meta/; their names are relative to one of these folders or to the root.
# Without a list, all images of a folder are used.
LAYOUTS = {
    "MMagic's Places": ("data_large", "val_large"),
    "Places365 at 256x256": ("data_256", "val_256"),
    "MMagic's CelebA-HQ": ("train_256", "test_256"),
    "train/ and val/": ("train", "val"),
    "train/ and test/": ("train", "test"),
    "two lists": ("", ""),  # both lists are required: one folder holds both parts
}
LIST_FOLDERS = ("", "meta")
LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst")
LIST_NAME = re.compile(r"(?i)(train|val|test)[._-]")
# Not CelebA's list_eval_partition.txt, which lists all images with a number for their part.
VAL_LIST, TEST_LIST = re.compile(r"(?i)(?<![a-z])val"), re.compile(r"(?i)(?<![a-z])test")
# "val", "test_256" and "testA", but not "valley".
EVALUATION_FOLDER = re.compile(r"(?i:tests?|testing|val|valid|validation|eval|evaluation)(?![a-z])")
MASK_FOLDER = re.compile(r"(?i)(.*[^a-z])?masks?(?![a-z])")  # "train_masks", but not "masked"


class FolderSource:
    """Image files below a folder, in sorted order or in the order of a list file.

    Names are kept in a fixed-width array, as wide as the longest: compact to keep and to pickle,
    even with millions.
    """

    def __init__(self, folder: Path, list_file: Path | None = None):
        if not folder.is_dir():
            raise SourceNotFoundError(f"no folder {folder}")
        self.folder = folder
        self.left_out = Counter()  # numbers of things that `find_images` does not list
        names = read_list(list_file) if list_file else find_images(folder, self.left_out)
        self._names = np.array([os.fsencode(name) for name in names], dtype="S")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Image:
        return decode(self.encoded(index), self.name(index))

    def encoded(self, index: int) -> bytes:
        name = self.name(index)
        try:
            return Path(name).read_bytes()
        except OSError as error:
            raise UnusableFile(f"{name}: {error.strerror}") from None

    def name(self, index: int) -> str:
        return str(self.folder / os.fsdecode(self._names[index]))

    def fingerprint(self) -> str:
        # Not sizes: on a network disk, asking for those of a million files takes minutes.
        return digest(self._names.view(np.uint8))

    def folders(self) -> Iterator[str]:
        """Yields the folders of the images, relative to this one."""
        for folder, _ in itertools.groupby(self._names, os.path.dirname):
            yield os.fsdecode(folder)

    def only(self, indices: range) -> "FolderSource":
        """Returns a source of consecutive images alone, which is quick to pickle."""
        fewer = copy.copy(self)
        fewer._names = self._names[indices.start : indices.stop]
        return fewer


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
                names = _choose_names(list(entries), left_out)
        except OSError as error:
            raise UserError(
                f"cannot read the folder {folder / path}: {error.strerror}; make it readable or "
                "move it elsewhere"
            ) from None
        stack += [path + name for name in sorted(names, reverse=True)]


def _choose_names(entries: list[os.DirEntry], left_out: Counter[str]) -> list[str]:
    """The images and, with a slash, so that they sort as the paths below them, the folders."""
    names, stems = [], {entry.name.rpartition(".")[0] for entry in entries}
    for entry in entries:
        name, is_image = entry.name, entry.name.lower().endswith(EXTENSIONS)
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_file = False
        mask = MASK_NAME.fullmatch(name)
        if not is_image and not is_folder:
            if name.lower().endswith(UNSUPPORTED):
                left_out["images in other formats"] += 1
        elif name.startswith(".") or name in SYSTEM_FOLDERS:
            left_out["hidden and system files and folders"] += 1
        elif is_folder:
            names.append(f"{name}/")
        elif not is_file:  # a pipe would block its reader
            left_out["images that are not regular files"] += 1
        elif mask and mask[1] in stems:
            left_out["masks beside their images"] += 1
        else:
            names.append(name)
    return names


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


def open_images(folder: Path, list_name: str) -> FolderSource:
    """All images of the folder or, with a list, its images.

    `list_name` is a path from the folder or from the working directory. Raises UserError.
    """
    if not list_name:
        return FolderSource(folder)
    candidates = [folder / list_name, Path(list_name).expanduser()]
    for path in candidates:
        if path.is_file():
            return open_listed(path, folder)
    raise SourceNotFoundError(f"no list file {' or '.join(map(str, candidates))}")


def open_listed(list_file: Path, *folders: Path) -> FolderSource:
    """The images of a list, relative to the first folder that holds the first of them, or absolute.

    Raises UserError if no folder does. An empty list belongs to the first folder.
    """
    first = next(read_list(list_file), "")
    for folder in (*folders, Path("/")):
        if not first or (folder / first).is_file():
            return FolderSource(folder, list_file)
    raise UserError(
        f"{list_file} names {first}, which is not in {' or '.join(map(str, folders))}; its lines "
        "must be paths relative to that folder, or absolute"
    )


def open_layout(root: Path) -> tuple[FolderSource, FolderSource | None, str]:
    """Returns the training images, the validation images (or None) and which layout it is.

    Without a layout, all images below `root` are for training. Raises UserError if these include a
    validation or test folder, if there is a list, or if a part includes masks.
    """
    lists = _find_lists(root)
    train_lists = [path for path in lists if "train" in path.name.lower()]
    rest = [path for path in lists if path not in train_lists]
    val_lists = [path for path in rest if VAL_LIST.search(path.name)] or [
        path for path in rest if TEST_LIST.search(path.name)
    ]
    for layout, parts in LAYOUTS.items():
        train_folder, val_folder = (root / part for part in parts)
        if not (train_folder.is_dir() and val_folder.is_dir()):
            continue
        train_list = _choose_list(train_lists, train_folder, root)
        val_list = _choose_list(val_lists, val_folder, root)
        used = [path for path in (train_list, val_list) if path]
        if train_folder == val_folder and len(used) < 2:
            continue
        unused = [path for path in lists if path not in used]
        description = f"layout: {layout}" + f" ({_names(root, used)})" * bool(used)
        description += f"; not used: {_names(root, unused)}" * bool(unused)
        train = _open_part(train_folder, train_list, root)
        val = _open_part(val_folder, val_list, root)
        if val_list and len(val) and not train_list and val.name(0).startswith(f"{train_folder}/"):
            raise UserError(
                f"{val_list} names images in {train_folder}, all of which would be trained on; add "
                "a list of the training images"
            )
        return train, val, description
    if lists:
        name = lists[0].relative_to(root)
        raise UserError(
            f"{root} has no known layout, and its list {name} would be ignored; pass "
            f"folder:{root}:{name}, as --config.data.eval_source if it lists validation images, "
            "or move the list elsewhere to use all images"
        )
    train = _open_part(root, None, root)
    if found := _find_folder(train, EVALUATION_FOLDER):
        evaluation, training = found
        raise UserError(
            f"{root} has no known layout, and the images in {evaluation} would be trained on; "
            f"pass {training} with --config.data.eval_source=folder:{evaluation}"
        )
    return train, None, "all images"


def _find_lists(root: Path) -> list[Path]:
    """The lists of images. What is named like one must be one: `read_list` says what is wrong."""
    return [
        path
        for folder in LIST_FOLDERS
        for path in sorted((root / folder).glob("*"))
        if path.suffix.lower() in LIST_SUFFIXES and path.is_file()
        if LIST_NAME.match(path.name) or is_list(path)
    ]


def _names(root: Path, paths: list[Path]) -> str:
    return ", ".join(str(path.relative_to(root)) for path in paths)


def _choose_list(lists: list[Path], *folders: Path) -> Path | None:
    """Returns the first list whose last image exists, or else the first of all.

    Places365-Challenge comes with the lists of Places365-Standard as well.
    """
    for path in lists if len(lists) > 1 else ():
        for last in collections.deque(read_list(path), maxlen=1):
            if any((folder / last).is_file() for folder in (*folders, Path("/"))):
                return path
    return next(iter(lists), None)


def _open_part(folder: Path, list_file: Path | None, root: Path) -> FolderSource:
    if list_file is not None:
        return open_listed(list_file, folder, root)
    source = FolderSource(folder)
    if found := _find_folder(source, MASK_FOLDER):
        masks, images = found
        raise UserError(
            f"{masks} seems to hold masks, which would be used as photographs; pass {images}, "
            f"and for its masks --config.mask.kind=paired --config.mask.folder={masks}"
        )
    return source


def _find_folder(source: FolderSource, pattern: re.Pattern) -> tuple[Path, str] | None:
    """The first folder with images whose name fits, and the spec of a source without it."""
    for folder in source.folders():
        path = source.folder
        for name in folder.split(os.sep):
            parent, path = path, path / name
            if pattern.match(name):
                siblings = (entry for entry in parent.iterdir() if entry.is_dir())
                others = sorted(entry for entry in siblings if not pattern.match(entry.name))
                images = others[0] if others else f"{source.folder}:LIST"
                return path, f"folder:{images}"
    return None
