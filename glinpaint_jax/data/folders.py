"""Folders of images: which files they hold, which a list names, and what their layout is."""

import codecs
import copy
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from glinpaint_jax.data.images import FORMATS, UNSUPPORTED
from glinpaint_jax.data.sources import EncodedSource, SourceNotFoundError, UnusableFile, digest
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import report_unreadable

EXTENSIONS = tuple(FORMATS)
# Folders of operating systems and network disks, with thumbnails and deleted files.
SYSTEM_FOLDERS = ("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found")
# LaMa's name for the mask of the image NAME beside it: NAME_mask.png, NAME_mask001.png.
MASK_NAME = re.compile(r"(.+)_mask\d*\.\w+")
# The image that a line of a list starts with; a label may follow. Names may contain spaces.
LISTED = re.compile(
    rf'\s*"?(.+?(?:{"|".join(map(re.escape, EXTENSIONS))}))(?=["\s,;]|$)', re.IGNORECASE
)
# The folders of the training and validation images; the first two that exist are taken.
LAYOUTS = {
    "MMagic's Places": ("data_large", "val_large"),
    "Places365 at 256x256": ("data_256", "val_256"),
    "MMagic's CelebA-HQ": ("train_256", "test_256"),
    "train/ and val/": ("train", "val"),
    "train/ and test/": ("train", "test"),
}
# Lists are only used if they are named. These are mentioned: "train.txt", "places365_val.txt", ...
LIST_NAME = re.compile(r"(?i)([^.].*)?(?<![a-z])(train|val|test|eval).*\.(txt|csv|tsv|lst)")
# Paths that end with such a folder: "val", "test_256" and "a/testA", but not "valley".
EVALUATION_FOLDER = re.compile(
    r"(|.*?/)(?i:tests?|testing|val|valid|validation|eval|evaluation)(?![a-z])[^/]*"
)
MASK_FOLDER = re.compile(r"(?i)(|.*?[^a-z])masks?(?![a-z])[^/]*")  # "train_masks", not "masked"


class FolderSource(EncodedSource):
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

    def find_folder(self, pattern: re.Pattern) -> Path | None:
        """Returns the first folder of images whose path below this one fits."""
        for folder, _ in itertools.groupby(self._names, os.path.dirname):
            if match := pattern.match(os.fsdecode(folder)):
                return self.folder / match[0]
        return None

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


def read_list(list_file: Path) -> Iterator[str]:
    """Yields the image of each line, as a path without a leading slash.

    Places365 puts a slash in front of its relative paths and appends labels, as MMagic does.
    Raises UserError for a line that does not start with an image, unless it is the first.
    """
    with list_file.open("rb") as file:
        is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding, errors = ("utf-16", "replace") if is_utf16 else ("utf-8-sig", "surrogateescape")
    with list_file.open(encoding=encoding, errors=errors) as file:
        for number, line in enumerate(file, start=1):
            if match := LISTED.match(line):
                yield match[1].replace("\\", "/").lstrip("/")
            elif number > 1 and not line.isspace():
                raise UserError(
                    f"{list_file}, line {number}: {line.strip()[:80]!r} does not start with the "
                    f"path of an image ({', '.join(EXTENSIONS)})"
                )


def open_images(folder: Path, list_name: str) -> FolderSource:
    """All images of the folder or, with a list, its images.

    `list_name` is a path from the folder or from the working directory. Raises UserError.
    """
    if not list_name:
        return FolderSource(folder)
    candidates = [folder / list_name, Path(os.path.expanduser(list_name))]
    list_file = next(filter(os.path.isfile, candidates), None)  # Path.is_file raises for long names
    if list_file is None:
        raise SourceNotFoundError(f"no list file {' or '.join(map(str, candidates))}")
    with report_unreadable(list_file):
        first = next(read_list(list_file), "")
        for parent in (folder, Path("/")):
            if not first or os.path.isfile(parent / first):
                return FolderSource(parent, list_file)
    raise UserError(
        f"{list_file} names {first}, which is not in {folder}; its lines must be paths relative to "
        "that folder, or absolute"
    )


def open_layout(root: Path) -> tuple[FolderSource, FolderSource | None, str]:
    """Returns the training images, the validation images (or None) and which layout it is.

    Without a layout, all images below `root` are for training. Raises UserError if these include a
    validation or test folder, if there is a list, or if a part includes masks.
    """
    paths = sorted([*root.glob("*"), *root.glob("meta/*")])
    lists = [str(path.relative_to(root)) for path in paths if LIST_NAME.fullmatch(path.name)]
    for layout, (train, val) in LAYOUTS.items():
        if (root / train).is_dir() and (root / val).is_dir():
            unused = f"; not used: {', '.join(lists)}; to use a list, pass folder:PATH:LIST"
            description = f"layout: {layout}" + unused * bool(lists)
            return _open_part(root / train), _open_part(root / val), description
    if lists:
        raise UserError(
            f"{root} has no known layout, and {', '.join(lists)} would be ignored; pass lists as "
            f"folder:{root}:{lists[0]}, those of validation images as --config.data.eval_source, "
            "or move them elsewhere to use all images"
        )
    images = _open_part(root)
    if folder := images.find_folder(EVALUATION_FOLDER):
        raise UserError(
            f"{root} has no known layout, and the images in {folder} would be trained on; pass a "
            f"folder or list of the training images, and --config.data.eval_source=folder:{folder}"
        )
    return images, None, "all images"


def _open_part(folder: Path) -> FolderSource:
    images = FolderSource(folder)
    if masks := images.find_folder(MASK_FOLDER):
        raise UserError(
            f"{masks} seems to hold masks, which would be used as photographs; pass a folder or "
            "list of the images, and for their masks --config.mask.kind=paired "
            f"--config.mask.folder={masks}"
        )
    return images
