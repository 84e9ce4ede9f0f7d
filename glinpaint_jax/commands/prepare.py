"""Writes the images of a source, such as folder:data/Places, as ArrayRecord shards.

DIR gets --shards files and manifest.json, which says what is in them. The validation part of a
folder or dataset goes to DIR/val, where training on DIR finds it.

Records hold the image files unchanged. With --max-side, larger images are shrunk and re-encoded
(PNG as PNG, all others as JPEG of quality 95). Images that cannot be decoded are left out and
listed with the reason. If interrupted, rerun the command: finished shards are kept.
"""

import argparse
import glob
import shlex

from glinpaint_jax.commands import cli
from glinpaint_jax.data.datasets import MAX_HELD_OUT, open_first
from glinpaint_jax.data.shards import MANIFEST, SUFFIX, VAL_FOLDER, prepare
from glinpaint_jax.data.sources import PhotoSource
from glinpaint_jax.data.workers import cores
from glinpaint_jax.errors import UserError

INTERRUPTED = "interrupted; finished shards are kept, rerun the command to continue"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, number = parser.add_argument, cli.positive_int
    add("source", metavar="SOURCE", help="such as folder:PATH")
    add("--output", type=cli.local_path, metavar="DIR", required=True, help="folder of the shards")
    add("--shards", type=number, metavar="N", required=True, help="128 for millions of images")
    add("--workers", type=number, metavar="W", help="worker processes [one per core]")
    add(
        "--max-side", type=number, default=0, metavar="S", help="longest side in pixels [unchanged]"
    )


def main(arguments: argparse.Namespace) -> None:
    source, folder, shards = arguments.source, arguments.output, arguments.shards
    opened = open_first(source)
    train, val = opened.train, opened.evaluation.get("val")
    if isinstance(train, PhotoSource):
        raise UserError("photos need no shards; pass another source, such as folder:PATH")
    if shards > len(train):
        raise UserError(f"--shards {shards} of {len(train)} images; must be at most one per image")
    parts = [(folder, train)]
    if val is not None:  # first, so that no training shards are used without it
        parts.insert(0, (folder / VAL_FOLDER, val))
    for folder, images in parts:
        count = max(1, shards * len(images) // len(train))  # all of about the same size
        workers = arguments.workers or cores()
        entries = prepare(folder, source, images, count, arguments.max_side, workers)
        written = sum(entry["count"] for entry in entries)
        megabytes = sum(entry["bytes"] for entry in entries) / 1e6
        rejected = len(images) - written
        print(
            f"{count} shards in {folder}: {written} images, {megabytes:.1f} MB, {rejected} "
            "rejected" + f" (see {MANIFEST})" * bool(rejected)
        )
        if written == 0:
            raise UserError(
                f"none of the {rejected} images of {source} can be decoded; see {folder / MANIFEST}"
            )
    if val is None:
        kind = "held-out images" if MAX_HELD_OUT * written >= 1 else "new crops of its images"
        print(f"{source} has no validation part; training evaluates on {kind}")
    pattern = f"{glob.escape(str(arguments.output))}/*{SUFFIX}"
    print(f"train with {shlex.quote(f'--config.data.source=array_record:{pattern}')}")
