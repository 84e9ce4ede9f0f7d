"""Compares completing by regions with one pass over the whole image."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
import skimage.data

import glinpaint_jax
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference import regions
from glinpaint_jax.inference.blend import KINDS, blend
from glinpaint_jax.inference.completer import Completer
from glinpaint_jax.interop.weight_files import pth_bytes
from glinpaint_jax.models.networks import make_networks
from tests.helpers.configs import make_small_config
from tests.helpers.networks import make_weights

CONFIG = make_small_config()
predict = jax.jit(partial(make_networks(CONFIG)[0].apply, train=False))


@pytest.fixture(scope="module")
def weights():
    """Non-trivial running statistics and biases, so that borders matter far inside the image."""
    return make_weights(CONFIG)


@pytest.fixture(scope="module")
def completer(weights):
    return Completer(weights, tile=96, scale=1, blend="none")


def photo(height, width):
    image = np.tile(skimage.data.astronaut(), (2, 2, 1))
    return np.ascontiguousarray(image[:height, :width])


def whole(weights, image, hole):
    """One pass over the whole image, padded to multiples of 4 with its last pixels."""
    height, width = hole.shape
    rows = np.minimum(np.arange(-(-height // 4) * 4), height - 1)
    columns = np.minimum(np.arange(-(-width // 4) * 4), width - 1)
    pixels, mask = image[rows][:, columns], hole[rows][:, columns, None].astype(np.float32)
    masked_image = (pixels.astype(np.float32) / 127.5 - 1) * (1 - mask)
    prediction = predict(weights.generator, masked_image[None], mask[None])[0]
    prediction = np.asarray(prediction)[:height, :width]
    return np.clip(prediction * 127.5 + 127.5, 0, 255)


# Some holes here are empty or cover everything.
pytestmark = pytest.mark.filterwarnings("ignore:the hole covers", "ignore:there is no hole")
HOLES = {
    "inside": [(300, 310, 350, 380)],
    "corners": [(0, 0, 30, 40), (560, 700, 600, 720)],
    "borders": [(0, 200, 20, 260), (280, 0, 330, 15), (590, 350, 600, 420), (250, 700, 300, 720)],
    "many": [(40 * i, (137 * i) % 680, 40 * i + 20, (137 * i) % 680 + 30) for i in range(15)],
    "larger than a tile": [(150, 100, 400, 500)],
    "everything": [(0, 0, 600, 720)],
}


def holes(name, size):
    hole = np.zeros(size, bool)
    for top, left, bottom, right in HOLES[name]:
        hole[top:bottom, left:right] = True
    return hole


def largest_difference(predictions, expected):
    """The largest pixel difference, in 0..255, without the padding."""
    differences = []
    for _, region, prediction in predictions:
        part = expected[region.kept.slices]
        differences.append(np.abs(prediction[: part.shape[0], : part.shape[1]] - part).max())
    return max(differences)


@pytest.mark.parametrize("size", [(600, 720), (597, 718)])
@pytest.mark.parametrize("name", HOLES)
def test_regions_equal_the_whole_image(name, size, completer, weights):
    image, hole = photo(*size), holes(name, size)
    expected = whole(weights, image, hole)
    assert largest_difference(completer.predictions([image], [hole]), expected) <= 1e-5 * 255

    completed = completer(image, hole)
    assert completed.dtype == np.uint8
    np.testing.assert_array_equal(completed[~hole], image[~hole])
    # Near .5, both roundings are within the tolerance.
    assert np.abs(completed[hole] - expected[hole]).max() <= 0.5 + 1e-5 * 255


def test_smaller_crops_would_differ(completer, weights, monkeypatch):
    monkeypatch.setattr(regions, "RECEPTIVE_RADIUS", 40)
    image, hole = photo(600, 720), holes("inside", (600, 720))
    expected = whole(weights, image, hole)
    assert largest_difference(completer.predictions([image], [hole]), expected) > 0.01


@pytest.mark.parametrize("size", [(3, 5), (1, 1), (40, 700)])
def test_images_smaller_than_the_receptive_field_equal_one_pass(size, completer, weights):
    image, hole = photo(*size), np.zeros(size, bool)
    hole[size[0] // 2, size[1] // 2] = True
    expected = whole(weights, image, hole)
    assert largest_difference(completer.predictions([image], [hole]), expected) <= 1e-5 * 255


def test_without_a_hole_the_result_is_a_copy(completer):
    image = photo(30, 50)
    completed = completer(image, np.zeros((30, 50), bool))
    np.testing.assert_array_equal(completed, image)
    assert not np.shares_memory(completed, image)


def test_pil_images_and_paths_return_pil_images(completer, tmp_path):
    image, hole = photo(60, 80), np.zeros((60, 80), bool)
    hole[20:40, 30:50] = True
    expected = completer(image, hole)
    mask = PIL.Image.fromarray(hole)
    with_alpha = PIL.Image.fromarray(np.dstack([image, image[..., 0]]))
    with_alpha.info["icc_profile"] = b"a profile"
    with_alpha.save(tmp_path / "a.png", icc_profile=b"a profile")
    mask.save(tmp_path / "mask.png")
    for given in (with_alpha, tmp_path / "a.png", str(tmp_path / "a.png")):
        for given_mask in (mask, tmp_path / "mask.png", hole):
            completed = completer(given, given_mask)
            assert (completed.mode, completed.info["icc_profile"]) == ("RGBA", b"a profile")
            np.testing.assert_array_equal(np.array(completed)[..., :3], expected)
            np.testing.assert_array_equal(np.array(completed)[..., 3], image[..., 0])


def test_a_batch_equals_single_images(weights, tmp_path):
    """With several sizes and kinds of images, so that only some regions share a batch."""
    completer = Completer(weights, tile=96, scale=1, blend="none")
    images = [photo(60, 80), photo(40, 200), photo(60, 80)[::-1], photo(300, 310), photo(60, 80)]
    rng = np.random.default_rng(0)
    masks = []
    for image in images:
        top, left = rng.integers(0, 30, 2)
        masks.append(np.zeros(image.shape[:2], bool))
        masks[-1][top : top + 250, left : left + 40] = True
    one_by_one = [completer(*pair) for pair in zip(images, masks, strict=True)]
    for batch_size in (1, 3, 8):
        batch = list(completer.batch(images, masks, batch_size))
        for completed, expected in zip(batch, one_by_one, strict=True):
            # Another batch size may change the last bit of a float32.
            np.testing.assert_allclose(completed.astype(int), expected.astype(int), atol=1)
            assert (completed != expected).mean() < 1e-3

    PIL.Image.fromarray(images[0]).save(tmp_path / "a.png")
    first, second = completer.batch([tmp_path / "a.png", images[1]], masks[:2])
    np.testing.assert_array_equal(np.array(first), one_by_one[0])
    np.testing.assert_array_equal(second, one_by_one[1])


def test_pairs_that_do_not_fit_end_a_batch(completer):
    image, mask = photo(40, 40), np.zeros((40, 40), bool)
    batch = completer.batch([image] * 3, [mask, mask, mask[:30]], batch_size=2)
    assert len([next(batch), next(batch)]) == 2
    expected = "the image is 40x40, its mask 40x30; make them the same size, or stretch the mask"
    with pytest.raises(UserError, match=expected):
        next(batch)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        list(completer.batch([image] * 3, [mask] * 2))
    with pytest.raises(UserError, match="batch_size=0"):
        next(completer.batch([image], [mask], batch_size=0))


@pytest.mark.parametrize("kind", KINDS)
def test_original_pixels_in_the_hole_have_no_influence(kind, weights):
    hole = np.zeros((80, 80), bool)
    hole[20:60, 30:] = True
    first, second = photo(80, 80), photo(80, 80)
    second[hole] = np.random.default_rng(0).integers(0, 256, (hole.sum(), 3))
    completer = Completer(weights, blend=kind)
    np.testing.assert_array_equal(completer(first, hole), completer(second, hole))


def test_blending_is_optional(weights):
    image, hole = photo(80, 80), np.zeros((80, 80), bool)
    hole[20:60, 20:60] = True
    plain = Completer(weights, blend="none")(image, hole)
    blended = Completer(weights, blend="poisson")(image, hole)
    np.testing.assert_array_equal(blended, blend(plain, hole, "poisson", None))
    assert (blended != plain).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blend": "no"}, "blend='no' must be one of auto, none, poisson"),
        ({"weights": True, "method": "telea"}, "pass either weights or method='telea'"),
        ({"method": "magic"}, "must be one of smooth, telea, navier-stokes"),
        ({"tile": 8}, "tile=8 must be at least 16"),
        *(({"scale": scale}, "auto or a number above 0 and up to 1") for scale in (0, 1.5, "half")),
    ],
    ids=str,
)
def test_wrong_options_are_rejected(options, message, weights):
    if "weights" in options:
        options = options | {"weights": weights}
    with pytest.raises(UserError, match=message):
        Completer(**options)


def test_corrections_of_a_smooth_fill_are_not_blended_by_default(weights):
    image, hole = photo(80, 80), np.zeros((80, 80), bool)
    hole[20:60, 20:60] = True
    plain = Completer(blend="none")(image, hole)
    np.testing.assert_array_equal(Completer()(image, hole), plain)
    assert Completer(weights).default_blend == "telea-poisson"


IMAGE, MASK = np.full((8, 8, 3), 9, np.uint8), np.eye(8, dtype=bool)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (IMAGE, MASK.astype(np.float32), r"mask is float32 \(8, 8\), must be bool \[h, w\]"),
        (IMAGE, MASK[..., None], r"mask is bool \(8, 8, 1\), must be bool \[h, w\]"),
        (IMAGE, MASK.astype(np.uint8), "its brightest pixels are 1, white is 255"),
        (IMAGE / np.float32(255), MASK, r"image is float32 .* must be uint8 .* if it is in 0\.\.1"),
        (IMAGE[..., 0], MASK, r"must be uint8 \[h, w, 3\]"),
        (IMAGE.tolist(), MASK, "must be paths, PIL images or arrays, not list; .*batch"),
        ([Path("a.jpg")], [Path("a.png")], "not list; .*batch"),
        (IMAGE, None, "the image has no alpha"),
    ],
    ids=["float mask", "3-d mask", "ones", "float", "gray", "list", "paths", "none"],
)
def test_other_inputs_are_rejected(image, mask, message, completer):
    with pytest.raises(UserError, match=message):
        completer(image, mask)


@pytest.mark.parametrize("as_array", [np.asarray, jax.numpy.asarray])
def test_masks_may_be_bytes_and_arrays_may_be_jaxs(as_array):
    completer = Completer(method="telea")
    expected = completer(IMAGE, MASK)
    for mask in (MASK, np.uint8(255) * MASK):
        completed = completer(as_array(IMAGE), as_array(mask))
        assert type(completed) is np.ndarray
        np.testing.assert_array_equal(completed, expected)


def test_the_package_exports_its_names():
    assert {"Completer", "UserError"} <= set(dir(glinpaint_jax)) & set(glinpaint_jax.__all__)
    assert (glinpaint_jax.Completer, glinpaint_jax.UserError) == (Completer, UserError)


@pytest.mark.parametrize("as_place", [Path, Path.as_uri])
def test_load_from_a_file_or_url(as_place, weights, tmp_path):
    (tmp_path / "a.pth").write_bytes(pth_bytes(weights))
    image, hole = photo(40, 40), holes("corners", (40, 40))
    loaded = glinpaint_jax.Completer.load(as_place(tmp_path / "a.pth"))
    np.testing.assert_array_equal(loaded(image, hole), Completer(weights)(image, hole))


def test_photographs_are_completed_in_float32_after_training_in_bfloat16(weights, completer):
    config = dataclasses.replace(CONFIG, precision="bfloat16")
    trained = dataclasses.replace(weights, config=config)
    image, hole = photo(120, 160), np.zeros((120, 160), bool)
    hole[40:70, 60:100] = True
    other = Completer(trained, tile=96, scale=1, blend="none")
    np.testing.assert_array_equal(other(image, hole), completer(image, hole))
