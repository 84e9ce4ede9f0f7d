"""Scores whatever fills holes on a set of images with fixed crops and holes."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import metrics as clu_metrics
from jax import Array
from jax.sharding import Mesh

from glinpaint_jax.config import Config
from glinpaint_jax.data.datasets import Sources
from glinpaint_jax.data.masks import Mask
from glinpaint_jax.data.pipeline import Batch, FailureLog, eval_batches
from glinpaint_jax.data.sources import Image, Source
from glinpaint_jax.evaluation import metrics
from glinpaint_jax.evaluation.pictures import PictureRows, draw_masks, picture_rows, save_pictures
from glinpaint_jax.models.generator import Generator
from glinpaint_jax.models.inputs import make_inputs, to_pixel_range
from glinpaint_jax.models.networks import Color, complete
from glinpaint_jax.parallel import batch_sharding, to_global

EVAL_BATCH = 16  # images per device; does not affect results
GRAY = 128

GlobalBatch = dict[str, Array]
# One batch, given on the host and on the devices -> completed images on the devices, float
# [b, h, w, 3] in 0..255.
CompleteBatch = Callable[[Batch, GlobalBatch], Array]
# Means over the images whose `mask` is 1; this is clu's mask, not the hole.
MeanScores = clu_metrics.Collection.create(
    **{name: clu_metrics.Average.from_output(name) for name in metrics.NAMES}
)


def evaluation_sets(sources: Sources, config: Config) -> dict[str, tuple[Source, Config]]:
    """The images of each set, by name, and a config with its masks (config.eval_masks)."""
    masks = config.evaluation_masks()
    is_plain = [*masks] == ["training"]
    return {
        name if is_plain else f"{name}_{kind}": (source, dataclasses.replace(config, mask=mask))
        for name, source in sources.evaluation.items()
        for kind, mask in masks.items()
    }


def evaluate(
    complete_batch: CompleteBatch,
    source: Source,
    config: Config,
    mesh: Mesh,
    failures: FailureLog,
    folder: Path | None = None,
) -> tuple[dict[str, float], PictureRows]:
    """Returns the mean of each of metrics.NAMES over the images of `source`.

    Also returns this process's pictures of the first batch. Uses at most config.data.eval_images
    images, evenly spaced. Exact for any number of images and devices: padding in the last batch
    does not count. Writes a PNG of each image to `folder`, if given: masked, completed and
    original, side by side without a gap.
    """
    totals = first_rows = None
    for host_batch, batch in iterate_batches(source, config, mesh, failures):
        completed = complete_batch(host_batch, batch)
        scores = score(completed, batch)
        totals = scores if totals is None else totals.merge(scores)
        if first_rows is None or folder:
            rows = picture_rows(host_batch, completed)
            first_rows = rows if first_rows is None else first_rows
        if folder:
            save_pictures(np.concatenate(rows, axis=2), host_batch, source, folder)
    return {name: float(value) for name, value in totals.compute().items()}, first_rows


@jax.jit
def score(completed: Array, batch: GlobalBatch) -> MeanScores:
    inputs = make_inputs(batch)
    scores = metrics.all_scores(completed, to_pixel_range(inputs.image), inputs.mask)
    return MeanScores.single_from_model_output(**scores, mask=batch["valid"])


def make_generator_completion(
    generator: Generator, fill: Color, mesh: Mesh
) -> Callable[[Any], CompleteBatch]:
    """Makes a function: generator variables -> `CompleteBatch`. All share one compiled program."""

    def complete_pixels(variables: Any, batch: GlobalBatch) -> Array:
        inputs = make_inputs(batch)
        completed = complete(generator, variables, inputs.image, inputs.mask, fill)
        return to_pixel_range(completed)

    jitted = jax.jit(complete_pixels, out_shardings=batch_sharding(mesh))
    return lambda variables: lambda _, batch: jitted(variables, batch)


def make_host_completion(fill: Callable[[int, Image, Mask], Image], mesh: Mesh) -> CompleteBatch:
    """Makes a `CompleteBatch` from a function of a record's number, image and mask on the host.

    Without a valid pixel, the image becomes gray: OpenCV would return its input, others fail.
    """

    def complete_batch(host_batch: Batch, _: GlobalBatch) -> Array:
        batch = zip(host_batch["record"], host_batch["image"], draw_masks(host_batch), strict=True)
        filled = [
            np.full_like(image, GRAY) if mask.all() else fill(int(record), image, mask)
            for record, image, mask in batch
        ]
        return to_global({"filled": np.stack(filled).astype(np.float32)}, mesh)["filled"]

    return complete_batch


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


def iterate_batches(
    source: Source, config: Config, mesh: Mesh, failures: FailureLog
) -> Iterator[tuple[Batch, GlobalBatch]]:
    """Yields the batches of an evaluation set, with the record number of each image."""
    images = min(config.data.eval_images, len(source))
    per_device = min(EVAL_BATCH, -(-images // mesh.devices.size))
    for host_batch in eval_batches(
        source,
        config,
        local_batch_size=per_device * mesh.devices.size // jax.process_count(),
        process=jax.process_index(),
        count=jax.process_count(),
    ):
        host_batch = failures.take(host_batch)
        yield host_batch, to_global(host_batch, mesh)
