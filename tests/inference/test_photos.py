"""Photographs of every mode and format: what we keep and what we reject."""

import struct
import zlib
from xml.etree import ElementTree

import cv2
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
import skimage.data

from glinpaint_jax.data.mask_files import read_mask
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.photos import Photo, encode_photo, read_pair, read_photo

ORIENTATION = 0x0112


def write_16_bits(path):
    cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint16))


def write_two_pages(path):
    photo().save(path, save_all=True, append_images=[photo()])


def read_saved(path, mode="RGB", **options):
    photo(mode).save(path, **options)
    return read_photo(path)


def written(photo, path):
    """Writes a photo; returns the image in the file."""
    path.write_bytes(encode_photo(photo, path, 95))
    with PIL.Image.open(path) as image:
        image.load()
    return image


def photo(mode="RGB"):
    image = PIL.Image.fromarray(skimage.data.coffee()[:40, :60])
    if mode in ("RGBA", "LA"):
        image.putalpha(PIL.Image.fromarray(np.arange(2400, dtype=np.uint8).reshape(40, 60)))
    return image.convert(mode)


@pytest.fixture
def hole():
    hole = np.zeros((40, 60), bool)
    hole[10:20, 30:45] = True
    return hole


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        *((".png", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
        *((".tiff", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
        *((".webp", mode) for mode in ("RGB", "RGBA")),
        *((".bmp", mode) for mode in ("RGB", "L")),
    ],
)
def test_only_colors_in_the_hole_change(mode, suffix, hole, tmp_path):
    # Without `exact`, WebP changes the colors of transparent pixels.
    before = read_saved(tmp_path / f"in{suffix}", mode, lossless=True, exact=True)
    green = np.full((40, 60, 3), (0, 255, 0), np.uint8)
    after = written(before.with_hole_filled(green, hole), tmp_path / "out.png")

    assert after.mode == {"P": "RGB", "1": "L"}.get(mode, mode)
    got, expected = np.atleast_3d(after), np.atleast_3d(photo(mode).convert(after.mode))
    np.testing.assert_array_equal(got[~hole], expected[~hole])
    color = (0, 255, 0) if "RGB" in after.mode else (150,)
    assert (got[hole][:, : len(color)] == color).all()
    if after.mode.endswith("A"):
        np.testing.assert_array_equal(got[..., -1], expected[..., -1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_and_reset(orientation, tmp_path):
    exif = PIL.Image.Exif()
    exif[ORIENTATION], exif[0x010F] = orientation, "a maker"
    read = read_saved(tmp_path / "a.png", exif=exif)
    # OpenCV applies it too.
    np.testing.assert_array_equal(read.rgb, cv2.imread(str(tmp_path / "a.png"))[..., ::-1])
    again = written(read, tmp_path / "b.png")
    assert dict(again.getexif()) == {ORIENTATION: 1, 0x010F: "a maker"}
    np.testing.assert_array_equal(np.array(again), read.rgb)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:tiff="a" tiff:Orientation="6">a title</x:xmpmeta>'


def orientation_in_xmp(exif, texts):
    texts.add_itxt("XML:com.adobe.xmp", XMP)


def orientation_in_raw_exif(exif, texts):
    """As ImageMagick writes it: a name, the length, lines of hexadecimal digits."""
    content = exif.tobytes()
    lines = [content[i : i + 36].hex() for i in range(0, len(content), 36)]
    lines = ["", "exif", f"{len(content):8}", *lines, ""]
    texts.add_text("Raw profile type exif", "\n".join(lines))


@pytest.mark.parametrize("write", [orientation_in_xmp, orientation_in_raw_exif])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_an_orientation_in_the_texts_of_a_png_is_applied_once(write, suffix, tmp_path):
    exif, texts = PIL.Image.Exif(), PIL.PngImagePlugin.PngInfo()
    exif[ORIENTATION], exif[0x010F] = 6, "a maker"
    write(exif, texts)
    read = read_saved(tmp_path / "a.png", pnginfo=texts)
    np.testing.assert_array_equal(read.rgb, np.rot90(photo(), -1))
    again = written(read, tmp_path / f"b{suffix}")
    assert again.size == read_photo(tmp_path / f"b{suffix}").image.size == (40, 60)
    if write is orientation_in_xmp:
        assert again.info["xmp"] == XMP.replace(b'tiff:Orientation="6"', b"")
    else:
        assert "Raw profile type exif" not in again.info
        assert again.getexif()[0x010F] == "a maker"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_orientation_in_exif_still_overrides_an_outdated_one_in_xmp(suffix, tmp_path):
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 1
    read = read_saved(tmp_path / "a.jpg", exif=exif, xmp=XMP)
    assert written(read, tmp_path / f"b{suffix}").info["xmp"] == XMP
    assert read_photo(tmp_path / f"b{suffix}").image.size == (60, 40)


def test_a_pair_is_upright_and_its_hole_inverted_stretched_and_grown(tmp_path):
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    photo().save(tmp_path / "a.png", exif=exif)
    valid = np.ones((30, 20), bool)  # half of the upright photograph's size
    valid[10, 5] = False
    PIL.Image.fromarray(valid).save(tmp_path / "mask.png")
    read, hole, doubt = read_pair(tmp_path / "a.png", str(tmp_path / "mask.png"), True, True, 1)
    np.testing.assert_array_equal(read.rgb, np.rot90(photo(), -1))
    expected = np.zeros((60, 40), bool)
    expected[19:23, 10:12] = expected[20:22, 9:13] = True
    np.testing.assert_array_equal(hole, expected)
    assert doubt is None
    with pytest.raises(UserError, match=r"a\.png is 40x60, .*mask\.png 20x30; make them the same"):
        read_pair(tmp_path / "a.png", tmp_path / "mask.png", invert=True)
    assert read_pair(read.image, ~expected)[2].startswith("the hole covers 100%")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_without_a_mask_the_transparent_pixels_are_the_hole(mode):
    image = photo(mode)
    image.info["dpi"] = (72, 72)
    read, hole, _ = read_pair(image)
    assert read.image.mode == mode[:-1] and read.metadata == {"dpi": (72, 72)}
    np.testing.assert_array_equal(hole, np.arange(2400).reshape(40, 60) % 256 < 255)
    np.testing.assert_array_equal(np.array(read.image), np.array(image)[..., :-1].squeeze())
    with pytest.raises(UserError, match="the image has no alpha"):
        read_pair(read.image)


def test_the_callers_image_is_not_modified():
    image = photo()
    image.getexif()[ORIENTATION] = 6
    read = read_photo(image)
    assert read.image.size == (40, 60)
    assert image.size == (60, 40) and image.getexif()[ORIENTATION] == 6


def test_a_16_in_a_tiffs_offsets_is_not_16_bits(tmp_path):
    """PIL lists the raw mode next to offsets, some of which contain a 16."""
    for width in range(1, 80):
        noise = np.random.default_rng(width).integers(0, 256, (16, width, 3), dtype=np.uint8)
        PIL.Image.fromarray(noise).save(tmp_path / "a.tif", compression="tiff_lzw")
        assert read_photo(tmp_path / "a.tif").image.size == (width, 16)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_profile_and_metadata_are_kept(suffix, tmp_path):
    exif, texts = PIL.Image.Exif(), PIL.PngImagePlugin.PngInfo()
    exif[0x8298] = "someone's"  # copyright
    texts.add_text("Title", "Ünïcode")
    options = {"icc_profile": b"a profile", "exif": exif, "dpi": (300, 300)}
    if suffix == ".png":
        options["pnginfo"] = texts
    if suffix == ".jpg":
        options |= {"comment": b"a comment", "xmp": b"<x:xmpmeta/>"}
    read = read_saved(tmp_path / f"a{suffix}", **options)
    again = written(read, tmp_path / f"b{suffix}")
    assert again.getexif()[0x8298] == "someone's"
    if suffix != ".webp":  # it has none
        assert again.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    for name in options.keys() & {"icc_profile", "comment", "xmp"}:
        assert again.info[name] == options[name], name
    if suffix == ".png":
        assert again.text["Title"] == "Ünïcode"


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_iptc_and_xmp_are_kept_and_sizes_in_exif_corrected(suffix, tmp_path):
    iptc = b"\x1c\x02\x78\0\7caption" + bytes(range(30))
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    details = exif.get_ifd(0x8769)
    details |= {0xA002: 60, 0xA003: 40, 0x9003: "2026:11:30 12:00:00"}
    details[0x927C] = b"Maker \xff\xd8\xff"  # a note with a picture
    resources = b"8BIM\4\x0c\0\0\0\0\0\4view8BIM\4\4\0\0\0\0\0" + bytes([len(iptc)]) + iptc
    block = b"Photoshop 3.0\0" + resources
    segment = b"\xff\xed" + struct.pack(">H", len(block) + 2) + block
    read = read_saved(tmp_path / "a.jpg", exif=exif, xmp=b"<x:xmpmeta/>", extra=segment)
    again = written(read, tmp_path / f"b{suffix}")
    details = again.getexif().get_ifd(0x8769)
    assert details == {0xA002: 40, 0xA003: 60, 0x9003: "2026:11:30 12:00:00"}
    assert again.info["xmp"] == b"<x:xmpmeta/>"
    if suffix == ".jpg":
        assert again.info["photoshop"] == {0x0404: iptc}  # 0x040C is a preview
    else:
        assert again.tag_v2[33723] == iptc
    assert read_photo(tmp_path / f"b{suffix}").metadata["iptc"] == iptc


GAIN_MAP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:hdrgm='http://ns.adobe.com/hdr-gain-map/1.0/'
 xmlns:C="http://ns.google.com/photos/1.0/container/" hdrgm:Version="1.0" C:Other="kept">a
<C:Directory><rdf:Seq><C:Item/></rdf:Seq></C:Directory><hdrgm:Gain/>b</x:xmpmeta>"""
VIDEO = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:G="http://ns.google.com/photos/1.0/camera/"
 G:MotionPhoto="1" G:MicroVideoOffset='9' G:SpecialTypeID="kept"></x:xmpmeta>"""
PREVIEW = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:xmp="http://ns.adobe.com/xap/1.0/">
<xmp:Thumbnails>/9j/4AAQ</xmp:Thumbnails>kept</x:xmpmeta>"""


@pytest.mark.parametrize(
    ("xmp", "gone", "lost"),
    [
        (GAIN_MAP, ("Directory", "hdrgm:", "Item"), "gain map"),
        (VIDEO, ("MotionPhoto", "MicroVideo"), "video"),
        (PREVIEW, ("9j", "Thumbnails"), None),
    ],
    ids=["gain map", "video", "preview"],
)
def test_xmp_claims_nothing_that_is_not_kept(xmp, gone, lost, hole, tmp_path):
    photo().save(tmp_path / "a.jpg", xmp=xmp)
    read, _, doubt = read_pair(tmp_path / "a.jpg", hole)
    assert doubt == (lost and f"the photograph's {lost} cannot be kept")
    kept = written(read, tmp_path / "b.jpg").info["xmp"].decode()
    assert ElementTree.fromstring(kept) is not None
    assert ("kept" in kept) and not any(word in kept.replace("xmlns:hdrgm", "") for word in gone)


def test_the_color_chunks_of_a_png_are_kept(tmp_path):
    chunks = {b"cICP": b"\t\x10\0\1", b"gAMA": b"\0\1\x86\xa0", b"cHRM": bytes(range(32))}
    texts = PIL.PngImagePlugin.PngInfo()
    for name, content in chunks.items():
        texts.add(name, content)
    written(read_saved(tmp_path / "a.png", pnginfo=texts), tmp_path / "b.png")
    content = (tmp_path / "b.png").read_bytes()
    assert all(name + value in content for name, value in chunks.items())


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_stays_lossless_or_lossy(lossless, tmp_path):
    read = read_saved(tmp_path / "a.webp", "RGBA", lossless=lossless, exact=True, xmp=b"<x/>")
    again = written(read, tmp_path / "b.webp")
    assert (b"VP8L" in (tmp_path / "b.webp").read_bytes()) == lossless
    assert np.array_equal(np.array(again), np.array(read.image)) == lossless


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_of_the_stored_pixels_is_turned_with_them(orientation, hole, tmp_path):
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    photo().save(tmp_path / "a.png", exif=exif)
    PIL.Image.fromarray(hole).save(tmp_path / "upright.png", exif=exif)
    _, expected, nothing = read_pair(tmp_path / "a.png", tmp_path / "upright.png")
    _, turned, doubt = read_pair(tmp_path / "a.png", hole)
    np.testing.assert_array_equal(turned, expected)
    assert nothing is None and doubt.startswith("the mask fits the photograph before its orient")


def test_a_resolution_of_zero_by_zero_is_dropped(tmp_path):
    read = read_saved(tmp_path / "a.tif", dpi=(72, 72))
    content, resolution = (tmp_path / "a.tif").read_bytes(), struct.pack("<II", 72, 1)
    (tmp_path / "a.tif").write_bytes(content.replace(resolution, bytes(8)))
    assert read.metadata.keys() - read_photo(tmp_path / "a.tif").metadata.keys() == {"dpi"}


@pytest.mark.parametrize(("source", "target", "most"), [("jpg", "jpg", 1), ("png", "webp", 0)])
def test_jpegs_stay_nearly_and_webps_of_lossless_photos_exactly(source, target, most, tmp_path):
    original = read_saved(tmp_path / f"a.{source}", quality=95)
    again = written(original, tmp_path / f"b.{target}")
    assert np.abs(np.array(again).astype(int) - original.rgb).mean() <= most


def write_bomb(path):
    """A PNG whose header claims 30,000 x 30,000 pixels."""
    photo().save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (30_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def damage_exif(tag, wrong_type):
    """Declares a number as text: PIL raises errors other than OSError."""

    def write(path):
        exif = PIL.Image.Exif()
        exif[ORIENTATION], exif[0x0128] = 6, 2
        photo().save(path, exif=exif)
        number = struct.pack(">HH", tag, 3)
        assert path.read_bytes().count(number) == 1
        text = struct.pack(">HH", tag, wrong_type)
        path.write_bytes(path.read_bytes().replace(number, text))

    return write


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("orientation.jpg", damage_exif(ORIENTATION, 2), "has damaged EXIF data"),
        ("unit.jpg", damage_exif(0x0128, 7), "has damaged EXIF data"),
        ("bomb.png", write_bomb, "900.0 megapixels, at most 200 are allowed"),
        ("empty.jpg", lambda path: path.write_bytes(b""), "not an image"),
        ("text.jpg", lambda path: path.write_text("text"), "not an image"),
        ("missing.jpg", lambda path: None, "cannot read"),
        ("cmyk.jpg", lambda path: photo().convert("CMYK").save(path), "color mode CMYK"),
        ("lab.tif", lambda path: photo().convert("LAB").save(path), "color mode LAB"),
        ("pages.tif", write_two_pages, "contains 2 images"),
        ("animated.gif", lambda path: photo().save(path), "is GIF.*save it as JPEG or PNG"),
        ("a.avif", lambda path: photo().save(path), "is AVIF.*save it as JPEG or PNG"),
        ("a.heic", lambda path: path.write_bytes(b"unknown"), "is HEIC.*save it as JPEG or PNG"),
        ("deep.png", write_16_bits, "16 bits"),
        ("deep.tif", write_16_bits, "16 bits"),
        ("gray.png", lambda path: cv2.imwrite(str(path), np.zeros((4, 4), np.uint16)), "16 bits"),
    ],
)
def test_unsupported_files_are_rejected_by_name(name, make, message, tmp_path):
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as error:
        read_photo(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)
    if message == "16 bits":
        with PIL.Image.open(tmp_path / name) as opened, pytest.raises(UserError, match=message):
            read_photo(opened)


@pytest.mark.parametrize("file_format", ["EPS", "ICO", "GIF", "PPM", "TGA"])
@pytest.mark.parametrize("read", [read_photo, read_mask])
def test_other_formats_are_never_tried_whatever_their_name(read, file_format, tmp_path):
    """PIL would pass EPS to Ghostscript."""
    photo().save(tmp_path / "a.png", file_format)
    with pytest.raises(UserError, match=r"a\.png is not an image.*JPEG, PNG, WebP, TIFF or BMP"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_photo, read_mask])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
def test_truncated_files_are_rejected_even_if_pil_has_opened_them(suffix, read, tmp_path):
    path = tmp_path / f"a{suffix}"
    photo().save(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=rf"a\{suffix}"):
        read(path)
    if suffix != ".webp":  # which PIL does not open
        with PIL.Image.open(path) as opened, pytest.raises(UserError, match="cannot read the im"):
            read(opened)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "I;16"])
def test_masks_of_every_mode(mode, hole, tmp_path):
    white = np.uint16(65535) if mode == "I;16" else np.uint8(255)
    PIL.Image.fromarray(hole * white).convert(mode).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), hole)


@pytest.mark.parametrize(
    ("mode", "name", "metadata"),
    [
        *(("RGBA", name, {}) for name in ("a.jpg", "a.bmp", "a.gif", "a")),
        *(("RGB", f"a{suffix}", {"dpi": (float("nan"),) * 2}) for suffix in (".tif", ".png")),
        ("RGB", "a.jpg", {"iptc": bytes(70_000)}),
    ],
)
def test_what_a_format_cannot_store_is_reported(mode, name, metadata, tmp_path):
    with pytest.raises(UserError, match=name):
        encode_photo(Photo(photo(mode), "PNG", metadata), tmp_path / name, 95)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.eye(4, dtype=np.uint8), "brightest pixels are 1, white is 255"),
        (np.diag([1, 2, 3]).astype(np.uint8), "brightest pixels are 3, white is 255"),
        (np.eye(4, dtype=np.uint16) * 255, "brightest pixels are 255, white is 65535"),
        (np.eye(4, dtype=np.int32) * 255, "32 bits"),
        (np.eye(4, dtype=np.float32), "32 bits"),
    ],
)
def test_masks_with_ambiguous_white_are_rejected(pixels, message, tmp_path):
    """They would look empty."""
    PIL.Image.fromarray(pixels).save(tmp_path / "mask.tif")
    with pytest.raises(UserError, match=f"mask.tif.*{message}"):
        read_mask(tmp_path / "mask.tif")


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_color_becomes_alpha(mode, tmp_path):
    image = PIL.Image.new(mode, (8, 8))
    image.putpixel((3, 3), {"L": 200, "RGB": (9, 200, 9), "P": 5}[mode])
    image.save(tmp_path / "a.png", transparency={"L": 0, "RGB": (0, 0, 0), "P": 0}[mode])
    read = read_photo(tmp_path / "a.png")
    assert read.image.mode == ("LA" if mode == "L" else "RGBA")
    alpha = np.array(read.image.getchannel("A"))
    assert alpha[3, 3] == 255 and alpha.sum() == 255


def test_extra_pictures_in_a_jpeg_are_dropped(tmp_path):
    """Phones append depth maps and the like; PIL calls these files MPO."""
    extra = {"format": "MPO", "save_all": True, "append_images": [photo()], "quality": 95}
    read = read_saved(tmp_path / "a.jpg", **extra)
    assert (read.file_format, read.image.size) == ("JPEG", photo().size)
    assert written(read, tmp_path / "b.jpg").format == "JPEG"


def test_iptc_of_a_tiff_may_be_stored_as_numbers(tmp_path):
    iptc = b"\x1c\x02\x78\0\7caption"
    read = read_saved(tmp_path / "a.tif", tiffinfo={33723: iptc})
    content, entry = (tmp_path / "a.tif").read_bytes(), struct.pack("<HHI", 33723, 7, 12)
    assert read.metadata["iptc"] == iptc and entry in content
    content = content.replace(entry, struct.pack("<HHI", 33723, 4, 3))
    (tmp_path / "a.tif").write_bytes(content)
    assert read_photo(tmp_path / "a.tif").metadata["iptc"] == iptc
