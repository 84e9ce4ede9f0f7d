"""ArrayRecord shards of a source: the files of their folder, and how to write one. No jax.

plan.json                              source, length, shards, max_side: the same for all runs
records-00003-of-00128.array_record    encoded images, one per record
records-00003-of-00128.json            the shard's entry: counts, checksum, rejected images
manifest.json                          the plan, totals and all entries, once all shards exist
val/                                   the same for the validation part, if the source has one

The same plan gives the same bytes on any host, however often a run was killed.
"""

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import cv2
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from glinpaint_jax.data.sources import EncodedSource, UndecodableImage, decode
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import (
    checksum,
    fsync_path,
    replace_atomically,
    report_unwritable,
    write_atomically,
)

# Grain needs groups of one record. Compressing images again takes four times as long and gains
# nothing.
OPTIONS = "group_size:1,uncompressed"
SUFFIX = ".array_record"
VAL_FOLDER = "val"
JPEG_QUALITY = 95
MAX_SHARDS = 99_999  # names have five digits, so they sort
MAX_SIDE = 65_500  # pixels; a JPEG allows no more
PNG_START = b"\x89PNG\r\n\x1a\n"

Entry = dict[str, Any]  # content of a shard's JSON


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to write; `max_side` 0 leaves all images as they are."""

    source: str
    length: int
    shards: int
    max_side: int = 0

    def span(self, number: int) -> range:
        """Indices of the shard's records in the source."""
        start, stop = (k * self.length // self.shards for k in (number, number + 1))
        return range(start, stop)

    def stem(self, number: int) -> str:
        return f"records-{number:05d}-of-{self.shards:05d}"

    def file(self, number: int) -> str:
        return self.stem(number) + SUFFIX


def agree_on_plan(folder: Path, plan: Plan) -> None:
    """Creates `folder` with its plan.json. Raises UserError if it belongs to another plan."""
    found = read_plan(folder)
    for field in dataclasses.fields(Plan) if found else ():
        there, wanted = getattr(found, field.name), getattr(plan, field.name)
        if there != wanted:
            raise UserError(
                f"{folder} holds shards of {field.name} {there!r}, not {wanted!r}; pass the same "
                "value or another --output, or remove that folder"
            )
    with report_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if found is None and any(folder.glob("*" + SUFFIX)):
            raise UserError(
                f"{folder} holds other {SUFFIX} files, which would be trained on too; pass an "
                "--output of its own"
            )
        if found is None:
            write_atomically(folder / "plan.json", to_json(dataclasses.asdict(plan)))


def read_plan(folder: Path) -> Plan | None:
    """Returns None if there is none. Raises UserError if it cannot be read."""
    path = folder / "plan.json"
    try:
        return Plan(**json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or 'damaged'}; delete it and "
            "rerun the command"
        ) from None


def read_finished_entry(folder: Path, plan: Plan, number: int) -> Entry | None:
    """Returns the shard's entry if its JSON exists and its file has the recorded size."""
    path = folder / plan.file(number)
    try:
        entry = json.loads(path.with_suffix(".json").read_bytes())
        whole = path.stat().st_size == entry["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return entry if whole else None


def write_shard(folder: Path, plan: Plan, number: int, source: EncodedSource) -> Entry:
    """Writes a shard's records, then its JSON; returns the content of the latter.

    If anything fails, removes what was written. Raises UserError if the folder cannot be written.
    """
    stem, span = plan.stem(number), plan.span(number)
    path = folder / plan.file(number)
    try:
        for leftover in folder.glob(f".{stem}.*"):
            leftover.unlink(missing_ok=True)
        with replace_atomically(path, prefix=f"{stem}.") as temporary:
            rejected = _write_records(temporary, source, span, plan.max_side)
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
            fsync_path(temporary)
        with replace_atomically(path.with_suffix(".json"), prefix=f"{stem}.") as temporary:
            temporary.write_bytes(to_json(entry))
    except FileNotFoundError:
        raise UserError(
            f"the unfinished {path.name} in {folder} disappeared: was it deleted, or does another "
            "run write the same shards? Give each run its own --shard-range"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None
    return entry


def remove_half_written(folder: Path, plan: Plan, numbers: Collection[int], pid: int) -> None:
    """Removes what the killed process `pid` left of the shards `numbers`.

    Another host's process may have the same pid, but not the same shards.
    """
    stems = {plan.stem(number) for number in numbers}
    for path in folder.glob(f".*.{pid}-*.tmp"):
        if path.name.split(".")[1] in stems:
            path.unlink(missing_ok=True)


def _write_records(
    path: Path, source: EncodedSource, span: range, max_side: int
) -> list[dict[str, str]]:
    """Writes an ArrayRecord file; returns the names of rejected images and the reasons."""
    rejected = []
    writer = ArrayRecordWriter(str(path), OPTIONS)
    try:
        try:
            for index in span:
                try:
                    record = encode_record(source, index, max_side)
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


def encode_record(source: EncodedSource, index: int, max_side: int) -> bytes:
    """Returns the image file's own bytes, or shrinks it if a side exceeds `max_side` (0: never).

    A shrunk image is upright; PNG stays PNG, all else becomes JPEG. Raises UndecodableImage.
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


def make_dataset_manifest(folder: Path, plan: Plan) -> bytes | None:
    """Returns the content of manifest.json, or None if a shard is unfinished."""
    entries = []
    for number in range(plan.shards):
        entry = read_finished_entry(folder, plan, number)
        if entry is None:
            return None
        entries.append(entry)
    return to_json(dataclasses.asdict(plan) | sum_entries(entries) | {"entries": entries})


def sum_entries(entries: list[Entry]) -> dict[str, int]:
    return {
        "count": sum(entry["count"] for entry in entries),
        "bytes": sum(entry["bytes"] for entry in entries),
        "rejected": sum(len(entry["rejected"]) for entry in entries),
    }


def find_shard_damage(folder: Path, plan: Plan, number: int) -> str:
    """Returns what is wrong with a shard, or an empty string."""
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
            return "wrong checksum"
        records = ArrayRecordReader(str(path)).num_records()
    except (OSError, RuntimeError) as error:
        return f"cannot be read: {error}"
    return "" if records == count else f"{records} records, not {count}"


def to_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
