"""Folders with training and validation images: one table of layouts, and what opens them."""

import collections
import os
import re
from pathlib import Path
from typing import NamedTuple

from glinpaint_jax.data.listing import is_list, read_list
from glinpaint_jax.data.sources import FolderSource, open_listed
from glinpaint_jax.errors import UserError


class Layout(NamedTuple):
    """The folders of the two splits, below the root."""

    name: str
    train: str
    val: str


# The first whose folders exist is taken. Lists may be in the root or in meta/; their names are
# relative to the split's folder or to the root. Without a list, a split is its whole folder.
LAYOUTS = (
    Layout("MMagic's Places", "data_large", "val_large"),
    Layout("Places365 at 256x256", "data_256", "val_256"),
    Layout("MMagic's CelebA-HQ", "train_256", "test_256"),
    Layout("train/ and val/", "train", "val"),
    Layout("train/ and test/", "train", "test"),
    Layout("two lists", "", ""),  # both lists are required: one folder holds both splits
)
LIST_FOLDERS = ("", "meta")
LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst")
LIST_NAME = re.compile(r"(?i)(train|val|test)[._-]")
# Not CelebA's list_eval_partition.txt, which lists all images with a number for their split.
VAL_LIST, TEST_LIST = re.compile(r"(?i)(?<![a-z])val"), re.compile(r"(?i)(?<![a-z])test")
# "val", "test_256" and "testA", but not "valley".
EVALUATION_FOLDER = re.compile(r"(?i:tests?|testing|val|valid|validation|eval|evaluation)(?![a-z])")
MASK_FOLDER = re.compile(r"(?i)(.*[^a-z])?masks?(?![a-z])")  # "train_masks", but not "masked"


def open_layout(root: Path) -> tuple[FolderSource, FolderSource | None, str]:
    """Returns the training images, the validation images (or None) and which layout it is.

    Without a layout, all images below `root` are for training. Raises UserError if these include a
    validation or test folder, if there is a list, or if a split includes masks.
    """
    lists = _find_lists(root)
    train_lists = [path for path in lists if "train" in path.name.lower()]
    rest = [path for path in lists if path not in train_lists]
    val_lists = [path for path in rest if VAL_LIST.search(path.name)] or [
        path for path in rest if TEST_LIST.search(path.name)
    ]
    for layout in LAYOUTS:
        if not ((root / layout.train).is_dir() and (root / layout.val).is_dir()):
            continue
        train_list = _choose_list(root, layout.train, train_lists)
        val_list = _choose_list(root, layout.val, val_lists)
        if layout.train == layout.val and not (train_list and val_list):
            continue
        train = _open_split(root, layout.train, train_list)
        val = _open_split(root, layout.val, val_list)
        if val_list and not train_list and val.name(0).startswith(f"{root / layout.train}/"):
            raise UserError(
                f"{val_list} names images in {root / layout.train}, all of which would be trained "
                "on; add a list of the training images"
            )
        used = [path for path in (train_list, val_list) if path]
        unused = [path for path in lists if path not in used]
        description = f"layout: {layout.name}" + f" ({_names(root, used)})" * bool(used)
        return train, val, description + f"; not used: {_names(root, unused)}" * bool(unused)
    if lists:
        name = lists[0].relative_to(root)
        if lists[0] in val_lists:
            remedy = f"folder:{root}:LIST with --config.data.eval_source=folder:{root}:{name}"
        else:
            remedy = f"folder:{root}:{name} with --config.data.eval_source"
        raise UserError(
            f"{root} has no known layout, and its list {name} would be ignored; pass {remedy}, or "
            "move the list elsewhere to use all images"
        )
    train = _open_split(root, "", None)
    for folder in train.folders():
        if found := _find_folder(root, folder, EVALUATION_FOLDER):
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


def _choose_list(root: Path, split: str, lists: list[Path]) -> Path | None:
    """Returns the first list whose last image exists, or else the first of all.

    Places365-Challenge comes with the lists of Places365-Standard as well.
    """
    for path in lists if len(lists) > 1 else ():
        for last in collections.deque(read_list(path), maxlen=1):
            if any((folder / last).is_file() for folder in (root / split, root, Path("/"))):
                return path
    return next(iter(lists), None)


def _open_split(root: Path, split: str, list_file: Path | None) -> FolderSource:
    if list_file is not None:
        return open_listed([root / split, root], list_file)
    source = FolderSource(root / split)
    for folder in source.folders():
        if found := _find_folder(root / split, folder, MASK_FOLDER):
            masks, images = found
            raise UserError(
                f"{masks} seems to hold masks, which would be used as photographs; pass {images}, "
                f"and for its masks --config.mask.kind=paired --config.mask.folder={masks}"
            )
    return source


def _find_folder(root: Path, folder: str, pattern: re.Pattern) -> tuple[Path, str] | None:
    """The first folder in the path `folder` whose name fits, and a source that leaves it out."""
    path = root
    for name in folder.split(os.sep):
        parent, path = path, path / name
        if pattern.match(name):
            siblings = (entry for entry in parent.iterdir() if entry.is_dir())
            others = sorted(entry for entry in siblings if not pattern.match(entry.name))
            return path, f"folder:{others[0]}" if others else f"folder:{root}:LIST"
    return None
