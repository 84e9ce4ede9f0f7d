"""Writes a source of images as ArrayRecord shards, the fastest to train on with millions of images.

SOURCE takes the same forms as config.data.source: folder:PATH[:LIST], tfds:NAME:SPLIT,
array_record:GLOB, photos, or several joined by | (the first that exists is used). If a folder or
dataset has a validation part, only the training part is written; prepare the other separately.

Records hold the image files unchanged. With --max-side, larger images are shrunk and re-encoded
(PNG as PNG, all others as JPEG of quality 95). Images that cannot be decoded are left out and
listed with the reason. If interrupted, rerun the command: finished shards are kept. Hosts that
share DIR can each write a --shard-range; the last one to finish writes DIR/manifest.json.
"""

import argparse
import glob
import json
import re
import shlex
from pathlib import Path

from glinpaint_jax.commands import cli
from glinpaint_jax.data.datasets import open_whole
from glinpaint_jax.data.prepare import check, prepare
from glinpaint_jax.data.shards import (
    MAX_SHARDS,
    MAX_SIDE,
    Plan,
    agree_on_plan,
    make_dataset_manifest,
    read_plan,
    sum_entries,
)
from glinpaint_jax.data.workers import cores
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import refuse_unwritable, write_atomically


def main(arguments: argparse.Namespace) -> None:
    if arguments.check:
        check_shards(arguments)
    else:
        write_shards(arguments)


def write_shards(arguments: argparse.Namespace) -> None:
    if not arguments.source or not arguments.shards:
        raise UserError("SOURCE and --shards are needed; --help tells more")
    source = open_whole(arguments.source)
    if arguments.shards > min(len(source), MAX_SHARDS):
        raise UserError(
            f"--shards {arguments.shards} of {len(source)} images; at most one an image and "
            f"{MAX_SHARDS} are possible"
        )
    if arguments.max_side > MAX_SIDE:
        raise UserError(f"--max-side {arguments.max_side}, a JPEG has sides of at most {MAX_SIDE}")
    folder = arguments.output
    plan = Plan(arguments.source, len(source), arguments.shards, arguments.max_side)
    numbers = shard_numbers(arguments, plan)
    agree_on_plan(folder, plan)
    entries = prepare(
        folder, plan, source, numbers, arguments.workers, lambda line: print(line, flush=True)
    )
    joined = make_dataset_manifest(folder, plan)
    if joined is not None:
        with refuse_unwritable(folder):
            write_atomically(folder / "manifest.json", joined)
    summarise(
        folder, plan, sum_entries(entries), len(entries), json.loads(joined) if joined else None
    )


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
        return
    pattern = f"{glob.escape(str(folder))}/*.array_record"
    print(f"train with {shlex.quote(f'--config.data.source=array_record:{pattern}')}")


def check_shards(arguments: argparse.Namespace) -> None:
    """Prints what is missing or damaged. Raises UserError if anything is."""
    folder = arguments.output
    plan = read_plan(folder)
    if plan is None:
        raise UserError(f"no plan.json in {folder}: nothing was prepared there")
    numbers = shard_numbers(arguments, plan)
    problems = 0
    for line in check(folder, plan, numbers, arguments.workers):
        problems += 1
        print(line)
    if problems == 0 and len(numbers) == plan.shards:
        path = folder / "manifest.json"
        if not path.is_file() or path.read_bytes() != make_dataset_manifest(folder, plan):
            problems = 1
            print("manifest.json: missing, or disagrees with the shards' .json")
    if problems:
        raise UserError(
            f"{problems} of the files in {folder} are damaged or missing (listed above); delete "
            f"them and run: {command_of(plan, folder)}"
        )
    print(f"{len(numbers)} of {plan.shards} shards in {folder} are intact")


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
            f"--shard-range {start}:{stop} of {plan.shards} shards, must be A:B with A < B, from "
            f"0:1 to 0:{plan.shards}"
        )
    return range(start, stop)


def parse_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B, such as 0:64")
    return int(match[1]), int(match[2])


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


if __name__ == "__main__":
    parser = cli.ArgumentParser("prepare", __doc__)
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="such as folder:PATH")
    parser.add_argument("--output", type=Path, metavar="DIR", required=True)
    parser.add_argument("--shards", type=positive, metavar="N", help="128 for millions of images")
    parser.add_argument("--shard-range", type=parse_range, metavar="A:B", help="A to B - 1 [all]")
    parser.add_argument(
        "--workers", type=positive, default=cores(), metavar="W", help="processes [cores]"
    )
    parser.add_argument(
        "--max-side", type=positive, default=0, metavar="S", help="pixels [as they are]"
    )
    parser.add_argument(
        "--check", action="store_true", help="verify counts and checksums; needs no SOURCE"
    )
    cli.run_command(
        main, parser, "interrupted; finished shards are kept, rerun the command to continue"
    )
