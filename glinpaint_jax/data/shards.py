"""ArrayRecord shards of a source: written by `prepare`, counted when they are opened. No jax.

records-00003-of-00128.array_record    encoded images, one per record
manifest.json                          the source, and the size and counts of each finished shard
val/                                   the same for the validation images, if there are any

The same source gives the same bytes, however often the command was interrupted.
"""

import contextlib
import json
import multiprocessing
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2

from glinpaint_jax.data.folders import FolderSource
from glinpaint_jax.data.sources import EncodedSource, UnusableFile, decode
from glinpaint_jax.data.workers import start_worker
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import report_unwritable, write_atomically

# Grain needs groups of one record. Compressing images again takes four times as long and gains
# nothing.
OPTIONS = "group_size:1,uncompressed"
SUFFIX = ".array_record"
SHARD = re.compile(r"records-\d+-of-(\d+)\.array_record")
MANIFEST = "manifest.json"
VAL_FOLDER = "val"
PNG_START = b"\x89PNG\r\n\x1a\n"

Entry = dict[str, Any]  # of a finished shard: file, count, bytes, rejected


def shard_name(number: int, count: int) -> str:
    return f"records-{number:05d}-of-{count:05d}{SUFFIX}"


def spans(images: int, shards: int) -> dict[str, range]:
    """The indices of each shard's images in the source, by its file's name."""
    return {
        shard_name(k, shards): range(k * images // shards, (k + 1) * images // shards)
        for k in range(shards)
    }


def prepare(
    folder: Path, spec: str, source: EncodedSource, shards: int, max_side: int, workers: int
) -> list[Entry]:
    """Writes the shards of `source` that are not finished yet; returns the entries of all.

    `spec` describes the source. `max_side` 0 leaves all images as they are.
    """
    plan = {"source": spec, "images": len(source), "fingerprint": source.fingerprint()}
    plan |= {"shards": shards, "max_side": max_side}
    entries = _read_finished(folder, plan)
    if entries:
        print(f"{len(entries)} of {shards} shards are finished and kept")
    todo = {name: span for name, span in spans(len(source), shards).items() if name not in entries}
    with report_unwritable(folder), _open_pool(max(1, min(workers, len(todo)))) as pool:
        folder.mkdir(parents=True, exist_ok=True)
        _write_manifest(folder, plan, entries)
        tasks = []
        for name, span in todo.items():
            images, indices = source, span
            if isinstance(source, FolderSource):  # the names of a shard alone are quick to pickle
                images, indices = source.only(span), range(len(span))
            tasks.append(pool.submit(write_shard, folder / name, max_side, images, indices))
        for task in as_completed(tasks):
            entry = task.result()
            entries[entry["file"]] = entry
            _write_manifest(folder, plan, entries)
            print(f"{entry['file']}: {entry['count']} images, {len(entry['rejected'])} rejected")
    return list(entries.values())


@contextlib.contextmanager
def _open_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that ignore signals and end with this one."""
    # Not forked: threads of ArrayRecord or TFDS may hold locks.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, start_worker, (0, workers))
    try:
        yield pool
    except KeyboardInterrupt:  # do not wait for the shards that are being written
        for process in multiprocessing.active_children():
            process.kill()
        raise
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed; if memory ran out, pass fewer --workers. Finished "
            "shards are kept; rerun the command to continue"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def write_shard(path: Path, max_side: int, source: EncodedSource, indices: range) -> Entry:
    """Writes a shard, moves it into place when it is whole, and returns its entry."""
    from array_record.python.array_record_module import ArrayRecordWriter  # not on Windows

    temporary = path.with_name(f".{path.name}.tmp")  # a rerun replaces what a killed run left
    rejected = []
    try:
        with contextlib.closing(ArrayRecordWriter(str(temporary), OPTIONS)) as writer:
            for index in indices:
                try:
                    writer.write(encode_record(source, index, max_side))
                except UnusableFile as error:
                    rejected.append(str(error))
        size = temporary.stat().st_size
        temporary.replace(path)
    except RuntimeError as error:  # "write() failed: No space left on device; writing PATH; ..."
        if str(temporary) not in str(error):
            raise
        raise OSError(str(error).split(";")[0]) from None
    finally:
        temporary.unlink(missing_ok=True)
    count = len(indices) - len(rejected)
    return {"file": path.name, "count": count, "bytes": size, "rejected": rejected}


def encode_record(source: EncodedSource, index: int, max_side: int) -> bytes:
    """Returns the image file's own bytes, or shrinks it if a side exceeds `max_side` (0: never).

    A shrunk image is upright; PNG stays PNG, all else becomes JPEG of OpenCV's default quality, 95.
    Raises UnusableFile.
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
    return cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def _write_manifest(folder: Path, plan: dict[str, Any], entries: dict[str, Entry]) -> None:
    content = plan | {"entries": [entries[name] for name in sorted(entries)]}
    write_atomically(folder / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())


def _read_finished(folder: Path, plan: dict[str, Any]) -> dict[str, Entry]:
    """Returns the entries of finished shards. Raises UserError if `folder` holds others."""
    shards = [path for path in folder.glob("*" + SUFFIX) if path.is_file()]
    sizes = {path.name: path.stat().st_size for path in shards}
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        finished = {
            entry["file"]: entry
            for entry in manifest["entries"]
            if sizes.get(entry["file"]) == entry["bytes"]
        }
    except (FileNotFoundError, NotADirectoryError):
        if shards:
            raise UserError(
                f"{folder} holds other {SUFFIX} files, which would be trained on too; pass another "
                "--output"
            ) from None
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder / MANIFEST} is damaged; remove {folder} and run `prepare` again"
        ) from None
    for name, wanted in plan.items():
        if (found := manifest.get(name)) != wanted:
            what = {"images": "number of images", "fingerprint": "list of images"}.get(name, name)
            raise UserError(
                f"{folder} holds shards with another {what}: {found!r}, not {wanted!r}; pass the "
                "same source and flags or another --output, or remove that folder"
            )
    return finished


def check_shards(paths: list[str]) -> None:
    """Raises UserError unless `paths` are all shards of `prepare` in their folders, and no others.

    The shards' names say how many there are. Folders without any are not checked.
    """
    for folder in sorted({Path(path).parent for path in paths}):
        found = {Path(path).name for path in paths if Path(path).parent == folder}
        counts = [int(match[1]) for match in map(SHARD.fullmatch, found) if match]
        if not counts:
            continue
        expected = {shard_name(number, max(counts)) for number in range(max(counts))}
        if missing := expected - found:
            raise UserError(
                f"{folder / min(missing)} is missing or left out by the pattern; use all shards, "
                f"or run `prepare` again with --output {folder}"
            )
        if foreign := found - expected:
            raise UserError(f"{folder / min(foreign)} is no shard of `prepare`; move it away")
