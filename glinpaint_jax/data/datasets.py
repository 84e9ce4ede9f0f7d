"""Opens the sources that the config's ``data.source`` describes.

photos                    the photographs that ship with scikit-image
folder:PATH[:LIST]        the images below PATH, or those listed in the file LIST; see folders.py
tfds:NAME:SPLIT           a prepared TensorFlow dataset in array_record format
array_record:GLOB         encoded images, one per record; validation images in the subfolder val/
A|B                       the first that exists
"""

import contextlib
import glob
import os
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from glinpaint_jax.data.folders import EXTENSIONS, FolderSource, open_images, open_layout
from glinpaint_jax.data.shards import SUFFIX, VAL_FOLDER, check_shards
from glinpaint_jax.data.sources import (
    EncodedSource,
    HoldOut,
    PhotoSource,
    RecordSource,
    Source,
    SourceNotFoundError,
    UnusableFile,
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
CHECKED_IMAGES = 5  # for their bits


class Sources(NamedTuple):
    """Training images, and evaluation sets by name, the most important first."""

    train: Source
    evaluation: dict[str, Source]
    description: str  # one line: what was found where, and the numbers of images

    def fingerprints(self) -> dict[str, str]:
        """The number of images of each source and its fingerprint."""
        named = {"training images": self.train}
        named |= {f"evaluation images ({name})": source for name, source in self.evaluation.items()}
        return {name: f"{len(x)}, names {x.fingerprint()}" for name, x in named.items()}


def open_sources(spec: str, eval_spec: str, eval_images: int) -> Sources:
    """Opens the sources of a run.

    Without `eval_spec`, evaluates on the source's own validation images if it has some (for
    `photos`: held-out photographs and new crops of the training ones). Otherwise holds out 1,000
    records, at most a tenth; if there are fewer than 10, evaluates on new crops.
    Of a folder or shards in `eval_spec`, the validation images are used if there are any.
    `eval_images` is how many images of each set will be used.
    """
    train, evaluation, found = open_first(spec, "--config.data.source=", eval_images)
    eval_found = ""
    if eval_spec:
        opened = open_first(eval_spec, "--config.data.eval_source=", eval_images)
        # A TFDS dataset is evaluated on the split that is named.
        own = {} if opened.description.startswith("tfds:") else opened.evaluation
        val = own.get("val", opened.train)
        evaluation, eval_found = {"val": val}, f" from {opened.description}"
        if val.name(0) == train.name(0) and val.fingerprint() == train.fingerprint():
            warnings.warn("data.eval_source holds the training images", stacklevel=2)
    elif not evaluation:
        count = min(HELD_OUT, int(MAX_HELD_OUT * len(train)))
        if count == 0:
            evaluation = {"new_crops": train}
        else:
            evaluation = {"held_out": HoldOut(train, count, held_out=True)}
            train = HoldOut(train, count, held_out=False)
    sets = ", ".join(
        f"{name} {min(eval_images, len(source))}"
        + f" of {len(source)}" * (len(source) > eval_images)
        for name, source in evaluation.items()
    )
    description = f"{found}: {len(train)} training images; evaluation: {sets}{eval_found}"
    return Sources(train, evaluation, description)


def warn_if_12_bits(source: EncodedSource) -> None:
    """Warns if a few 16-bit images have no more than 12 bits: shown in 8, they are black."""
    checked, values = min(len(source), CHECKED_IMAGES), []
    for number in range(checked):  # evenly spaced
        with contextlib.suppress(UnusableFile, cv2.error):
            content = np.frombuffer(source.encoded(number * len(source) // checked), np.uint8)
            pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
            if pixels is None:
                continue
            if pixels.dtype != np.uint16 or pixels.max() >= 2**12:
                return
            values.append(pixels.max())
    if values:
        warnings.warn(
            f"16-bit images are nearly black, such as {source.name(0)}: at most {max(values)} of "
            "65535; if they have 12 bits, multiply their values by 16",
            stacklevel=3,
        )


def open_first(spec: str, flag: str = "", eval_images: int = 1) -> Sources:
    """Opens the first alternative that exists, with the validation images that it has itself.

    `flag` is for messages.
    """
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
                    f"{flag}{alternative} holds no images{split}; put {', '.join(EXTENSIONS)} there"
                )
        if isinstance(opened.train, EncodedSource):
            warn_if_12_bits(opened.train)
        details = f" ({opened.description})" if opened.description else ""
        return opened._replace(description=alternative + details)
    raise UserError(
        f"no data for {flag}{spec}: {'; '.join(missing)}. Put images there, or pass "
        f"{flag}folder:PATH, tfds:NAME:SPLIT or array_record:GLOB; for a quick try, {flag}photos"
    )


def _open(spec: str, eval_images: int) -> Sources:
    kind, _, rest = spec.partition(":")
    if kind == "photos" and not rest:
        evaluation = {
            "held_out": PhotoSource(HELD_OUT_PHOTOS, eval_images),
            "new_crops": PhotoSource(TRAINING_PHOTOS, eval_images),
        }
        return Sources(PhotoSource(TRAINING_PHOTOS), evaluation, "")
    openers = {"folder": _open_folder, "tfds": _open_tfds, "array_record": _open_shards}
    if kind not in openers or not rest:
        raise UserError(
            f"data source is {spec!r}, must be photos, folder:PATH[:LIST], tfds:NAME:SPLIT or "
            "array_record:GLOB, or several joined by |"
        )
    path = os.environ.get("TFDS_DATA_DIR", "") if kind == "tfds" else rest
    if in_bucket(path):  # neither array_record nor OpenCV reads from one
        mount = "gcsfuse" if path.startswith("gs:") else "mount-s3"
        raise UserError(
            f"data cannot be read from the bucket {path}; mount it, `{mount} {path.split('/')[2]} "
            "FOLDER`, and pass the path below FOLDER"
        )
    train, val, description = openers[kind](rest)
    return Sources(train, {} if val is None else {"val": val}, description)


def _open_folder(spec: str) -> tuple[FolderSource, FolderSource | None, str]:
    words = os.path.expanduser(spec).split(":")
    for count in range(len(words), 0, -1):  # the name of a folder may contain colons
        folder, list_name = Path(":".join(words[:count])), ":".join(words[count:])
        if os.path.isdir(folder):  # Path.is_dir raises for long names
            break
    else:
        raise SourceNotFoundError(f"no folder {folder.absolute()}")
    if list_name:
        return open_images(folder, list_name), None, ""
    train, val, description = open_layout(folder)
    left_out = train.left_out + (val.left_out if val else Counter())
    counts = ", ".join(f"{what} ({count})" for what, count in left_out.items())
    return train, val, description + f"; left out: {counts}" * bool(counts)


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
        if not builder.is_prepared():
            raise SourceNotFoundError(f"no prepared TFDS {name} at {builder.data_dir}")
        train = open_split(split or "train")
    except ValueError as error:  # such as "Unknown split 'test'. Should be one of ['train', 'val']"
        raise UserError(f"tfds:{spec}: {str(error).splitlines()[0]}") from None
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


def _open_shards(pattern: str) -> tuple[Source, Source | None, str]:
    pattern = os.path.expanduser(pattern)
    val_pattern = os.path.join(os.path.dirname(pattern), VAL_FOLDER, f"*{SUFFIX}")
    train = _read_shards(pattern)
    if not glob.glob(val_pattern):
        return train, None, ""
    return train, _read_shards(val_pattern), f"validation part: {val_pattern}"


def _read_shards(pattern: str) -> Source:
    from grain.sources import ArrayRecordDataSource

    paths = sorted(filter(os.path.isfile, glob.glob(pattern)))  # no broken links
    if not paths:
        raise SourceNotFoundError(f"no file matches {pattern}")
    check_shards(paths)
    identity = repr([(os.path.basename(path), os.path.getsize(path)) for path in paths])
    try:
        return RecordSource(ArrayRecordDataSource(paths), pattern, identity)
    except RuntimeError as error:  # such as "Invalid metadata; while reading ..."
        raise UserError(
            f"one of the files {pattern} is damaged: {str(error).split(',')[0]}; write it again"
        ) from None
