"""The pictures of an evaluation as files: to look at, to complete elsewhere, and to score then."""

import re
from pathlib import Path

import numpy as np
import PIL.Image
from jax import Array
from jaxtyping import UInt8

from glinpaint_jax.data.folders import EXTENSIONS
from glinpaint_jax.data.masks import Mask, draw_boxes
from glinpaint_jax.data.pipeline import Batch
from glinpaint_jax.data.sources import Image, Source, UnusableFile, decode
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import report_unreadable, report_unwritable

# A process's images of a batch: masked (white), completed and original.
PictureRows = UInt8[np.ndarray, "3 b h w 3"]


def draw_masks(batch: Batch) -> UInt8[np.ndarray, "b h w 1"]:
    """Returns the batch's masks (1 = hole), or draws its boxes."""
    if "mask" in batch:
        return batch["mask"]
    size = batch["image"].shape[1]
    return np.stack([draw_boxes(box[None], size) for box in batch["bbox"]])


def picture_rows(batch: Batch, completed: Array) -> PictureRows:
    local = np.concatenate([np.asarray(shard.data) for shard in completed.addressable_shards])
    image = batch["image"]
    masked = np.where(draw_masks(batch), np.uint8(255), image)
    return np.stack([masked, np.rint(local).astype(np.uint8), image])


def stem_of(source: Source, record: int) -> str:
    """The name of a record's pictures: its number and its own name."""
    name = re.sub(r"[^\w.-]+", "_", Path(source.name(record)).stem)
    return f"{record:06d}_{name}"


def save_pictures(
    pictures: UInt8[np.ndarray, "b ..."], batch: Batch, source: Source, folder: Path
) -> None:
    """Writes a batch's pictures, except padding and images that replace unusable ones."""
    for i in np.flatnonzero(batch["valid"] * (batch["record"] >= 0)):
        path = folder / f"{stem_of(source, int(batch['record'][i]))}.png"
        with report_unwritable(path):
            folder.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(pictures[i]).save(path)


def read_result(folder: Path, source: Source, record: int, image: Image, _: Mask) -> Image:
    """Returns a record's completed image: a file with the name that `save_pictures` gives it."""
    if record < 0:
        raise UserError("results can only be scored if every image of the set can be read")
    stem = folder / stem_of(source, record)
    paths = (Path(f"{stem}{extension}") for extension in EXTENSIONS)
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        raise UserError(f"no result {stem}.png; complete the pictures that --export writes")
    try:
        with report_unreadable(path):
            result = decode(path.read_bytes(), str(path))
    except UnusableFile as error:
        raise UserError(str(error)) from None
    if result.shape != image.shape:
        found, wanted = (f"{x.shape[1]}x{x.shape[0]}" for x in (result, image))
        raise UserError(f"{path} is {found}, must be {wanted}")
    return result
