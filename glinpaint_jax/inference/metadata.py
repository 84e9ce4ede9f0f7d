"""What a photograph's file says besides its pixels: what is kept, corrected or dropped.

Previews are dropped, because they still show what was removed.
"""

import io
import math
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.ExifTags
import PIL.Image
import PIL.PngImagePlugin

# Named as in PIL's info, besides "iptc", "text", "colors", "lossless" and "lost": names of what
# cannot be kept although somebody may miss it.
Metadata = dict[str, Any]

Tag = PIL.ExifTags.Base
DESCRIPTIVE_TAGS = (  # of a TIFF file; others say how its pixels are stored
    *("DocumentName", "ImageDescription", "Make", "Model", "Software", "DateTime", "Artist"),
    *("Copyright", "ExifOffset", "GPSInfo"),
)
XMP_TAG, IPTC_TAG = 700, 33723  # of TIFF
IPTC_RESOURCE = 0x0404  # of Photoshop's block in JPEG
JPEG_START = b"\xff\xd8\xff"
# Text chunks of PNG that hold XMP and, as ImageMagick writes it, EXIF.
XMP_CHUNK, EXIF_CHUNK = "XML:com.adobe.xmp", "Raw profile type exif"
COLOR_CHUNKS = (b"cICP", b"gAMA", b"cHRM", b"sRGB")  # of PNG: how its colors are shown
LOSSLESS = ("PNG", "TIFF", "BMP")
ADOBE, GOOGLE = b"http://ns.adobe.com/", b"http://ns.google.com/photos/1.0/"
# What XMP says of data that is not kept: namespace, names in it, what it is about.
CLAIMS = (
    (ADOBE + b"xap/1.0/", b"Thumbnails", ""),
    (ADOBE + b"xmp/note/", b"HasExtendedXMP", ""),
    (ADOBE + b"hdr-gain-map/1.0/", rb"\w+", "gain map"),
    (b"http://ns.apple.com/HDRGainMap/1.0/", rb"\w+", "gain map"),
    (GOOGLE + b"camera/", rb"(?:MotionPhoto|MicroVideo)\w*", "video"),
    (GOOGLE + b"container/", b"Directory", ""),
    (GOOGLE + b"depthmap/", rb"\w+", "depth map"),
    (GOOGLE + b"image/", rb"\w+", ""),
)


def read_metadata(image: PIL.Image.Image, upright: PIL.Image.Image, source: Any) -> Metadata:
    """Reads what is to be kept. `upright` is the image after its orientation has been applied.

    `source` is its path or content, if it has one.
    """
    info, texts, chunks = upright.info, getattr(image, "text", {}), {}
    if image.format in ("PNG", "WEBP") and isinstance(source, str | Path | io.BytesIO):
        chunks = dict(_read_chunks(source))
    xmp, lost = _without_claims(info.get("xmp", b""))
    if image.format == "MPO" and not lost:
        lost = ["further pictures"]
    dpi = info.get("dpi", ())
    # A resolution of 0/0 in a TIFF file is NaN, which no format can store.
    has_dpi = all(math.isfinite(value) and value > 0 for value in dpi)
    metadata = {
        "icc_profile": info.get("icc_profile"),
        "dpi": dpi if has_dpi else None,
        "xmp": xmp,
        "comment": info.get("comment"),
        "exif": _read_exif(image, upright),
        "iptc": _read_iptc(image),
        "text": {name: texts[name] for name in texts if name not in (XMP_CHUNK, EXIF_CHUNK)},
        "colors": {name: chunks[name] for name in COLOR_CHUNKS if name in chunks},
        "lossless": image.format in LOSSLESS or b"VP8L" in chunks,
        "lost": lost,
    }
    return {name: value for name, value in metadata.items() if value}


def _read_exif(image: PIL.Image.Image, upright: PIL.Image.Image) -> bytes | None:
    """The EXIF data, for the upright image, without previews; None if there is none."""
    exif = PIL.Image.Exif()  # a copy, because the image may be the caller's
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tags with unusual types
        exif.load(image.getexif().tobytes())
    for tag in list(exif):
        if image.format == "TIFF" and PIL.ExifTags.TAGS.get(tag) not in DESCRIPTIVE_TAGS:
            del exif[tag]
    if Tag.Orientation in exif:
        exif[Tag.Orientation] = 1  # if it were missing, an outdated one in XMP would apply
    details = exif.get_ifd(Tag.ExifOffset) if Tag.ExifOffset in exif else {}
    for directory, width, height in (
        (exif, Tag.ImageWidth, Tag.ImageLength),
        (details, Tag.ExifImageWidth, Tag.ExifImageHeight),
    ):
        for tag, size in ((width, upright.width), (height, upright.height)):
            if tag in directory:
                directory[tag] = size
    note = details.get(Tag.MakerNote)
    if isinstance(note, bytes) and JPEG_START in note:
        del details[Tag.MakerNote]
    return exif.tobytes() if exif else None


def _read_iptc(image: PIL.Image.Image) -> bytes | None:
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", None)  # as PIL's IptcImagePlugin reads it: in any type
        return tags._tagdata.get(IPTC_TAG) if tags else None
    return image.info.get("photoshop", {}).get(IPTC_RESOURCE)


def _without_claims(xmp: bytes) -> tuple[bytes, list[str]]:
    """Removes what XMP says of data that is not kept; also returns what this is."""
    lost = []
    for namespace, names, what in CLAIMS:
        declared = rb"xmlns:([\w.-]+)\s*=\s*[\"']" + re.escape(namespace) + rb"[\"']"
        for prefix in set(re.findall(declared, xmp)):
            name = re.escape(prefix) + b":(?:" + names + b")"
            attribute = rb"\s" + name + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')"
            element = rb"<(" + name + rb")(?=[\s/>])(?:[^>]*/>|.*?</\1\s*>)"
            xmp, count = re.subn(attribute + b"|" + element, b"", xmp, flags=re.DOTALL)
            if count and what and what not in lost:
                lost.append(what)
    return xmp, lost


def _read_chunks(source: str | Path | io.BytesIO) -> Iterator[tuple[bytes, bytes]]:
    """Yields the chunks of a PNG file before its pixels, or those of a WebP file."""
    content = source.getvalue() if isinstance(source, io.BytesIO) else Path(source).read_bytes()
    is_png = content.startswith(b"\x89PNG")
    start = 8 if is_png else 12
    while start + 8 <= len(content):
        parts = struct.unpack_from(">I4s" if is_png else "<4sI", content, start)
        size, name = parts if is_png else parts[::-1]
        if name == b"IDAT":
            return
        yield name, content[start + 8 : start + 8 + size]
        start += 8 + size + (4 if is_png else size % 2)  # a checksum; padding


def save_options(metadata: Metadata, file_format: str, quality: int) -> dict[str, Any]:
    """Returns what PIL's save needs to write a file with this metadata."""
    options = {
        name: metadata[name]
        for name in ("icc_profile", "dpi", "exif", "comment", "xmp")
        if name in metadata
    }
    if file_format == "JPEG":
        options |= {"quality": quality, "subsampling": 0}
        if iptc := metadata.get("iptc"):
            options["extra"] = _iptc_segment(iptc)
    elif file_format == "WEBP":
        options |= {"quality": quality, "lossless": "lossless" in metadata, "exact": True}
    elif file_format == "PNG":
        chunks = options["pnginfo"] = PIL.PngImagePlugin.PngInfo()
        for name, content in metadata.get("colors", {}).items():
            chunks.add(name, content)
        for name, text in metadata.get("text", {}).items():
            chunks.add_itxt(name, text)
        if xmp := options.pop("xmp", None):
            chunks.add_itxt(XMP_CHUNK, xmp)
    elif file_format == "TIFF":
        exif = PIL.Image.Exif()
        exif.load(options.pop("exif", b""))
        for tag, name in ((XMP_TAG, "xmp"), (IPTC_TAG, "iptc")):
            if name in metadata:
                exif[tag] = metadata[name]
        # With compression, Pillow 13 fails for EXIF data with directories.
        has_directories = Tag.ExifOffset in exif or Tag.GPSInfo in exif
        options |= {"exif": exif, "compression": "raw" if has_directories else "tiff_deflate"}
    return options


def _iptc_segment(iptc: bytes) -> bytes:
    """The APP13 segment of a JPEG file. Raises struct.error if it is too long for one."""
    resource = b"8BIM" + struct.pack(">HHI", IPTC_RESOURCE, 0, len(iptc)) + iptc
    content = b"Photoshop 3.0\0" + resource + b"\0" * (len(iptc) % 2)
    return b"\xff\xed" + struct.pack(">H", len(content) + 2) + content
