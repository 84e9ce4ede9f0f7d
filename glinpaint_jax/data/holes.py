"""Where an example's hole comes from: the kinds of config.mask.kind."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from glinpaint_jax.config import BBOX_MASK_KINDS, MaskConfig, parse_mixed
from glinpaint_jax.data import masks
from glinpaint_jax.data.listing import EXTENSIONS, find_base, find_list, read_list
from glinpaint_jax.data.sources import Source
from glinpaint_jax.errors import UserError

HoleArrays = dict[str, np.ndarray]  # 'bbox', int32 [4], and maybe 'mask', uint8 [h, w, 1]


def hole_drawer(config: MaskConfig, size: int) -> Callable[[np.random.Generator], HoleArrays]:
    """Returns a function that draws {'bbox'} or {'mask', 'bbox'} of the configured kind."""
    if config.kind == "mixed":
        weights = parse_mixed(config.mixed)
        drawers = [hole_drawer(dataclasses.replace(config, kind=kind), size) for kind in weights]
        shares = np.array(list(weights.values())) / sum(weights.values())
        return functools.partial(draw_mixed, drawers, shares, size)
    files = mask_files(config) if config.kind == "files" else []
    return functools.partial(draw_hole, config, size, files)


def draw_hole(
    config: MaskConfig, size: int, files: list[Path], rng: np.random.Generator
) -> HoleArrays:
    """Draws a hole of any kind that needs no image; `files` are the masks of kind files.

    Of several boxes, 'bbox' is the first, so that the local window shows a whole hole.
    """
    if config.kind in BBOX_MASK_KINDS:
        boxes = masks.random_boxes(rng, size, size, config, square=config.kind == "square")
        if config.max_holes == 1:
            return {"bbox": boxes[0]}
        return {"mask": masks.draw_boxes(boxes, size, size), "bbox": boxes[0]}
    if config.kind == "files":
        return with_bbox(masks.file_mask(rng, size, size, files))
    shape = masks.irregular_mask if config.kind == "irregular" else masks.free_form_mask
    return with_bbox(shape(rng, size, size, config))


def draw_mixed(
    drawers: list, shares: np.ndarray, size: int, rng: np.random.Generator
) -> HoleArrays:
    """Draws {'mask', 'bbox'} with one of the drawers, chosen by its share."""
    hole = drawers[rng.choice(len(drawers), p=shares)](rng)
    if "mask" not in hole:  # the masks of a batch are all images or all boxes
        hole["mask"] = masks.draw_boxes(hole["bbox"][None], size, size)
    return hole


def with_bbox(mask: masks.Mask) -> HoleArrays:
    return {"mask": mask, "bbox": masks.bounding_box(mask)}


def mask_files(config: MaskConfig) -> list[Path]:
    """The masks of the folder: all, or those in the list. Raises UserError if there are none."""
    folder = Path(config.folder).expanduser()
    if config.list:
        try:
            list_file = find_list(folder, config.list)
        except FileNotFoundError as error:
            raise UserError(
                f"config.mask.list={config.list}: no file {error}; pass a text file with one mask "
                "per line"
            ) from None
        files = [find_base([folder], list_file) / name for name in read_list(list_file)]
    else:
        images = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
        files = sorted(path for path in images if path.is_file())
    if not files:
        raise UserError(
            f"config.mask.{'list' if config.list else 'folder'}={config.list or config.folder} "
            f"holds no mask images ({', '.join(EXTENSIONS)}); "
            "put some there (white = hole) or use another --config.mask.kind"
        )
    return files


def paired_mask_folder(source: Source, config: MaskConfig) -> Path | None:
    """Where the masks of this source are, for mask.kind=paired: mask.folder mirrors its folder.

    Raises UserError if the source is not a folder or its first image has no mask.
    """
    if config.kind != "paired":
        return None
    images = getattr(source, "folder", None)
    if images is None:
        raise UserError(
            f"config.mask.kind=paired needs images from a folder, not {source.name(0)}; pass "
            "--config.data.source=folder:PATH (and data.eval_source) or another --config.mask.kind"
        )
    folder = Path(config.folder).expanduser()
    if (folder / images.name).is_dir():  # so training and validation parts can share names
        folder = folder / images.name
    find_paired_mask(source, 0, folder)
    return folder


def find_paired_mask(source: Source, index: int, folder: Path) -> Path:
    """The mask at the image's place below `folder`, with any suffix. Raises UserError."""
    image = Path(source.name(index))
    mask = folder / image.relative_to(source.folder)
    for suffix in (".png", image.suffix, *EXTENSIONS):
        if mask.with_suffix(suffix).is_file():
            return mask.with_suffix(suffix)
    raise UserError(
        f"image {image} has no mask {mask.with_suffix('.png')} (or {', '.join(EXTENSIONS)}); "
        "put one there or use another --config.mask.kind"
    )
