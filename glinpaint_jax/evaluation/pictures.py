"""The pictures of an evaluation as files: to look at, to complete elsewhere, and to score then."""

import re
from pathlib import Path

import numpy as np
import PIL.Image
from jax import Array
from jax.sharding import Mesh
from jaxtyping import UInt8

from glinpaint_jax.config import Config
from glinpaint_jax.data.folders import EXTENSIONS
from glinpaint_jax.data.masks import Mask
from glinpaint_jax.data.pipeline import FailureLog
from glinpaint_jax.data.sources import Image, Source, UnusableFile, decode
from glinpaint_jax.errors import UserError
from glinpaint_jax.evaluation.evaluate import (
    CompleteBatch,
    GlobalBatch,
    HostBatch,
    draw_masks,
    iterate_batches,
    make_host_completion,
    picture_rows,
)
from glinpaint_jax.files import report_unwritable


def stem_of(source: Source, record: int) -> str:
    """The name of a record's pictures: its number and its own name."""
    name = re.sub(r"[^\w.-]+", "_", Path(source.name(record)).stem)
    return f"{record:06d}_{name}"


def save_pictures(
    pictures: UInt8[np.ndarray, "b ..."], batch: HostBatch, source: Source, folder: Path
) -> None:
    """Writes a batch's pictures, except padding and images that replace unusable ones."""
    for i in np.flatnonzero(batch["valid"] * (batch["record"] >= 0)):
        path = folder / f"{stem_of(source, int(batch['record'][i]))}.png"
        with report_unwritable(path):
            folder.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(pictures[i]).save(path)


def with_pictures(complete_batch: CompleteBatch, source: Source, folder: Path) -> CompleteBatch:
    """Makes a `CompleteBatch` that also writes a PNG of each image of `source` to `folder`.

    It shows the image masked, completed and original, side by side without a gap.
    """

    def complete_and_write(host_batch: HostBatch, batch: GlobalBatch) -> Array:
        completed = complete_batch(host_batch, batch)
        rows = picture_rows(host_batch, completed)
        save_pictures(np.concatenate(rows, axis=2), host_batch, source, folder)
        return completed

    return complete_and_write


def export_set(
    source: Source, config: Config, mesh: Mesh, failures: FailureLog, folder: Path
) -> None:
    """Writes the fixed crops with white holes, the masks and the originals, with equal names."""
    for batch, _ in iterate_batches(source, config, mesh, failures):
        image, mask = batch["image"], draw_masks(batch)
        masked = np.where(mask, np.uint8(255), image)
        pictures = {"images": masked, "masks": 255 * mask[..., 0], "originals": image}
        for name, one in pictures.items():
            save_pictures(one, batch, source, folder / name)


def read_results(folder: Path, source: Source, mesh: Mesh) -> CompleteBatch:
    """Makes a `CompleteBatch` of completed images: files with the names that `export_set` gives."""

    def read(record: int, image: Image, mask: Mask) -> Image:
        if record < 0:
            raise UserError("results can only be scored if every image of the set can be read")
        stem = folder / stem_of(source, record)
        path = next((path for e in EXTENSIONS if (path := Path(f"{stem}{e}")).is_file()), None)
        if path is None:
            raise UserError(f"no result {stem}.png; complete the pictures that --export writes")
        try:
            result = decode(path.read_bytes(), str(path))
        except UnusableFile as error:
            raise UserError(str(error)) from None
        if result.shape != image.shape:
            found, wanted = (f"{x.shape[1]}x{x.shape[0]}" for x in (result, image))
            raise UserError(f"{path} is {found}, must be {wanted}")
        return result

    return make_host_completion(read, mesh)
