"""Image sources for tests, and ways to read from them."""

import io
import itertools
import warnings

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from glinpaint_jax.data.pipeline import train_batches


class Numbered:
    """Images filled with their own number."""

    def __init__(self, length):
        self._length = length

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        return np.full((40, 48, 3), index, np.uint8)

    def name(self, index):
        return f"image {index}"

    def fingerprint(self):
        return f"{self._length} numbers"


def take(source, config, batches, **share):
    share = {"start": 0, "local_batch_size": 4, "process": 0, "count": 1} | share
    return list(itertools.islice(train_batches(source, config, **share), batches))


def numbers(batches):
    return np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches]).tolist()


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def gradient(height=24, width=32):
    """A picture whose corners differ, so that every flip and rotation shows."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 8, columns * 7, np.full_like(rows, 90)], axis=-1).astype(np.uint8)


def encode(pixels, kind="PNG", **options):
    """The content of an image file, from an array or an image of PIL."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_reds(folder, count, side=40):
    """Writes red PNGs that are numbered by their color."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        Image.new("RGB", (side, side), (i, 0, 0)).save(folder / f"{i:03d}.png")


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    """Red images numbered within their split; made without tensorflow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(8, 8, 3))})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, manager):
        return {"train": self._examples(0, 3), "validation": self._examples(100, 2)}

    def _generate_examples(self, first, count):
        raise NotImplementedError

    def _examples(self, first, count):
        for i in range(first, first + count):
            # Encoded here: TFDS would use tensorflow to encode an array.
            yield i, {"image": io.BytesIO(encode(Image.new("RGB", (8, 8), (i, 0, 0))))}


def prepare_tiny_photos(folder, monkeypatch):
    """Returns the folder of the dataset's files."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from tfds
        TinyPhotos(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder / "tiny_photos" / "1.0.0"
