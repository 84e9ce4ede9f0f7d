"""Where photographs come from: random access to decoded uint8 RGB images. No jax.

A source has ``len(source)``, ``source[i]`` (uint8 [h, w, 3], or UndecodableImage) and
``source.name(i)``. It is described by a string, the config's ``data.source``:

    photos                    the photographs that ship with scikit-image
    folder:PATH[:LIST]        all images below PATH, or those that the file LIST names
    tfds:NAME:SPLIT           a prepared TensorFlow dataset in array_record format
    array_record:GLOB         encoded images, one a record
    A|B                       the first of several that exists
"""

import glob
import os
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from jaxtyping import UInt8

from glinpaint_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Photographs among scikit-image's pictures; the others are drawings, text, cells and textures.
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
# Folders with parts of their own: training folder and list, validation folder and list. A list
# may be missing, in which case all the images of the folder are taken.
LAYOUTS = (
    (
        "data_large",
        "meta/places365_train_challenge.txt",
        "val_large",
        "meta/places365_val.txt",
    ),
    ("data_large", "train_celeba_img_list.txt", "data_large", "val_celeba_img_list.txt"),
    ("train", "", "val", ""),
)
MAX_HOLD_OUT = 0.1  # share of a source without a validation part that evaluation may take

Image = UInt8[np.ndarray, "h w 3"]


class Source(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image: ...

    def name(self, index: int) -> str: ...


class SourceNotFoundError(UserError):
    """Nothing lies where the source should be."""


class UndecodableImage(Exception):  # noqa: N818
    """A record that is no image; the message says which and why."""


def decode(encoded: bytes | np.ndarray, name: str) -> Image:
    """JPEG, PNG, WebP or BMP of any mode and depth -> upright 8-bit RGB.

    Grey becomes RGB, alpha is dropped, 16 bits become 8, the EXIF orientation is applied.
    """
    data = np.frombuffer(encoded, np.uint8)
    pixels = None
    if data.size:
        try:
            pixels = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        except cv2.error as error:
            raise UndecodableImage(f"{name}: {error.err}") from None
    if pixels is None:
        raise UndecodableImage(f"{name}: not a whole JPEG, PNG, WebP or BMP ({data.size} bytes)")
    return pixels


class PhotoSource:
    """Photographs shipped with scikit-image, decoded once and kept: a few megabytes.

    `length` beyond their number repeats them in turn.
    """

    def __init__(self, names: tuple[str, ...], length: int | None = None):
        import skimage

        folder = Path(skimage.__file__).parent / "data"
        self._names = names
        self._length = length or len(names)
        self._images = [decode((folder / name).read_bytes(), name) for name in names]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Image:
        return self._images[index % len(self._images)]

    def name(self, index: int) -> str:
        return f"scikit-image {self._names[index % len(self._names)]}"


class FolderSource:
    """Image files below a folder, in sorted order, or in the order of a list file."""

    def __init__(self, folder: Path, list_file: Path | None = None):
        if not folder.is_dir():
            raise SourceNotFoundError(f"no folder {folder}")
        self._folder = folder
        self._paths = _listed(folder, list_file) if list_file else _found(folder)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Image:
        name = self.name(index)
        try:
            encoded = Path(name).read_bytes()
        except OSError as error:
            raise UndecodableImage(f"{name}: {error.strerror}") from None
        return decode(encoded, name)

    def name(self, index: int) -> str:
        return str(self._folder / self._paths[index])


class RecordSource:
    """Encoded images in ArrayRecord files or a TensorFlow dataset."""

    def __init__(self, records: Any, description: str, key: str | None = None):
        self._records = records
        self._description = description
        self._key = key

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Image:
        record = self._records[index]
        return decode(record if self._key is None else record[self._key], self.name(index))

    def name(self, index: int) -> str:
        return f"{self._description} record {index}"


class HoldOut:
    """One side of a source divided in two: every stride-th record, `count` of them, or the rest."""

    def __init__(self, source: Source, count: int, *, held_out: bool):
        self._source = source
        self._count = count
        self._stride = len(source) // count
        self._held_out = held_out

    def __len__(self) -> int:
        return self._count if self._held_out else len(self._source) - self._count

    def _position(self, index: int) -> int:
        if self._held_out:
            return index * self._stride
        # Of each stride the first record is held out, until `count` of them are.
        return index + min(index // (self._stride - 1) + 1, self._count)

    def __getitem__(self, index: int) -> Image:
        return self._source[self._position(index)]

    def name(self, index: int) -> str:
        return self._source.name(self._position(index))


def open_sources(spec: str, eval_spec: str, eval_images: int) -> tuple[Source, dict[str, Source]]:
    """The training source, and the evaluation sources by name, the most telling one first.

    Without `eval_spec` the source's own validation part is evaluated: a folder's or TFDS dataset's
    validation split; for the photographs, held-out ones and new crops of the training ones. Of
    any other source `eval_images` records, at most a tenth, are held out of training; of one with
    fewer than 10 records new crops are evaluated.

    Raises UserError that says where it looked and how to go on.
    """
    train, evaluation = _first_existing(spec, "source", eval_images)
    if eval_spec:
        evaluation = {"val": _first_existing(eval_spec, "eval_source", eval_images)[0]}
    elif not evaluation:
        count = min(eval_images, int(MAX_HOLD_OUT * len(train)))
        if count == 0:
            return train, {"new_crops": train}
        whole, train = train, HoldOut(train, count, held_out=False)
        evaluation = {"held_out": HoldOut(whole, count, held_out=True)}
    return train, evaluation


def _first_existing(spec: str, field: str, eval_images: int) -> tuple[Source, dict[str, Source]]:
    missing = []
    for alternative in spec.split("|"):
        try:
            train, evaluation = _open(alternative.strip(), eval_images)
        except SourceNotFoundError as error:
            missing.append(str(error))
            continue
        for source in (train, *evaluation.values()):
            if len(source) == 0:
                raise UserError(
                    f"config.data.{field}={alternative} holds no images "
                    f"({', '.join(EXTENSIONS)}); put some there or pass another --config.data."
                    f"{field}"
                )
        return train, evaluation
    raise UserError(
        f"no data for config.data.{field}={spec}: {'; '.join(missing)}. Put images there, or pass "
        f"--config.data.{field}=folder:PATH (any folder of images), tfds:NAME:SPLIT, "
        "array_record:GLOB, or photos (the photographs that come with scikit-image, to try out)"
    )


def _open(spec: str, eval_images: int) -> tuple[Source, dict[str, Source]]:
    kind, _, rest = spec.partition(":")
    if kind == "photos" and not rest:
        evaluation = {
            "held_out": PhotoSource(HELD_OUT_PHOTOS, eval_images),
            "new_crops": PhotoSource(TRAINING_PHOTOS, eval_images),
        }
        return PhotoSource(TRAINING_PHOTOS), evaluation
    if kind == "folder" and rest:
        return _open_folder(rest)
    if kind == "tfds" and rest:
        return _open_tfds(rest)
    if kind == "array_record" and rest:
        return _open_array_record(rest), {}
    raise UserError(
        f"data source is {spec!r}, must be photos, folder:PATH[:LIST], tfds:NAME:SPLIT or "
        "array_record:GLOB, or several of them joined by |"
    )


def _open_folder(spec: str) -> tuple[Source, dict[str, Source]]:
    folder, _, list_name = spec.partition(":")
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise SourceNotFoundError(f"no folder {folder.absolute()}")
    if list_name:
        # The list may lie in the folder or anywhere else.
        candidates = [folder / list_name, Path(list_name).expanduser()]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise SourceNotFoundError(f"no list file {' or '.join(map(str, candidates))}")
        return FolderSource(folder, found), {}
    for train_name, train_list, val_name, val_list in LAYOUTS:
        parts = (folder / train_name, folder / val_name)
        lists = (folder / train_list, folder / val_list)
        # One folder for both parts needs the lists to tell them apart.
        if all(part.is_dir() for part in parts) and (
            train_name != val_name or all(path.is_file() for path in lists)
        ):
            train, val = (
                FolderSource(part, path if path.is_file() else None)
                for part, path in zip(parts, lists, strict=True)
            )
            return train, {"val": val}
    return FolderSource(folder), {}


def _open_tfds(spec: str) -> tuple[Source, dict[str, Source]]:
    name, _, split = spec.partition(":")
    import tensorflow_datasets as tfds

    def open_split(split: str) -> Source:
        records = tfds.data_source(
            name, split=split, decoders={"image": tfds.decode.SkipDecoding()}, download=False
        )
        return RecordSource(records, f"tfds {name}:{split}", key="image")

    try:
        builder = tfds.builder(name)
    except tfds.core.registered.DatasetNotFoundError:
        raise UserError(f"TFDS knows no dataset {name!r}; see `tfds.list_builders()`") from None
    if not builder.is_prepared():
        raise SourceNotFoundError(f"no prepared TFDS {name} at {builder.data_dir}")
    train = open_split(split or "train")
    if "validation" in builder.info.splits and not split.startswith("validation"):
        return train, {"val": open_split("validation")}
    return train, {}


def _open_array_record(pattern: str) -> Source:
    from grain.sources import ArrayRecordDataSource

    paths = sorted(glob.glob(pattern))
    if not paths:
        raise SourceNotFoundError(f"no file matches {pattern}")
    return RecordSource(ArrayRecordDataSource(paths), pattern)


def _found(folder: Path) -> list[str]:
    """Images below `folder`, relative to it, sorted; links to folders are followed."""
    paths = []
    for parent, _, names in os.walk(folder, followlinks=True):
        prefix = os.path.relpath(parent, folder)
        paths += [
            os.path.normpath(os.path.join(prefix, name))
            for name in names
            if name.lower().endswith(EXTENSIONS)
        ]
    return sorted(paths)


def _listed(folder: Path, list_file: Path) -> list[str]:
    """First words of the list's lines (MMagic and Places365 append labels), relative to `folder`.

    Places365 writes a slash in front of its paths; they are below the folder all the same.
    """
    lines = list_file.read_text().splitlines()
    paths = [line.split()[0].lstrip("/") for line in lines if line.strip()]
    if paths and not (folder / paths[0]).is_file():
        raise UserError(
            f"{list_file} names {paths[0]}, which is not in {folder}; its lines are paths "
            "relative to that folder"
        )
    return paths
