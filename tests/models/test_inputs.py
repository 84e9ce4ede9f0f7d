import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.models.inputs import Inputs, fill_hole, make_inputs, to_pixel_range


@pytest.mark.parametrize("fill", [(127.5, 127.5, 127.5), (0.0, 51.0, 255.0)])
def test_inputs_are_scaled_and_their_holes_filled(fill):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    bbox = np.array([[2, 3, 4, 2], [0, 0, 8, 5]], np.int32)
    inputs = make_inputs({"image": jnp.asarray(image), "bbox": jnp.asarray(bbox)})
    masked_image = fill_hole(inputs.image, inputs.mask, fill)
    filled = image.astype(np.float32)
    filled[0, 2:6, 3:5] = filled[1, :, :5] = fill
    np.testing.assert_allclose(to_pixel_range(masked_image), filled, atol=1e-4)
    np.testing.assert_allclose(inputs.image, (image / 127.5) - 1, atol=1e-6)


def test_free_form_masks_are_used_unchanged():
    mask = np.random.default_rng(0).integers(0, 2, (1, 8, 8, 1), dtype=np.uint8)
    image, bbox = jnp.zeros((1, 8, 8, 3), jnp.uint8), jnp.zeros((1, 4), jnp.int32)
    inputs = make_inputs({"image": image, "bbox": bbox, "mask": jnp.asarray(mask)})
    np.testing.assert_array_equal(inputs.mask, mask)


@pytest.mark.parametrize(
    ("bbox", "origin"),
    [
        ((20, 24, 8, 4), (16, 18)),  # centered: 20 - (16 - 8) // 2, 24 - (16 - 4) // 2
        ((0, 1, 8, 8), (0, 0)),  # clamped at the top and left
        ((56, 50, 8, 14), (48, 48)),  # and at the bottom and right
        ((10, 10, 40, 20), (22, 12)),  # centre of a box larger than the window
    ],
)
def test_windows_are_centered_on_the_box_and_clamped_to_the_image(bbox, origin):
    image, mask = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 64, 64, 1))
    inputs = Inputs(image, mask, jnp.asarray([bbox], jnp.int32))
    np.testing.assert_array_equal(inputs.window_origins(16), [origin])
