"""Writes a source of images as ArrayRecord shards, the fastest to train on with millions of images.

SOURCE takes the same forms as config.data.source: folder:PATH[:LIST], tfds:NAME:SPLIT,
array_record:GLOB, photos, or several joined by | (the first that exists is used). The validation
part of a folder or dataset goes to DIR/val, where training on DIR finds it.

Records hold the image files unchanged. With --max-side, larger images are shrunk and re-encoded
(PNG as PNG, all others as JPEG of quality 95). Images that cannot be decoded are left out and
listed with the reason. If interrupted, rerun the command: finished shards are kept. Hosts that
share DIR can each write a --shard-range; the one with shard 0 writes DIR/val, the last one to
finish DIR/manifest.json.
"""

import argparse
import dataclasses
import glob
import json
import re
import shlex
from pathlib import Path

from glinpaint_jax.commands import cli
from glinpaint_jax.data.datasets import open_parts
from glinpaint_jax.data.prepare import check, prepare
from glinpaint_jax.data.shards import (
    MAX_SHARDS,
    MAX_SIDE,
    VAL_FOLDER,
    Plan,
    agree_on_plan,
    make_dataset_manifest,
    read_plan,
    sum_entries,
)
from glinpaint_jax.data.sources import EncodedSource
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import report_unwritable, write_atomically

INTERRUPTED = "interrupted; finished shards are kept, rerun the command to continue"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", nargs="?", metavar="SOURCE", help="such as folder:PATH")
    add("--output", type=cli.local_path, metavar="DIR", required=True, help="folder of the shards")
    add("--shards", type=cli.positive_int, metavar="N", help="128 for millions of images")
    add("--shard-range", type=parse_range, metavar="A:B", help="only shards A to B - 1 [all]")
    add(
        "--workers",
        type=cli.positive_int,
        metavar="W",
        help="worker processes [one per core]",
    )
    add(
        "--max-side",
        type=cli.positive_int,
        default=0,
        metavar="S",
        help="longest side in pixels [unchanged]",
    )
    add("--check", action="store_true", help="verify counts and checksums; needs no SOURCE")


def main(arguments: argparse.Namespace) -> None:
    from glinpaint_jax.data.workers import cores

    arguments.workers = arguments.workers or cores()
    if arguments.check:
        check_shards(arguments)
    else:
        write_shards(arguments)


def write_shards(arguments: argparse.Namespace) -> None:
    if not arguments.source or not arguments.shards:
        raise UserError("SOURCE and --shards are needed; see --help")
    train, val = open_parts(arguments.source)
    if arguments.shards > min(len(train), MAX_SHARDS):
        raise UserError(
            f"--shards {arguments.shards} of {len(train)} images; must be at most one per image "
            f"and at most {MAX_SHARDS}"
        )
    if arguments.max_side > MAX_SIDE:
        raise UserError(f"--max-side {arguments.max_side} must be at most {MAX_SIDE}, as in JPEG")
    folder = arguments.output
    plan = Plan(arguments.source, len(train), arguments.shards, arguments.max_side)
    numbers = shard_numbers(arguments, plan)
    agree_on_plan(folder, plan)
    if val is not None and 0 in numbers:
        shards = min(max(1, plan.shards * len(val) // len(train)), MAX_SHARDS)  # of equal size
        val_plan = dataclasses.replace(plan, length=len(val), shards=shards)
        agree_on_plan(folder / VAL_FOLDER, val_plan)
        # First, so that no training shards are used without their validation part.
        val_folder, prefix = folder / VAL_FOLDER, f"{VAL_FOLDER}/"
        write_part(val_folder, val_plan, val, range(shards), arguments.workers, prefix)
    if write_part(folder, plan, train, numbers, arguments.workers):
        if val is None:
            print(f"{plan.source} has no validation part; training evaluates on held-out images")
        pattern = f"{glob.escape(str(folder))}/*.array_record"
        print(f"train with {shlex.quote(f'--config.data.source=array_record:{pattern}')}")


def write_part(
    folder: Path,
    plan: Plan,
    source: EncodedSource,
    numbers: range,
    workers: int,
    prefix: str = "",
) -> bool:
    """Writes shards and prints what it did; returns whether all shards of the plan are finished."""
    entries = prepare(
        folder, plan, source, numbers, workers, lambda line: print(prefix + line, flush=True)
    )
    joined = make_dataset_manifest(folder, plan)
    if joined is not None:
        with report_unwritable(folder):
            write_atomically(folder / "manifest.json", joined)
    summarise(
        folder, plan, sum_entries(entries), len(entries), json.loads(joined) if joined else None
    )
    return joined is not None


def summarise(folder: Path, plan: Plan, here: dict, shards: int, joined: dict | None) -> None:
    """Prints what was written. Raises UserError if no image could be decoded."""
    total = joined or here
    names = "manifest.json" if joined else "the shards' .json"
    rejected = f"{total['rejected']} rejected" + f" (see {names})" * bool(total["rejected"])
    print(
        f"{plan.shards if joined else shards} of {plan.shards} shards in {folder}: "
        f"{total['count']} images, {total['bytes'] / 1e6:.1f} MB, {rejected}"
    )
    if total["count"] == 0:
        raise UserError(
            f"none of the {total['rejected']} images of {plan.source} can be decoded; "
            f"see {folder / names}"
        )
    if joined is None:
        print("manifest.json will be written once the other shards are finished")


def check_shards(arguments: argparse.Namespace) -> None:
    """Prints what is missing or damaged. Raises UserError if anything is."""
    folder = arguments.output
    plan = read_existing_plan(folder)
    numbers = shard_numbers(arguments, plan)
    parts = [(folder, plan, numbers)]
    if 0 in numbers and (folder / VAL_FOLDER).is_dir():
        val_plan = read_existing_plan(folder / VAL_FOLDER)
        parts.append((folder / VAL_FOLDER, val_plan, range(val_plan.shards)))
    problems = sum(check_part(*part, folder, arguments.workers) for part in parts)
    if problems:
        raise UserError(
            f"{problems} of the files in {folder} are damaged or missing (listed above); delete "
            f"them and run: {command_of(plan, folder)}"
        )
    for part, part_plan, part_numbers in parts:
        print(f"{len(part_numbers)} of {part_plan.shards} shards in {part} are intact")


def read_existing_plan(folder: Path) -> Plan:
    plan = read_plan(folder)
    if plan is None:
        raise UserError(f"no plan.json in {folder}: nothing was prepared there")
    return plan


def check_part(folder: Path, plan: Plan, numbers: range, root: Path, workers: int) -> int:
    """Prints a line, relative to `root`, per missing or damaged file; returns their number."""
    lines = list(check(folder, plan, numbers, workers))
    if not lines and len(numbers) == plan.shards:
        path = folder / "manifest.json"
        if not path.is_file() or path.read_bytes() != make_dataset_manifest(folder, plan):
            lines = ["manifest.json: missing, or disagrees with the shards' .json"]
    for line in lines:
        print((folder / line).relative_to(root))
    return len(lines)


def command_of(plan: Plan, folder: Path) -> str:
    words = ["prepare", plan.source, "--output", str(folder), "--shards", str(plan.shards)]
    if plan.max_side:
        words += ["--max-side", str(plan.max_side)]
    return f"python -m glinpaint_jax {shlex.join(words)}"


def shard_numbers(arguments: argparse.Namespace, plan: Plan) -> range:
    if arguments.shard_range is None:
        return range(plan.shards)
    start, stop = arguments.shard_range
    if not start < stop <= plan.shards:
        raise UserError(
            f"--shard-range {start}:{stop} of {plan.shards} shards; must be A:B with "
            f"0 <= A < B <= {plan.shards}"
        )
    return range(start, stop)


def parse_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B, such as 0:64")
    return int(match[1]), int(match[2])
