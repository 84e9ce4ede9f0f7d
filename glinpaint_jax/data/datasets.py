"""Opens the sources that the config's ``data.source`` describes.

photos                    the photographs that ship with scikit-image
folder:PATH[:LIST]        the images below PATH, or those listed in the file LIST; see layouts.py
tfds:NAME:SPLIT           a prepared TensorFlow dataset in array_record format
array_record:GLOB         encoded images, one per record; validation images in the subfolder val/
A|B                       the first that exists
"""

import glob
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from glinpaint_jax.data.layouts import open_layout
from glinpaint_jax.data.listing import EXTENSIONS, SourceNotFoundError, find_list
from glinpaint_jax.data.sources import (
    EncodedSource,
    HoldOut,
    PhotoSource,
    RecordSource,
    Source,
    open_listed,
)
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import in_bucket

# scikit-image's other pictures are drawings, text, cells and textures.
TRAINING_PHOTOS = (
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "coffee.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
)
HELD_OUT_PHOTOS = ("camera.png", "coins.png", "rocket.jpg")
# Of a source without validation images, so many images are held out, but at most this share. Not a
# setting: a run's training images must never count as held out.
HELD_OUT, MAX_HELD_OUT = 1000, 0.1


class Sources(NamedTuple):
    """Training images, and evaluation sets by name, the most important first."""

    train: Source
    evaluation: dict[str, Source]
    description: str  # one line: what was found where, and the numbers of images

    def fingerprints(self) -> dict[str, str]:
        """The number of images of each source and its fingerprint."""
        named = {"training images": self.train} | {
            f"evaluation images ({name})": source for name, source in self.evaluation.items()
        }
        return {name: f"{len(x)}, names {x.fingerprint()}" for name, x in named.items()}


def open_sources(spec: str, eval_spec: str, eval_images: int) -> Sources:
    """Opens the sources of a run.

    Without `eval_spec`, evaluates on the source's own validation images if it has some (for
    `photos`: held-out photographs and new crops of the training ones). Otherwise holds out 1,000
    records, at most a tenth; if there are fewer than 10, evaluates on new crops.
    Of a folder or shards in `eval_spec`, the validation images are used if there are any.
    `eval_images` is how many images of each set will be used.

    Raises UserError if nothing is found; the message says where it looked and what to try.
    """
    train, evaluation, found = _first_existing(spec, "--config.data.source=", eval_images)
    eval_found = ""
    if eval_spec:
        opened = _first_existing(eval_spec, "--config.data.eval_source=", eval_images)
        # A TFDS dataset is evaluated on the split that is named.
        own = {} if opened.description.startswith("tfds:") else opened.evaluation
        evaluation = {"val": own.get("val", opened.train)}
        eval_found = f" from {opened.description}"
    elif not evaluation:
        count = min(HELD_OUT, int(MAX_HELD_OUT * len(train)))
        if count == 0:
            evaluation = {"new_crops": train}
        else:
            whole, train = train, HoldOut(train, count, held_out=False)
            evaluation = {"held_out": HoldOut(whole, count, held_out=True)}
    sets = ", ".join(
        f"{name} {min(eval_images, len(source))}"
        + f" of {len(source)}" * (len(source) > eval_images)
        for name, source in evaluation.items()
    )
    description = f"{found}: {len(train)} training images; evaluation: {sets}{eval_found}"
    return Sources(train, evaluation, description)


def open_splits(spec: str) -> tuple[EncodedSource, EncodedSource | None]:
    """Returns all training images, and the validation images if there are any.

    Raises UserError like `open_sources`.
    """
    opened = _first_existing(spec, "", 1)
    return opened.train, opened.evaluation.get("val")


def _first_existing(spec: str, flag: str, eval_images: int) -> Sources:
    """The sources as they are; `description` is the alternative that exists, with details."""
    missing = []
    for alternative in map(str.strip, spec.split("|")):
        try:
            opened = _open(alternative, eval_images)
        except SourceNotFoundError as error:
            missing.append(str(error))
            continue
        for source in (opened.train, *opened.evaluation.values()):
            if len(source) == 0:
                split = "" if source is opened.train else " in its validation part"
                raise UserError(
                    f"{flag}{alternative} holds no images{split} ({', '.join(EXTENSIONS)}); put "
                    "some there or choose another source"
                )
        details = f" ({opened.description})" if opened.description else ""
        return opened._replace(description=alternative + details)
    raise UserError(
        f"no data for {flag}{spec}: {'; '.join(missing)}. Put images there, or pass "
        f"{flag}folder:PATH (any folder of images), tfds:NAME:SPLIT or array_record:GLOB; for a "
        f"quick try, {flag}photos (ships with scikit-image)"
    )


def _open(spec: str, eval_images: int) -> Sources:
    kind, _, rest = spec.partition(":")
    if kind == "photos" and not rest:
        evaluation = {
            "held_out": PhotoSource(HELD_OUT_PHOTOS, eval_images),
            "new_crops": PhotoSource(TRAINING_PHOTOS, eval_images),
        }
        return Sources(PhotoSource(TRAINING_PHOTOS), evaluation, "")
    openers = {
        "folder": _open_folder,
        "tfds": _open_tfds,
        "array_record": _open_array_record,
    }
    if kind not in openers or not rest:
        raise UserError(
            f"data source is {spec!r}, must be photos, folder:PATH[:LIST], tfds:NAME:SPLIT or "
            "array_record:GLOB, or several joined by |"
        )
    _require_on_disk(os.environ.get("TFDS_DATA_DIR", "") if kind == "tfds" else rest)
    train, val, description = openers[kind](rest)
    left_out = sum((getattr(source, "left_out", Counter()) for source in (train, val)), Counter())
    if left_out:
        counts = ", ".join(f"{what} ({count})" for what, count in left_out.items())
        description = f"{description}; left out: {counts}".removeprefix("; ")
    return Sources(train, {} if val is None else {"val": val}, description)


def _require_on_disk(path: str) -> None:
    """Raises UserError for a bucket: neither array_record nor OpenCV read from one."""
    if in_bucket(path):
        mount = "gcsfuse" if path.startswith("gs:") else "mount-s3"
        bucket = path.split("/")[2]
        raise UserError(
            f"data cannot be read from the bucket {path}; mount it, `{mount} {bucket} FOLDER`, "
            "and pass the path below FOLDER, or copy the data to a disk"
        )


def _open_folder(spec: str) -> tuple[Source, Source | None, str]:
    folder, list_name = _split_list(spec)
    if not list_name:
        return open_layout(folder)
    return open_listed([folder], find_list(folder, list_name)), None, ""


def _split_list(spec: str) -> tuple[Path, str]:
    """Splits PATH:LIST after the longest PATH that is a folder, since names may contain colons."""
    words = spec.split(":")
    for count in range(len(words), 0, -1):
        folder = Path(":".join(words[:count])).expanduser()
        if folder.is_dir():
            return folder, ":".join(words[count:])
    raise SourceNotFoundError(f"no folder {Path(words[0]).expanduser().absolute()}")


def _open_tfds(spec: str) -> tuple[Source, Source | None, str]:
    name, _, split = spec.partition(":")
    import tensorflow_datasets as tfds

    def open_split(split: str) -> Source:
        decoders = {"image": tfds.decode.SkipDecoding()}
        records = builder.as_data_source(split, decoders=decoders)
        files = builder.info.splits[split].file_instructions
        parts = [(os.path.basename(file.filename), file.skip, file.take) for file in files]
        identity = repr((builder.info.full_name, parts))
        return RecordSource(records, f"tfds {name}:{split}", identity, key="image")

    try:
        builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except tfds.core.registered.DatasetNotFoundError:
        raise UserError(f"TFDS has no dataset {name!r}; see `tfds.list_builders()`") from None
    if not builder.is_prepared():
        raise SourceNotFoundError(f"no prepared TFDS {name} at {builder.data_dir}")
    if split and split.partition("[")[0] not in builder.info.splits:
        raise UserError(
            f"TFDS {name} has no split {split!r}, only {', '.join(builder.info.splits)}"
        )
    try:
        train = open_split(split or "train")
    except NotImplementedError:
        raise UserError(
            f"{builder.data_dir} holds {builder.info.file_format.value} files, which allow no "
            'random access; prepare the dataset again in another folder DIR: python -c "import '
            f"tensorflow_datasets as tfds; tfds.builder('{name}', data_dir='DIR')"
            ".download_and_prepare(file_format='array_record')\", then set TFDS_DATA_DIR=DIR"
        ) from None
    if split.partition("[")[0] in ("", "train") and "validation" in builder.info.splits:
        return train, open_split("validation"), ""
    return train, None, ""


def _open_array_record(pattern: str) -> tuple[Source, Source | None, str]:
    from glinpaint_jax.data.shards import SUFFIX, VAL_FOLDER

    paths = sorted(glob.glob(pattern))
    if not paths:
        raise SourceNotFoundError(f"no file matches {pattern}")
    val_pattern = os.path.join(os.path.dirname(pattern), VAL_FOLDER, f"*{SUFFIX}")
    val_paths = sorted(glob.glob(val_pattern))
    val = _open_shards(val_paths, val_pattern) if val_paths else None
    return _open_shards(paths, pattern), val, f"validation part: {val_pattern}" if val else ""


def _open_shards(paths: list[str], pattern: str) -> Source:
    from grain.sources import ArrayRecordDataSource

    from glinpaint_jax.data.shards import check_shards

    check_shards(paths)
    identity = repr([(os.path.basename(path), os.path.getsize(path)) for path in paths])
    try:
        return RecordSource(ArrayRecordDataSource(paths), pattern, identity)
    except RuntimeError as error:  # such as "Invalid metadata; while reading ..."
        raise UserError(
            f"one of the files {pattern} is damaged: {str(error).split(',')[0]}; write it again"
        ) from None
