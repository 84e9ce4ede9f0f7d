"""The smooth fill, compared with a direct sparse solver, and the generator that corrects it."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage

from glinpaint_jax.config import ModelConfig
from glinpaint_jax.models.inputs import Inputs, make_inputs
from glinpaint_jax.models.networks import complete, init_variables, make_networks
from glinpaint_jax.models.smooth import smooth_fill
from glinpaint_jax.training.state import NetworkState
from glinpaint_jax.training.step import generator_forward
from tests.helpers.configs import make_small_config
from tests.helpers.laplace import solve_directly

HEIGHT, WIDTH = 90, 117


def masks():
    """Names and holes, uint8 [h, w]."""
    rng = np.random.default_rng(0)

    def boxes(*parts):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        for part in parts:
            mask[part] = 1
        return mask

    corridor, one_known = boxes(np.s_[:]), boxes(np.s_[:])
    corridor[20, :-12] = corridor[45, 12:] = corridor[70, :-12] = 0
    one_known[3, 100] = 0
    return {
        "box": boxes(np.s_[20:70, 30:100]),
        "two boxes": boxes(np.s_[5:30, 10:40], np.s_[50:80, 41:110]),
        "corner": boxes(np.s_[50:, :70]),
        "band from side to side": boxes(np.s_[:, 30:95]),
        "frame": 1 - boxes(np.s_[20:70, 25:90]),
        "lines of 1 pixel": boxes(np.s_[::7], np.s_[:, ::11]),
        "few known pixels": (rng.random((HEIGHT, WIDTH)) < 0.98).astype(np.uint8),
        "corridor": corridor,
        "one known pixel": one_known,
    }


def photo(height, width):
    """[h, w, 3] in [-1, 1]."""
    image = cv2.resize(skimage.data.astronaut(), (width, height), interpolation=cv2.INTER_AREA)
    return image.astype(np.float32) / 127.5 - 1


@pytest.fixture(scope="module")
def fill():
    return jax.jit(smooth_fill)


def test_fills_equal_those_of_a_direct_solver(fill):
    image, holes = photo(HEIGHT, WIDTH), masks()
    batch = np.stack(list(holes.values())).astype(np.float32)[..., None]
    filled = np.asarray(fill(np.stack([image] * len(batch)), batch))
    for (name, mask), found in zip(holes.items(), filled, strict=True):
        np.testing.assert_array_equal(found[mask == 0], image[mask == 0], err_msg=name)
        difference = np.abs(found - solve_directly(image, mask)).max()
        assert difference < 1 / 127.5 / 4, name  # a quarter of a gray level


def test_a_fill_ignores_the_hole_and_is_gray_without_known_pixels(fill):
    image = np.stack([photo(9, 5)] * 3)
    mask = np.zeros((3, 9, 5, 1), np.float32)
    mask[0, 2:6] = mask[1] = 1
    image[mask[..., 0] == 1] = np.nan
    filled = np.asarray(fill(image, mask))
    assert np.isfinite(filled).all()
    assert (filled[1] == 0).all()
    np.testing.assert_array_equal(filled[2], image[2])
    assert np.abs(filled[0]).max() <= np.nanmax(np.abs(image[0]))


def smooth_config():
    return make_small_config(model=ModelConfig(width=4, base="smooth"))


@pytest.fixture(scope="module")
def generator_variables():
    return jax.jit(lambda: init_variables(smooth_config())[0])()


def test_the_untrained_generator_sees_and_returns_the_smooth_fill(generator_variables):
    config = smooth_config()
    pixels = np.rint(photo(32, 32)[None] * 127.5 + 127.5).astype(np.uint8)
    batch = {"image": pixels, "bbox": np.array([[8, 4, 12, 26]], np.int32)}

    @jax.jit
    def run(variables, batch):
        inputs = make_inputs(batch)
        network = NetworkState(**variables, opt_state=None)
        seen, _ = generator_forward(config, network, inputs)  # adds nothing to it
        generator, _ = make_networks(config)
        completed = complete(generator, variables, inputs.image, inputs.mask, config.mask.fill)
        return inputs.image, inputs.mask, seen, completed

    image, mask, seen, completed = jax.device_get(run(generator_variables, batch))
    expected = solve_directly(image[0], mask[0, ..., 0])
    np.testing.assert_allclose(seen[0], expected, atol=1e-4)
    np.testing.assert_allclose(completed[0], expected, atol=1e-4)


def test_only_training_leaves_the_prediction_unclipped(generator_variables):
    generator, _ = make_networks(smooth_config())
    outside = jnp.full((1, 16, 16, 3), 3.0)
    inputs = Inputs(outside, jnp.zeros((1, 16, 16, 1)), jnp.zeros((1, 4), jnp.int32))

    @jax.jit
    def predict(variables):
        network = NetworkState(**variables, opt_state=None)
        trained, _ = generator_forward(smooth_config(), network, inputs)
        return trained, generator.apply(variables, outside, inputs.mask, train=False)

    trained, used = predict(generator_variables)
    assert (trained == 3).all() and (used == 1).all()
