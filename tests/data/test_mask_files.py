"""Which masks are accepted, which are rejected, and what holes become."""

import cv2
import numpy as np
import PIL.Image
import pytest
import skimage.data
from skimage.morphology import dilation, disk

from glinpaint_jax.data.mask_files import describe_doubt, dilate_hole, read_mask, resize_hole
from glinpaint_jax.errors import UserError
from tests.helpers.completers import Whitener

SIZE = (160, 200)
COFFEE = np.ascontiguousarray(skimage.data.coffee()[: SIZE[0], : SIZE[1]])


def box(value=True, background=False):
    image = np.full((*SIZE, *np.shape(value)), background, np.asarray(value).dtype)
    image[30:70, 50:110] = value
    return image


def painted(color):
    image = COFFEE.copy()
    image[30:70, 50:110] = color
    return image


def labels(*grays):
    image = np.zeros(SIZE, np.uint8)
    for number, gray in enumerate(grays):
        image[30:70, 10 + 60 * number : 50 + 60 * number] = gray
    return image


def grey(image):
    return np.array(PIL.Image.fromarray(image).convert("L"))


def lines(thickness, count=12):
    """Antialiased."""
    rng = np.random.default_rng(0)
    mask = np.zeros(SIZE, np.uint8)
    for _ in range(count):
        start, end = rng.integers(0, SIZE[0], (2, 2)).tolist()
        cv2.line(mask, start, end, 255, thickness, cv2.LINE_AA)
    return mask


PICTURES = {
    "itself": (COFFEE, "is the photograph itself, not a mask"),
    "white": (painted((255, 255, 255)), "is a painted copy of the photograph"),
    "red": (painted((255, 0, 0)), "is a painted copy of the photograph"),
    "gray": (grey(COFFEE), "has wide areas of gray"),
    "camera": (skimage.data.camera()[::3, ::3], r"has wide areas of gray \(\d\d%\)"),
    "chelsea": (skimage.data.chelsea(), "is colored"),
    "red on black": (box((255, 0, 0)).astype(np.uint8), "is colored"),
    "red on white": (box((255, 0, 0), 255).astype(np.uint8), "is colored"),
    "labels": (labels(80, 160, 240), "has areas of gray .*, as labels of objects have"),
    "trimap": (labels(128, 255), "has areas of gray .*, as labels of objects have"),
}


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(("mask", "message"), PICTURES.values(), ids=PICTURES)
def test_pictures_are_no_masks(mask, message, suffix, tmp_path):
    path = tmp_path / f"mask{suffix}"
    PIL.Image.fromarray(mask).save(path)
    if suffix == ".jpg" and mask is COFFEE:  # its pixels have changed
        message = "is a painted copy"
    with pytest.raises(UserError, match=f"mask{suffix} {message}.*white where") as error:
        read_mask(path, COFFEE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["hubble_deep_field", "rocket", "page", "moon", "text", "horse"])
def test_photographs_with_few_tones_are_no_masks_of_themselves(name):
    """Night skies, pages and silhouettes are nearly black and white."""
    photo = np.array(PIL.Image.fromarray(getattr(skimage.data, name)()).convert("RGB"))
    mask = PIL.Image.fromarray(photo)
    with pytest.raises(UserError, match=r"^the mask is the photograph itself"):
        read_mask(mask, photo)
    if name != "horse":
        with pytest.raises(UserError, match=r"is colored|has wide areas"):
            read_mask(mask)


MASKS = {
    **{str(thickness): lines(thickness) for thickness in (1, 3, 20)},
    "many": lines(1, count=60),
    "soft": cv2.GaussianBlur(lines(20), (0, 0), 4),
    "inverted": 255 - lines(3),
    "gray": box(np.uint8(140)),
    "shrunk": cv2.resize(lines(5), (100, 80), interpolation=cv2.INTER_AREA),
}


@pytest.mark.parametrize("quality", [None, 5, 50, 95])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_soft_edges_and_compression_are_accepted(mask, quality, tmp_path):
    expected = mask > 127
    if quality:
        PIL.Image.fromarray(mask).convert("RGB").save(tmp_path / "mask.jpg", quality=quality)
        hole = read_mask(tmp_path / "mask.jpg", COFFEE)
        decoded = cv2.imread(str(tmp_path / "mask.jpg"), cv2.IMREAD_GRAYSCALE)
        expected = decoded > 127
        assert (hole != (mask > 127)).mean() < 0.06
    else:
        hole = read_mask(PIL.Image.fromarray(mask), COFFEE)
    np.testing.assert_array_equal(hole, expected)


def test_a_mask_may_equal_a_black_photograph_around_its_hole():
    night = np.full((*SIZE, 3), 2, np.uint8)
    mask = PIL.Image.fromarray(box(np.uint8(255), 2))
    np.testing.assert_array_equal(read_mask(mask, night), box())
    assert not read_mask(PIL.Image.fromarray(night), night).any()


@pytest.mark.parametrize("colors", [COFFEE, np.zeros_like(COFFEE)], ids=["photograph", "black"])
def test_a_transparent_hole_is_offered_as_mask(colors, tmp_path):
    alpha = np.where(box(), 0, 255).astype(np.uint8)
    PIL.Image.fromarray(np.dstack([colors, alpha])).save(tmp_path / "cut.png")
    for photo in (None, COFFEE):
        with pytest.raises(UserError, match=r"cut\.png .*transparent parts.*--mask-from alpha"):
            read_mask(tmp_path / "cut.png", photo)


@pytest.mark.parametrize("pixels", [0, 1, 2, 7, 30])
def test_dilation_reaches_all_pixels_within_the_distance(pixels):
    hole = np.zeros((40, 60), bool)
    hole[[0, 20, 20, 39], [0, 30, 45, 20]] = True
    np.testing.assert_array_equal(dilate_hole(hole, pixels), dilation(hole, disk(pixels)))
    assert not dilate_hole(np.zeros((5, 6), bool), pixels).any()


def test_a_stretched_hole_covers_all_pixels_that_it_touches():
    """Here it becomes lower and wider."""
    hole = np.random.default_rng(0).random((20, 21)) < 0.2
    expected = hole.reshape(10, 2, 21).any(axis=1).repeat(4, axis=1)
    np.testing.assert_array_equal(resize_hole(hole, 10, 84), expected)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0, "there is no hole"), (0.01, None), (0.6, None), (0.61, "61%"), (1, "100%.*inverted")],
)
def test_unusual_holes_are_reported(share, expected):
    image, hole = np.zeros((10, 10, 3), np.uint8), np.zeros((10, 10), bool)
    hole.flat[: round(share * 100)] = True
    if expected is None:
        assert describe_doubt(hole) is None
        Whitener()(image, hole)  # warnings are errors
    else:
        with pytest.warns(match=expected):
            Whitener()(image, hole)
