"""Sources of photographs: random access to decoded uint8 RGB images. No jax."""

import copy
import functools
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from glinpaint_jax.data.listing import SourceNotFoundError, find_base, find_images, read_list

Image = UInt8[np.ndarray, "h w 3"]
DAMAGE = ("Corrupted", "Invalid")  # first words of ArrayRecord's errors on damaged data


@runtime_checkable
class Source(Protocol):
    """`source[i]` returns an image or raises UndecodableImage; `name(i)` is for messages.

    `fingerprint()` identifies the images and their order, wherever they are, without reading them.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image: ...

    def name(self, index: int) -> str: ...

    def fingerprint(self) -> str: ...


class UndecodableImage(Exception):  # noqa: N818
    """A record that is not an image; the message gives its name and the reason."""


def decode(encoded: bytes | np.ndarray, name: str) -> Image:
    """Decodes a JPEG, PNG, WebP, BMP or TIFF of any mode and depth to upright 8-bit RGB.

    Converts gray to RGB and 16 bits to 8, drops alpha, applies the EXIF orientation.
    """
    data = np.frombuffer(encoded, np.uint8)
    pixels = None
    if data.size:
        try:
            pixels = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        except cv2.error as error:
            raise UndecodableImage(f"{name}: {error.err}") from None
    if pixels is None:
        raise UndecodableImage(
            f"{name}: not a whole JPEG, PNG, WebP, BMP or TIFF ({data.size} bytes)"
        )
    return pixels


def _digest(content: bytes | np.ndarray) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _read_photo(name: str) -> bytes:
    import skimage

    return (Path(skimage.__file__).parent / "data" / name).read_bytes()


@functools.cache
def _decode_photo(name: str) -> Image:
    return decode(_read_photo(name), name)


class PhotoSource:
    """Photographs that ship with scikit-image, decoded once and kept (a few megabytes).

    A `length` beyond their number repeats them in turn.
    """

    def __init__(self, names: tuple[str, ...], length: int | None = None):
        self._names = names
        self._length = length or len(names)
        self._images = [_decode_photo(name) for name in names]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Image:
        return self._images[index % len(self._images)]

    def encoded(self, index: int) -> bytes:
        return _read_photo(self._names[index % len(self._names)])

    def name(self, index: int) -> str:
        return f"scikit-image {self._names[index % len(self._names)]}"

    def fingerprint(self) -> str:
        return _digest(repr((self._names, self._length)).encode())


class FolderSource:
    """Image files below a folder, in sorted order or in the order of a list file.

    Names are kept in a fixed-width array, as wide as the longest: compact to keep and to pickle,
    even with millions.
    """

    def __init__(self, folder: Path, list_file: Path | None = None):
        if not folder.is_dir():
            raise SourceNotFoundError(f"no folder {folder}")
        self.folder = folder
        self.left_out = Counter()  # numbers of things that `find_images` does not list
        names = read_list(list_file) if list_file else find_images(folder, self.left_out)
        self._names = np.array([os.fsencode(name) for name in names], dtype="S")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Image:
        return decode(self.encoded(index), self.name(index))

    def encoded(self, index: int) -> bytes:
        name = self.name(index)
        try:
            return Path(name).read_bytes()
        except OSError as error:
            raise UndecodableImage(f"{name}: {error.strerror}") from None

    def name(self, index: int) -> str:
        return str(self.folder / os.fsdecode(self._names[index]))

    def fingerprint(self) -> str:
        # Not sizes: on a network disk, asking for those of a million files takes minutes.
        return _digest(self._names.view(np.uint8))

    def folders(self) -> Iterator[str]:
        """Yields the folders of the images, relative to this one."""
        for folder, _ in itertools.groupby(self._names, os.path.dirname):
            yield os.fsdecode(folder)

    def only(self, indices: range) -> "FolderSource":
        """Returns a source of consecutive images alone, which is quick to pickle."""
        fewer = copy.copy(self)
        fewer._names = self._names[indices.start : indices.stop]
        return fewer


def open_listed(folders: list[Path], list_file: Path) -> FolderSource:
    """The images of a list, relative to the first of the folders that holds them."""
    return FolderSource(find_base(folders, list_file), list_file)


class RecordSource:
    """Encoded images in ArrayRecord files or a TensorFlow dataset.

    `identity` is what its fingerprint is made of.
    """

    def __init__(self, records: Any, description: str, identity: str, key: str | None = None):
        self._records = records
        self._description = description
        self._identity = identity
        self._key = key

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Image:
        return decode(self.encoded(index), self.name(index))

    def encoded(self, index: int) -> bytes:
        try:
            record = self._records[index]
        except RuntimeError as error:
            if not str(error).startswith(DAMAGE):
                raise
            raise UndecodableImage(f"{self.name(index)}: {str(error).split(',')[0]}") from None
        return record if self._key is None else record[self._key]

    def name(self, index: int) -> str:
        return f"{self._description} record {index}"

    def fingerprint(self) -> str:
        return _digest(self._identity.encode())


# Sources of image files: `encoded(i)` returns the bytes of one or raises UndecodableImage.
EncodedSource = PhotoSource | FolderSource | RecordSource


class HoldOut:
    """One half of a source split in two: `count` evenly spaced records, or all the others."""

    def __init__(self, source: Source, count: int, *, held_out: bool):
        self._source = source
        self.folder = getattr(source, "folder", None)
        self._count = count
        self._stride = len(source) // count
        self._held_out = held_out

    def __len__(self) -> int:
        return self._count if self._held_out else len(self._source) - self._count

    def _map_index(self, index: int) -> int:
        if self._held_out:
            return index * self._stride
        # The first record of each stride is held out, `count` in all.
        return index + min(index // (self._stride - 1) + 1, self._count)

    def __getitem__(self, index: int) -> Image:
        return self._source[self._map_index(index)]

    def name(self, index: int) -> str:
        return self._source.name(self._map_index(index))

    def fingerprint(self) -> str:
        identity = (self._source.fingerprint(), self._count, self._held_out)
        return _digest(repr(identity).encode())
