"""Opens the sources that the config's ``data.source`` describes.

photos                    the photographs that ship with scikit-image
folder:PATH[:LIST]        all images below PATH, or those listed in the file LIST
tfds:NAME:SPLIT           a prepared TensorFlow dataset in array_record format
array_record:GLOB         encoded images, one per record
A|B                       the first that exists
"""

import glob
import os
from pathlib import Path

from glinpaint_jax.data.listing import EXTENSIONS
from glinpaint_jax.data.sources import (
    DAMAGE,
    EncodedSource,
    FolderSource,
    HoldOut,
    PhotoSource,
    RecordSource,
    Source,
    SourceNotFoundError,
)
from glinpaint_jax.errors import UserError

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
# Known folder layouts: training folder and list, validation folder and list. Without its list, all
# images of a folder are used.
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
MAX_HOLD_OUT = 0.1  # share of a source without a validation part


def open_sources(spec: str, eval_spec: str, eval_images: int) -> tuple[Source, dict[str, Source]]:
    """Returns the training source and the evaluation sources by name, the most important first.

    Without `eval_spec`, evaluates on the source's own validation part if it has one (for
    `photos`: held-out photographs and new crops of the training ones). Otherwise holds out
    `eval_images` records, at most a tenth; if there are fewer than 10, evaluates on new crops.

    Raises UserError if nothing is found; the message says where it looked and what to try.
    """
    train, evaluation = _first_existing(spec, "--config.data.source=", eval_images)
    if eval_spec:
        evaluation = {
            "val": _first_existing(eval_spec, "--config.data.eval_source=", eval_images)[0]
        }
    elif not evaluation:
        count = min(eval_images, int(MAX_HOLD_OUT * len(train)))
        if count == 0:
            return train, {"new_crops": train}
        whole, train = train, HoldOut(train, count, held_out=False)
        evaluation = {"held_out": HoldOut(whole, count, held_out=True)}
    return train, evaluation


def open_whole(spec: str) -> EncodedSource:
    """Returns all training images, with none held out. Raises UserError like `open_sources`."""
    return _first_existing(spec, "", 1)[0]


def _first_existing(spec: str, flag: str, eval_images: int) -> tuple[Source, dict[str, Source]]:
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
                    f"{flag}{alternative} holds no images ({', '.join(EXTENSIONS)}); put some "
                    "there or choose another source"
                )
        return train, evaluation
    raise UserError(
        f"no data for {flag}{spec}: {'; '.join(missing)}. Put images there, or pass "
        f"{flag}folder:PATH (any folder of images), tfds:NAME:SPLIT or array_record:GLOB; for a "
        f"quick try, {flag}photos (ships with scikit-image)"
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
        "array_record:GLOB, or several joined by |"
    )


def _open_folder(spec: str) -> tuple[Source, dict[str, Source]]:
    folder, _, list_name = spec.partition(":")
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise SourceNotFoundError(f"no folder {folder.absolute()}")
    if list_name:
        candidates = [folder / list_name, Path(list_name).expanduser()]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise SourceNotFoundError(f"no list file {' or '.join(map(str, candidates))}")
        return FolderSource(folder, found), {}
    for train_name, train_list, val_name, val_list in LAYOUTS:
        parts = (folder / train_name, folder / val_name)
        lists = (folder / train_list, folder / val_list)
        # If both parts share a folder, only the lists tell them apart.
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
        decoders = {"image": tfds.decode.SkipDecoding()}
        records = builder.as_data_source(split, decoders=decoders)
        return RecordSource(records, f"tfds {name}:{split}", key="image")

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
    train = open_split(split or "train")
    if "validation" in builder.info.splits and not split.startswith("validation"):
        return train, {"val": open_split("validation")}
    return train, {}


def _open_array_record(pattern: str) -> Source:
    from grain.sources import ArrayRecordDataSource

    paths = sorted(glob.glob(pattern))
    if not paths:
        raise SourceNotFoundError(f"no file matches {pattern}")
    try:
        return RecordSource(ArrayRecordDataSource(paths), pattern)
    except RuntimeError as error:
        if not str(error).startswith((*DAMAGE, "ArrayRecord")):
            raise
        raise UserError(
            f"one of the files {pattern} is damaged: {str(error).split(',')[0]}; "
            "find it with `python -m glinpaint_jax prepare --output DIR --check`"
        ) from None
