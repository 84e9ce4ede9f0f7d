"""Evaluates a generator or a baseline on a set of images with fixed crops and holes."""

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import PIL.Image
from clu import metrics as clu_metrics
from jax import Array
from jax.sharding import Mesh
from jaxtyping import UInt8

from glinpaint_jax.config import Config
from glinpaint_jax.data.datasets import Sources
from glinpaint_jax.data.masks import draw_boxes
from glinpaint_jax.data.pipeline import FailureLog, eval_batches
from glinpaint_jax.data.sources import Source
from glinpaint_jax.evaluation import metrics
from glinpaint_jax.files import report_unwritable
from glinpaint_jax.models.generator import Generator
from glinpaint_jax.models.inputs import make_inputs, to_pixel_range
from glinpaint_jax.models.networks import complete
from glinpaint_jax.parallel import batch_sharding, replicated, to_global

EVAL_BATCH = 16  # images per device; does not affect results
GRAY = 128

HostBatch = dict[str, np.ndarray]
GlobalBatch = dict[str, Array]
# One batch, given on the host and on the devices -> completed images on the devices, float
# [b, h, w, 3] in 0..255.
CompleteBatch = Callable[[HostBatch, GlobalBatch], Array]
# A process's images of a batch: masked (white), completed and original.
PictureRows = UInt8[np.ndarray, "3 b h w 3"]


@flax.struct.dataclass
class MeanScores(clu_metrics.Collection):
    """Means over the images whose `mask` is 1; this is clu's mask, not the hole."""

    l1: clu_metrics.Average.from_output("l1")
    psnr: clu_metrics.Average.from_output("psnr")
    ssim: clu_metrics.Average.from_output("ssim")


def evaluation_sets(sources: Sources, config: Config) -> dict[str, tuple[Source, Config]]:
    """The images of each set, by name, and a config with its masks (config.eval_masks)."""
    masks = config.evaluation_masks()
    is_plain = [*masks] == ["training"]
    return {
        name if is_plain else f"{name}_{kind}": (source, config.with_masks(mask))
        for name, source in sources.evaluation.items()
        for kind, mask in masks.items()
    }


def evaluate(
    complete_batch: CompleteBatch, source: Source, config: Config, mesh: Mesh, failures: FailureLog
) -> tuple[dict[str, float], PictureRows]:
    """Returns the mean l1 error (percent), PSNR (dB) and SSIM over the images of `source`.

    Also returns this process's pictures of the first batch. Uses at most config.data.eval_images
    images, evenly spaced. Exact for any number of images and devices: padding in the last batch
    does not count.
    """
    score = make_score(config.mask.fill, mesh)
    totals = rows = None
    for host_batch, batch in _iterate_batches(source, config, mesh, failures):
        completed = complete_batch(host_batch, batch)
        rows = picture_rows(host_batch, completed) if rows is None else rows
        scores = score(completed, batch)
        totals = scores if totals is None else totals.merge(scores)
    return {name: float(value) for name, value in totals.compute().items()}, rows


@functools.lru_cache
def make_score(
    fill: tuple[float, float, float], mesh: Mesh
) -> Callable[[Array, GlobalBatch], MeanScores]:
    """Makes a jitted function: completed images and their batch -> `MeanScores`.

    Cached, so that evaluating again compiles nothing.
    """

    def score(completed: Array, batch: GlobalBatch) -> MeanScores:
        inputs = make_inputs(batch, fill)
        image = to_pixel_range(inputs.image)
        return MeanScores.single_from_model_output(
            l1=metrics.l1_error(completed, image, inputs.mask),
            psnr=metrics.psnr(completed, image),
            ssim=metrics.ssim(completed, image),
            mask=batch["valid"],
        )

    return jax.jit(score, in_shardings=batch_sharding(mesh), out_shardings=replicated(mesh))


def make_generator_completion(
    config: Config, generator: Generator, mesh: Mesh
) -> Callable[[Any], CompleteBatch]:
    """Makes a function: generator variables -> `CompleteBatch`. All share one compiled program."""

    def complete_pixels(variables: Any, batch: GlobalBatch) -> Array:
        inputs = make_inputs(batch, config.mask.fill)
        completed = complete(generator, variables, inputs.image, inputs.mask, config.mask.fill)
        return to_pixel_range(completed)

    jitted = jax.jit(
        complete_pixels,
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=batch_sharding(mesh),
    )

    return lambda variables: lambda _, batch: jitted(variables, batch)


def make_baseline_completion(
    baseline: Callable[[np.ndarray, np.ndarray], np.ndarray], mesh: Mesh
) -> CompleteBatch:
    """Makes a `CompleteBatch` from a function of uint8 (image, mask) that runs on the host.

    Without a valid pixel, the image becomes gray: OpenCV would return its input, others fail.
    """

    def complete_batch(host_batch: HostBatch, _: GlobalBatch) -> Array:
        filled = [
            np.full_like(image, GRAY) if mask.all() else baseline(image, mask)
            for image, mask in zip(host_batch["image"], draw_masks(host_batch), strict=True)
        ]
        return to_global({"filled": np.stack(filled).astype(np.float32)}, mesh)["filled"]

    return complete_batch


def draw_masks(batch: HostBatch) -> UInt8[np.ndarray, "b h w 1"]:
    """Returns the batch's masks (1 = hole), or draws its boxes."""
    if "mask" in batch:
        return batch["mask"]
    height, width = batch["image"].shape[1:3]
    return np.stack([draw_boxes(box[None], height, width) for box in batch["bbox"]])


def picture_rows(host_batch: HostBatch, completed: Array) -> PictureRows:
    local = np.concatenate([np.asarray(shard.data) for shard in completed.addressable_shards])
    image = host_batch["image"]
    masked = np.where(draw_masks(host_batch), np.uint8(255), image)
    return np.stack([masked, np.rint(local).astype(np.uint8), image])


def with_pictures(complete_batch: CompleteBatch, source: Source, folder: Path) -> CompleteBatch:
    """Makes a `CompleteBatch` that also writes a PNG of each image of `source` to `folder`.

    It shows the image masked, completed and original, side by side without a gap. Its name is the
    record's number and name; unusable images have none.
    """

    def complete_and_write(host_batch: HostBatch, batch: GlobalBatch) -> Array:
        completed = complete_batch(host_batch, batch)
        rows = picture_rows(host_batch, completed)
        for i in np.flatnonzero(host_batch["valid"] * (host_batch["record"] >= 0)):
            record = int(host_batch["record"][i])
            name = re.sub(r"[^\w.-]+", "_", Path(source.name(record)).stem)
            path = folder / f"{record:06d}_{name}.png"
            with report_unwritable(path):
                folder.mkdir(parents=True, exist_ok=True)
                PIL.Image.fromarray(np.hstack(rows[:, i])).save(path)
        return completed

    return complete_and_write


def _iterate_batches(
    source: Source, config: Config, mesh: Mesh, failures: FailureLog
) -> Iterator[tuple[HostBatch, GlobalBatch]]:
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
