"""A source as ArrayRecord shards: what lies in their folder, and how one is written. No jax.

plan.json                              source, length, shards, max_side: the same for all runs
records-00003-of-00128.array_record    encoded images, one a record
records-00003-of-00128.json            written last: counts, checksum, rejected images
manifest.json                          the plan, totals and all shards' entries, when all are there

The same plan gives the same bytes, on any host and after any number of kills.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from glinpaint_jax.data.sources import EncodedSource, UndecodableImage, decode
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import (
    checksum,
    keep_on_disk,
    refuse_unwritable,
    replacing,
    write_atomically,
)

# Grain wants groups of one record. Images are compressed already: trying again takes four times
# as long and gains nothing.
OPTIONS = "group_size:1,uncompressed"
SUFFIX = ".array_record"
JPEG_QUALITY = 95
MAX_SHARDS = 99_999  # whose names sort
MAX_SIDE = 65_500  # of a JPEG
PNG_START = b"\x89PNG\r\n\x1a\n"

Entry = dict[str, Any]  # of a shard: what its JSON holds


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be written; `max_side` 0 leaves all images as they are."""

    source: str
    length: int
    shards: int
    max_side: int = 0

    def span(self, number: int) -> range:
        """Which records of the source are the shard's."""
        start, stop = (k * self.length // self.shards for k in (number, number + 1))
        return range(start, stop)

    def stem(self, number: int) -> str:
        return f"records-{number:05d}-of-{self.shards:05d}"

    def file(self, number: int) -> str:
        return self.stem(number) + SUFFIX


def agree_on_plan(folder: Path, plan: Plan) -> None:
    """Makes `folder` the plan's. Raises UserError where it holds something else."""
    found = read_plan(folder)
    for field in dataclasses.fields(Plan) if found else ():
        there, wanted = getattr(found, field.name), getattr(plan, field.name)
        if there != wanted:
            raise UserError(
                f"{folder} holds shards of {field.name} {there!r}, not {wanted!r}; pass the same, "
                "another --output, or remove that folder"
            )
    with refuse_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if found is None and any(folder.glob("*" + SUFFIX)):
            raise UserError(
                f"{folder} holds other {SUFFIX} files, which would be trained on too; pass an "
                "--output of its own"
            )
        if found is None:
            write_atomically(folder / "plan.json", to_json(dataclasses.asdict(plan)))


def read_plan(folder: Path) -> Plan | None:
    """None where there is none. Raises UserError where it cannot be read."""
    path = folder / "plan.json"
    try:
        return Plan(**json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or 'damaged'}; delete it and "
            "run the same command again"
        ) from None


def finished(folder: Path, plan: Plan, number: int) -> Entry | None:
    """The entry of a shard whose JSON and file are there, of the size that was written."""
    path = folder / plan.file(number)
    try:
        entry = json.loads(path.with_suffix(".json").read_bytes())
        whole = path.stat().st_size == entry["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return entry if whole else None


def write_shard(
    folder: Path, plan: Plan, number: int, source: EncodedSource, advance: Callable[[], None]
) -> Entry:
    """Writes a shard's records, then its JSON, and returns what that holds.

    `advance` is called before each image; what it raises stops the work, and nothing is left of
    it. Raises UserError where the folder cannot be written.
    """
    stem, span = plan.stem(number), plan.span(number)
    path = folder / plan.file(number)
    try:
        for leftover in folder.glob(f".{stem}.*"):
            leftover.unlink(missing_ok=True)
        with replacing(path, prefix=f"{stem}.") as temporary:
            rejected = _write_records(temporary, source, span, plan.max_side, advance)
            count = len(span) - len(rejected)
            entry = {
                "file": path.name,
                "first": span.start,
                "last": span.stop - 1,
                "count": count,
                "bytes": temporary.stat().st_size,
                "sha256": checksum(temporary),
                "rejected": rejected,
            }
            keep_on_disk(temporary)
        with replacing(path.with_suffix(".json"), prefix=f"{stem}.") as temporary:
            temporary.write_bytes(to_json(entry))
    except FileNotFoundError:
        raise UserError(
            f"{folder} lost what was half written of {path.name}: was it removed, or does another "
            "run write the same shards? Give each its own --shard-range"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None
    return entry


def _write_records(
    path: Path, source: EncodedSource, span: range, max_side: int, advance: Callable[[], None]
) -> list[dict[str, str]]:
    """Writes an ArrayRecord file; returns names and reasons of the images that are not in it."""
    rejected = []
    writer = ArrayRecordWriter(str(path), OPTIONS)
    try:
        try:
            for index in span:
                advance()
                try:
                    record = prepared(source, index, max_side)
                except UndecodableImage as error:
                    name = source.name(index)
                    reason = str(error).removeprefix(f"{name}: ")
                    rejected.append({"name": name, "reason": reason})
                    continue
                writer.write(record)
        finally:
            writer.close()
    except RuntimeError as error:  # "write() failed: No space left on device; writing PATH; ..."
        if str(path) not in str(error):
            raise
        raise OSError(str(error).split(";")[0]) from None
    return rejected


def prepared(source: EncodedSource, index: int, max_side: int) -> bytes:
    """The image's own bytes, or, where a side is longer than `max_side` (if not 0), a smaller one.

    The smaller one is upright, PNG if the image is, else JPEG. Raises UndecodableImage.
    """
    encoded = source.encoded(index)
    pixels = decode(encoded, source.name(index))
    height, width = pixels.shape[:2]
    if not 0 < max_side < max(height, width):
        return bytes(encoded)
    scale = max_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    suffix = ".png" if encoded.startswith(PNG_START) else ".jpg"
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []
    return cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def manifest(folder: Path, plan: Plan) -> bytes | None:
    """The plan, totals and the shards' entries once all are there; else None. No host in it."""
    entries = []
    for number in range(plan.shards):
        entry = finished(folder, plan, number)
        if entry is None:
            return None
        entries.append(entry)
    return to_json(dataclasses.asdict(plan) | totals(entries) | {"entries": entries})


def totals(entries: list[Entry]) -> dict[str, int]:
    return {
        "count": sum(entry["count"] for entry in entries),
        "bytes": sum(entry["bytes"] for entry in entries),
        "rejected": sum(len(entry["rejected"]) for entry in entries),
    }


def damage(folder: Path, plan: Plan, number: int) -> str:
    """What is wrong with a shard, or nothing."""
    path = folder / plan.file(number)
    if not path.exists():
        return "missing"
    try:
        entry = json.loads(path.with_suffix(".json").read_bytes())
        size, sha256, count = entry["bytes"], entry["sha256"], entry["count"]
    except (OSError, ValueError, KeyError, TypeError):
        return "its .json is missing or damaged"
    try:
        if path.stat().st_size != size:
            return f"{path.stat().st_size} bytes, not {size}"
        if checksum(path) != sha256:
            return "another checksum"
        records = ArrayRecordReader(str(path)).num_records()
    except (OSError, RuntimeError) as error:
        return f"cannot be read: {error}"
    return "" if records == count else f"{records} records, not {count}"


def to_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
