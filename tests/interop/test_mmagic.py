"""Names, layouts and checks of the state dict; test_step_parity.py compares the outputs."""

import dataclasses

import jax
import numpy as np
import pytest

from glinpaint_jax.config import Config, to_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.interop.mmagic import from_state_dict, to_state_dict
from glinpaint_jax.models.networks import Weights, abstract_variables
from tests.helpers.networks import REFERENCE


@pytest.fixture
def meta(torch_config):
    return {"iter": 12, "glinpaint_jax_config": to_dict(torch_config)}


@pytest.fixture
def state(weights):
    return to_state_dict(weights)


def zeros(shapes):
    """A state dict with these shapes."""
    dtypes = {key: np.int64 if "tracked" in key else np.float32 for key in shapes}
    return {key: np.zeros(shape, dtypes[key]) for key, shape in shapes.items()}


def test_full_size_keys_and_shapes_equal_mmagics():
    shapes = abstract_variables(Config())
    networks = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = to_state_dict(Weights(Config(), 0, *networks))
    assert {key: list(array.shape) for key, array in state.items()} == REFERENCE


def test_batch_counters_of_a_trained_model_equal_its_step(state):
    counters = {int(array) for key, array in state.items() if key.endswith("num_batches_tracked")}
    assert counters == {7}


def test_one_error_lists_all_bad_keys(state, meta):
    state["disc.fc.weights"] = state.pop("disc.fc.weight")
    del state["generator.encoder.enc3.bn.running_var"]
    state["generator.decoder.dec1.bn.bias"] = np.zeros(3, np.float32)
    state["generator.decoder.dec2.bn.bias"] = state["generator.decoder.dec2.bn.bias"].astype("f8")
    state["generator.decoder.dec7.conv.bias"] = np.array([0, np.nan, 0], np.float32)
    with pytest.raises(UserError) as error:
        from_state_dict(state, meta)
    start, _, problems = str(error.value).partition(": ")
    assert start == "these weights do not fit Global&Local"
    assert problems.split("; ") == [
        "'disc.fc.weights' is unknown",
        "disc.fc.weight is missing",
        "generator.decoder.dec1.bn.bias is float32 (3,), must be float32 (16,)",
        "generator.decoder.dec2.bn.bias is float64 (16,), must be float32 (16,)",
        "generator.decoder.dec7.conv.bias is not finite",
        "generator.encoder.enc3.bn.running_var is missing",
    ]


@pytest.mark.parametrize("image_size", [64, 256, 512])
def test_files_without_our_config_get_mmagics(image_size):
    """Width is 64; the image size is inferred from the discriminator's linear layer."""
    side = image_size // 64
    shapes = REFERENCE | {
        f"disc.{branch}.fc.linear.weight": [1024, 512 * side**2]
        for branch in ("global_disc", "local_disc")
    }
    imported = from_state_dict(zeros(shapes))
    assert imported.config == dataclasses.replace(Config(), image_size=image_size)
    assert imported.step == 0


@pytest.mark.parametrize("shape", [(1024, 2048), (1024, 8191), (8192, 1024), (), (8192,)])
def test_only_a_linear_layer_of_the_wrong_shape_is_reported(shape):
    """It is not mistaken for a layer of another image size."""
    key = "disc.global_disc.fc.linear.weight"
    with pytest.raises(UserError) as error:
        from_state_dict(zeros(REFERENCE | {key: shape}))
    _, _, problems = str(error.value).partition(": ")
    assert problems == f"{key} is float32 {shape}, must be float32 (1024, 8192)"
