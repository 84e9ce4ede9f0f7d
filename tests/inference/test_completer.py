"""Compares completing by regions with one pass over the whole image, methods with OpenCV."""

import dataclasses
import itertools
import sys
from functools import partial

import cv2
import jax
import numpy as np
import PIL.Image
import pytest
import skimage.data

import glinpaint_jax
from glinpaint_jax import Completer
from glinpaint_jax.inference.blend import KINDS, blend
from glinpaint_jax.inference.methods import CLASSICAL
from glinpaint_jax.models.networks import make_networks
from tests.helpers.completers import draw_hole
from tests.helpers.configs import make_small_config
from tests.helpers.networks import make_weights
from tests.helpers.programs import execute

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


PHOTO, HOLE = photo(80, 100), draw_hole(80, 100, (20, 30, 60, 70))


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
# Smaller than the receptive field, with a hole of one pixel in the middle.
TINY = [((1, 1), [(0, 0, 1, 1)]), ((3, 5), [(1, 2, 2, 3)]), ((40, 700), [(20, 350, 21, 351)])]


@pytest.mark.parametrize(
    ("size", "boxes"), [*itertools.product([(600, 720), (597, 718)], HOLES.values()), *TINY]
)
def test_regions_equal_the_whole_image(size, boxes, completer, weights):
    image, hole = photo(*size), draw_hole(*size, *boxes)
    expected = whole(weights, image, hole)
    for kept, prediction in completer.predictions(image, hole):
        assert np.abs(prediction - expected[kept]).max() <= 1e-5 * 255
    completed = completer(image, hole)
    assert completed.dtype == np.uint8
    np.testing.assert_array_equal(completed[~hole], image[~hole])
    # Near .5, both roundings are within the tolerance.
    assert np.abs(completed[hole] - expected[hole]).max() <= 0.5 + 1e-5 * 255


def test_without_a_hole_the_result_is_a_copy(completer):
    completed = completer(PHOTO, np.zeros_like(HOLE))
    np.testing.assert_array_equal(completed, PHOTO)
    assert not np.shares_memory(completed, PHOTO)


def test_pil_images_and_paths_return_pil_images(completer, tmp_path):
    expected = completer(PHOTO, HOLE)
    mask = PIL.Image.fromarray(HOLE)
    with_alpha = PIL.Image.fromarray(np.dstack([PHOTO, PHOTO[..., 0]]))
    with_alpha.info["icc_profile"] = b"a profile"
    with_alpha.save(tmp_path / "a.png", icc_profile=b"a profile")
    mask.save(tmp_path / "mask.png")
    for given in (with_alpha, tmp_path / "a.png", str(tmp_path / "a.png")):
        for given_mask in (mask, tmp_path / "mask.png", HOLE):
            completed = completer(given, given_mask)
            assert (completed.mode, completed.info["icc_profile"]) == ("RGBA", b"a profile")
            np.testing.assert_array_equal(np.array(completed)[..., :3], expected)
            np.testing.assert_array_equal(np.array(completed)[..., 3], PHOTO[..., 0])


@pytest.mark.parametrize("kind", KINDS)
def test_original_pixels_in_the_hole_have_no_influence(kind, weights):
    changed = PHOTO.copy()
    changed[HOLE] = np.random.default_rng(0).integers(0, 256, (HOLE.sum(), 3))
    completer = Completer(weights, blend=kind)
    np.testing.assert_array_equal(completer(PHOTO, HOLE), completer(changed, HOLE))


def test_completions_are_blended_but_not_corrections_of_a_smooth_fill(weights):
    plain, blended, default = (
        Completer(weights, blend=kind)(PHOTO, HOLE) for kind in ("none", "telea-poisson", "auto")
    )
    np.testing.assert_array_equal(blended, blend(plain, HOLE, "telea-poisson"))
    assert (blended != plain).any()
    np.testing.assert_array_equal(default, blended)
    plain = Completer(blend="none")(PHOTO, HOLE)
    np.testing.assert_array_equal(Completer()(PHOTO, HOLE), plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blend": "no"}, "blend='no' must be one of auto, none, telea-poisson"),
        ({"weights": True, "method": "telea"}, "pass either weights or method='telea'"),
        ({"method": "magic"}, "must be one of auto, patches, network, smooth, telea"),
        ({"tile": 8}, "tile=8 must be a whole number of at least 16"),
        ({"max_megapixels": float("nan")}, "max_megapixels=nan must be a number above 0"),
        ({"attempt": 5}, r"attempt=5 must be in 0\.\.4"),
        ({"attempt": 1, "method": "telea"}, "attempt=1 needs method auto or patches"),
        *(({"scale": scale}, "auto or a number above 0 and up to 1") for scale in (0, 1.5, "half")),
    ],
    ids=str,
)
def test_wrong_options_are_rejected(options, message, weights):
    if "weights" in options:
        options = options | {"weights": weights}
    with pytest.raises(glinpaint_jax.UserError, match=message):
        Completer(**options)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (PHOTO, HOLE.astype("f4"), r"mask is float32 \(80, 100\), must be bool \[h, w\]"),
        (PHOTO, HOLE[..., None], r"bool \(80, 100, 1\), must be bool \[h, w\].*mask\[\.\.\., 0\]"),
        (PHOTO / np.float32(255), HOLE, r"image is float32 .* must be uint8 .* if it is in 0\.\.1"),
        (PHOTO[..., 0], HOLE, r"must be uint8 \[h, w, 3\]; pass np\.dstack"),
        (PHOTO[..., :1], HOLE, r"pass np\.repeat\(image, 3, axis=-1\)"),
        (np.dstack([PHOTO, PHOTO[..., 0]]), HOLE, r"pass image\[\.\.\., :3\]"),
        (PHOTO.transpose(2, 0, 1), HOLE, r"pass image\.transpose\(1, 2, 0\)"),
        (np.uint8(7), HOLE, r"image is uint8 \(\), must be uint8 \[h, w, 3\]"),
        (PHOTO.tolist(), HOLE, "must be paths, PIL images or arrays, not list; .*one by one"),
        (PHOTO[None], HOLE, r"must be uint8 \[h, w, 3\]; pass image\[0\], for"),
        (PHOTO, HOLE[None], r"must be bool \[h, w\].*pass mask\[0\], for"),
        (PHOTO[:0], HOLE[:0], "images need pixels, this one is 100x0"),
        (PHOTO, np.zeros((0, 5), np.uint8), "images need pixels, this one is 5x0"),
        (PHOTO, HOLE[:0], "the image is 100x80, its mask 100x0"),
    ],
)
def test_other_inputs_are_rejected(image, mask, message, completer):
    with pytest.raises(glinpaint_jax.UserError, match=message):
        completer(image, mask)


@pytest.mark.parametrize("as_array", [np.asarray, jax.numpy.asarray])
def test_masks_may_be_bytes_and_arrays_may_be_jaxs(as_array):
    completer = Completer(method="telea")
    expected = completer(PHOTO, HOLE)
    for mask in (HOLE, np.uint8(255) * HOLE):
        completed = completer(as_array(PHOTO), as_array(mask))
        assert type(completed) is np.ndarray
        np.testing.assert_array_equal(completed, expected)


def test_photographs_are_completed_in_float32_after_training_in_bfloat16(weights, completer):
    trained = dataclasses.replace(weights, config=dataclasses.replace(CONFIG, precision="bfloat16"))
    other = Completer(trained, tile=96, scale=1, blend="none")
    np.testing.assert_array_equal(other(PHOTO, HOLE), completer(PHOTO, HOLE))


def test_a_completer_is_a_good_guest(tmp_path):
    """It can be pickled, leaves logging alone, and says what is wrong after a fork."""
    code = """
import logging, multiprocessing, pickle, sys
import numpy as np
from glinpaint_jax import Completer, UserError
completer = Completer(method="network", scale=1)
image, hole = np.full((40, 60, 3), 90, np.uint8), np.zeros((40, 60), bool)
image[:, 30:], hole[10:20, 25:40] = 200, True
expected = completer(image, hole)
np.testing.assert_array_equal(pickle.loads(pickle.dumps(completer))(image, hole), expected)
assert not logging.root.handlers and "orbax" not in sys.modules
def work(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except UserError as error:
        print(error, flush=True)
work(Completer.load, None)
work(Completer, tile="a")
work(Completer, max_megapixels="a")
process = multiprocessing.get_context("fork").Process(target=work, args=(completer, image, hole))
process.start()
process.join(60)
"""
    result = execute([sys.executable, "-W", "ignore", "-c", code])
    assert (result.returncode, result.stderr) == (0, "")
    assert "forked from one that had made a Completer" in result.stdout
    assert result.stdout.startswith("weights must be a path, a name or a URL, not None\ntile='a' m")
    assert "\nmax_megapixels='a' must be a number above 0\n" in result.stdout
    PIL.Image.new("RGB", (4000, 2000)).save(tmp_path / "a.png")
    with pytest.raises(glinpaint_jax.UserError, match=r"8\.0 megapixels, at most 1 are allowed"):
        Completer(method="telea", max_megapixels=1)(tmp_path / "a.png", HOLE)


def test_a_network_fills_gray_photographs_with_gray(completer):
    gray = np.repeat(PHOTO[..., :1], 3, axis=-1)
    hidden = np.where(HOLE[..., None], PHOTO, gray)  # what the hole hides does not matter
    completed, colored = completer(hidden, HOLE), completer(PHOTO, HOLE)
    assert (completed == completed[..., :1]).all() and (completed[HOLE] != 0).any()
    assert (colored[HOLE] != colored[HOLE][:, :1]).any()


@pytest.mark.parametrize(
    ("method", "flag"), [("telea", cv2.INPAINT_TELEA), ("navier-stokes", cv2.INPAINT_NS)]
)
def test_opencvs_methods(method, flag):
    hole = HOLE | draw_hole(80, 100, (0, 0, 4, 9), (70, 5, 73, 90))
    expected = cv2.inpaint(PHOTO, hole.astype(np.uint8), 3, flag)
    completed = Completer(method=method)(PHOTO, hole)
    np.testing.assert_array_equal(completed[hole], expected[hole])
    np.testing.assert_array_equal(completed[~hole], PHOTO[~hole])


def test_the_small_network_beats_the_classical_methods_in_l1():
    """On a photograph that it was not trained on, with thin and wide holes."""
    image = cv2.cvtColor(skimage.data.coins(), cv2.COLOR_GRAY2RGB)
    hole = np.zeros(image.shape[:2], np.uint8)
    for row in range(20, 300, 40):
        cv2.line(hole, (10, row), (370, row + 15), 1, thickness=2 + row // 60)
    hole = hole > 0

    def error(completer):
        completed = completer(image, hole)
        np.testing.assert_array_equal(completed[~hole], image[~hole])
        return np.abs(completed[hole].astype(int) - image[hole]).mean()

    network = error(Completer(method="network"))
    assert network < 0.95 * min(error(Completer(method=method)) for method in CLASSICAL)
