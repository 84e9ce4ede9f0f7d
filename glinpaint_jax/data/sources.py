"""Sources of photographs: random access to decoded uint8 RGB images. No jax."""

import functools
import hashlib
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from glinpaint_jax.errors import UserError

Image = UInt8[np.ndarray, "h w 3"]
DAMAGE = ("Corrupted", "Invalid")  # first words of ArrayRecord's errors on damaged data


@runtime_checkable
class Source(Protocol):
    """`source[i]` returns an image or raises UnusableFile; `name(i)` is for messages.

    `fingerprint()` identifies the images and their order, wherever they are, without reading them.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image: ...

    def name(self, index: int) -> str: ...

    def fingerprint(self) -> str: ...


class SourceNotFoundError(UserError):
    """The source does not exist."""


class UnusableFile(Exception):  # noqa: N818
    """A file that is no image or no usable mask; the message gives its name and the reason."""


def decode(encoded: bytes | np.ndarray, name: str) -> Image:
    """Decodes a JPEG, PNG, WebP, BMP or TIFF of any mode and depth to upright 8-bit RGB.

    Converts gray to RGB and 16 bits to 8, drops alpha, applies the EXIF orientation.
    """
    data = np.frombuffer(encoded, np.uint8)
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    except cv2.error as error:
        raise UnusableFile(f"{name}: {error.err}") from None
    if pixels is None:
        raise UnusableFile(f"{name}: not a whole JPEG, PNG, WebP, BMP or TIFF ({data.size} bytes)")
    return pixels


def digest(content: bytes | np.ndarray) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


@functools.cache
def _read_photo(name: str) -> Image:
    import skimage

    return decode((Path(skimage.__file__).parent / "data" / name).read_bytes(), name)


class PhotoSource:
    """Photographs that ship with scikit-image, decoded once and kept (a few megabytes).

    A `length` beyond their number repeats them in turn.
    """

    def __init__(self, names: tuple[str, ...], length: int | None = None):
        self._names = names
        self._length = length or len(names)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Image:
        return _read_photo(self._names[index % len(self._names)])

    def name(self, index: int) -> str:
        return f"scikit-image {self._names[index % len(self._names)]}"

    def fingerprint(self) -> str:
        return digest(repr((self._names, self._length)).encode())


class EncodedSource:
    """A source of encoded images: `encoded(i)` returns the bytes of an image."""

    def __getitem__(self, index: int) -> Image:
        return decode(self.encoded(index), self.name(index))


class RecordSource(EncodedSource):
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

    def encoded(self, index: int) -> bytes:
        try:
            record = self._records[index]
        except RuntimeError as error:
            if not str(error).startswith(DAMAGE):
                raise
            raise UnusableFile(f"{self.name(index)}: {str(error).split(',')[0]}") from None
        return record if self._key is None else record[self._key]

    def name(self, index: int) -> str:
        return f"{self._description} record {index}"

    def fingerprint(self) -> str:
        return digest(self._identity.encode())


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
        return digest(repr(identity).encode())
