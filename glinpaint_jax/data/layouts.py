"""Folders of images with a training and a validation part: one table, and what opens it."""

import collections
import os
import re
from pathlib import Path
from typing import NamedTuple

from glinpaint_jax.data.listing import find_base, is_list, read_list
from glinpaint_jax.data.sources import FolderSource
from glinpaint_jax.errors import UserError


class Layout(NamedTuple):
    """The folders of the two parts, below the root."""

    name: str
    train: str
    val: str


# The first whose folders exist is taken. Lists may be in the root or in meta/; their names are
# relative to the part's folder or to the root. Without a list, a part is its whole folder.
LAYOUTS = (
    Layout("MMagic's Places", "data_large", "val_large"),
    Layout("Places365 at 256x256", "data_256", "val_256"),
    Layout("MMagic's CelebA-HQ", "train_256", "test_256"),
    Layout("train/ and val/", "train", "val"),
    Layout("train/ and test/", "train", "test"),
    Layout("two lists", "", ""),  # both lists are required: one folder holds both parts
)
LIST_FOLDERS = ("", "meta")
# "val", "test_256" and "testA", but not "valley".
EVALUATION_FOLDER = re.compile(r"(?i:tests?|testing|val|valid|validation|eval|evaluation)(?![a-z])")


def open_layout(root: Path) -> tuple[FolderSource, FolderSource | None, str]:
    """Returns the training part, the validation part (or None) and which layout it is.

    Without a layout, the training part is all images below `root`. Raises UserError if these
    include a validation or test folder, or if there is a list.
    """
    lists = _find_lists(root)
    train_lists = [path for path in lists if "train" in path.name.lower()]
    others = [path for path in lists if path not in train_lists]
    val_lists = [path for path in others if "val" in path.name.lower()] or [
        path for path in others if "test" in path.name.lower()
    ]
    for layout in LAYOUTS:
        if not ((root / layout.train).is_dir() and (root / layout.val).is_dir()):
            continue
        train_list = _choose_list(root, layout.train, train_lists)
        val_list = _choose_list(root, layout.val, val_lists)
        if layout.train == layout.val and not (train_list and val_list):
            continue
        train = _open_part(root, layout.train, train_list)
        val = _open_part(root, layout.val, val_list)
        if val_list and not train_list and val.name(0).startswith(f"{root / layout.train}/"):
            raise UserError(
                f"{val_list} names images in {root / layout.train}, all of which would be trained "
                "on; add a list of the training images"
            )
        used = [str(path.relative_to(root)) for path in (train_list, val_list) if path]
        return train, val, f"layout: {layout.name}" + f" ({', '.join(used)})" * bool(used)
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
    train = FolderSource(root)
    for folder in train.folders():
        _reject_evaluation_folder(root, folder)
    return train, None, "all images"


def _find_lists(root: Path) -> list[Path]:
    return [
        path
        for folder in LIST_FOLDERS
        for path in sorted((root / folder).glob("*.txt"))
        if is_list(path)
    ]


def _choose_list(root: Path, part: str, lists: list[Path]) -> Path | None:
    """Returns the first list whose last image exists, or else the first of all.

    Places365-Challenge comes with the lists of Places365-Standard as well.
    """
    for path in lists if len(lists) > 1 else ():
        (last,) = collections.deque(read_list(path), maxlen=1)
        if (root / part / last).is_file() or (root / last).is_file():
            return path
    return next(iter(lists), None)


def _open_part(root: Path, part: str, list_file: Path | None) -> FolderSource:
    if list_file is None:
        return FolderSource(root / part)
    return FolderSource(find_base([root / part, root], list_file), list_file)


def _reject_evaluation_folder(root: Path, folder: str) -> None:
    """Raises UserError if a part of the path `folder`, relative to `root`, is for evaluation."""
    path = root
    for name in folder.split(os.sep):
        parent, path = path, path / name
        if not EVALUATION_FOLDER.match(name):
            continue
        siblings = (entry for entry in parent.iterdir() if entry.is_dir())
        others = sorted(entry for entry in siblings if not EVALUATION_FOLDER.match(entry.name))
        remedy = f"folder:{others[0]}" if others else f"folder:{root}:LIST"
        raise UserError(
            f"{root} has no known layout, and the images in {path} would be trained on; pass "
            f"{remedy} with --config.data.eval_source=folder:{path}"
        )
