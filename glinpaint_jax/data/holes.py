"""Where an example's hole comes from: the kinds of config.mask.kind."""

import contextlib
import dataclasses
import functools
import os
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from glinpaint_jax.config import BBOX_MASK_KINDS, MaskConfig
from glinpaint_jax.data import masks
from glinpaint_jax.data.folders import EXTENSIONS, FolderSource, open_images
from glinpaint_jax.data.mask_files import Hole, describe_doubt, read_mask, resize_hole
from glinpaint_jax.data.sources import Source, UnusableFile
from glinpaint_jax.errors import UserError

CHECKED_MASKS = 9  # mask files that are read at the start, to see if they are inverted

HoleArrays = dict[str, Any]  # 'bbox', int32 [4]; maybe 'mask', uint8 [h, w, 1]


def draw_hole(
    config: MaskConfig, size: int, files: FolderSource | None, rng: np.random.Generator
) -> HoleArrays:
    """Draws a hole; `files` are `open_mask_files`. Raises UnusableFile for a file that is no mask.

    Boxes may overlap. 'bbox' is the first, so that the local window shows a whole hole.
    """
    if config.kind == "mixed":
        weights = np.array([*config.kinds.values()])
        kind = str(rng.choice([*config.kinds], p=weights / weights.sum()))
        hole = draw_hole(dataclasses.replace(config, kind=kind), size, files, rng)
        if "mask" not in hole:  # the masks of a batch are all images or all boxes
            hole["mask"] = masks.draw_boxes(hole["bbox"][None], size)
        return hole
    if config.kind == "files":
        hole = read_hole(files.name(int(rng.integers(len(files)))))
        return with_bbox(resize_hole(hole, size, size).astype(np.uint8)[..., None])
    if config.kind in BBOX_MASK_KINDS:
        count = rng.integers(1, config.max_holes, endpoint=True)
        boxes = [masks.random_bbox(rng, size, config) for _ in range(count)]
        if config.max_holes == 1:
            return {"bbox": boxes[0]}
        return {"mask": masks.draw_boxes(np.stack(boxes), size), "bbox": boxes[0]}
    return with_bbox(masks.random_shape(rng, size, config))


def with_bbox(mask: masks.Mask) -> HoleArrays:
    """The mask and the smallest box around its hole."""
    left, top, width, height = cv2.boundingRect(mask)
    return {"mask": mask, "bbox": np.array([top, left, height, width], np.int32)}


def read_hole(path: str | Path, photo: np.ndarray | None = None) -> Hole:
    """Reads a mask as the commands do. Raises UnusableFile also if it has no hole."""
    try:
        hole = read_mask(path, photo)
    except UserError as error:
        raise UnusableFile(str(error)) from None
    if not hole.any():
        raise UnusableFile(f"{path} has no hole (no white)")
    return hole


def open_mask_files(config: MaskConfig) -> FolderSource | None:
    """The masks of the folder, or those in the list, if the config draws from files.

    Raises UserError if there are none.
    """
    if "files" not in config.kinds:
        return None
    folder = Path(os.path.expanduser(config.folder))
    files = open_images(folder, config.list)
    if not len(files):
        raise UserError(
            f"no masks in config.mask.folder={config.folder}, config.mask.list={config.list!r}; "
            f"put {', '.join(EXTENSIONS)} there, white = hole"
        )
    _warn_if_inverted(len(files), files.name)
    return files


def _warn_if_inverted(count: int, path_of: Callable[[int], str | Path]) -> None:
    """Warns as the commands do if most of a few of the masks have a doubtfully large hole."""
    checked, doubts = min(count, CHECKED_MASKS), []
    for number in range(checked):  # evenly spaced
        path = path_of(number * count // checked)
        with contextlib.suppress(UnusableFile):  # those are counted when they are drawn
            if doubt := describe_doubt(read_hole(path)):
                doubts.append(f"mask {path}: {doubt}")
    if len(doubts) > checked / 2:
        _warn_once(doubts[0])


_warn_once = functools.cache(warnings.warn)  # a run opens its masks again for each evaluation


def paired_mask_folder(source: Source, config: MaskConfig) -> Path | None:
    """Where the masks of this source are, for mask.kind=paired: mask.folder mirrors its folder.

    Raises UserError if the source is not a folder or one of a few images has no mask.
    """
    if config.kind != "paired":
        return None
    images = getattr(source, "folder", None)
    if images is None:
        raise UserError(
            f"config.mask.kind=paired needs images from a folder, not {source.name(0)}; pass "
            "--config.data.source=folder:PATH (and data.eval_source) or another --config.mask.kind"
        )
    folder = Path(os.path.expanduser(config.folder))
    if (folder / images.name).is_dir():  # so training and validation parts can share names
        folder = folder / images.name
    _warn_if_inverted(len(source), lambda index: find_paired_mask(source, index, folder))
    return folder


def find_paired_mask(source: Source, index: int, folder: Path) -> Path:
    """The mask at the image's path below `folder`, with any suffix. Raises UserError.

    Accents may be in another of Unicode's forms: macOS writes another than Linux.
    """
    image = Path(source.name(index))
    name = str(image.relative_to(source.folder))
    for form in (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))):
        for suffix in (".png", image.suffix, *EXTENSIONS):
            path = (folder / form).with_suffix(suffix)
            if os.path.isfile(path):  # Path.is_file raises for long names
                return path
    raise UserError(
        f"image {image} has no mask {(folder / name).with_suffix('.png')} (or "
        f"{', '.join(EXTENSIONS)}); put one there or use another --config.mask.kind"
    )
