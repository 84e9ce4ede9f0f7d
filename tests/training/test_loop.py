"""The weights a new run starts from, and the colour of its holes."""

import dataclasses

import jax
import numpy as np
import pytest

from glinpaint_jax.config import ModelConfig, PhasesConfig
from glinpaint_jax.errors import UserError
from glinpaint_jax.interop.weight_files import pth_bytes
from glinpaint_jax.models.networks import Weights, init_variables
from glinpaint_jax.training.loop import initial_networks, is_saved, unreached_phase
from glinpaint_jax.training.state import create_state
from tests.helpers.configs import make_small_config


@pytest.fixture(scope="module")
def weights():
    config = make_small_config(seed=5)
    return Weights(config, 3, *jax.device_get(jax.jit(lambda: init_variables(config))()))


@pytest.fixture
def start_from(weights, tmp_path):
    """Saves the weights and returns a config that starts from them."""

    def start_from(weights=weights, **changes):
        (tmp_path / "a.pth").write_bytes(pth_bytes(weights))
        return make_small_config(init_from=(tmp_path / "a.pth").as_uri(), **changes)

    return start_from


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_networks_and_ema_start_from_the_file(weights, start_from):
    config = start_from(ema_decay=0.9)
    origin = initial_networks(config)
    create = jax.jit(lambda *networks: create_state(config, *networks))
    state = create(origin.generator, origin.discriminator)
    for variables in (state.generator.variables, state.ema):
        assert_equal(variables, weights.generator)
    assert_equal(state.discriminator.variables, weights.discriminator)
    assert int(state.step) == 0
    assert origin.description == f"starting from {config.init_from}"


@pytest.mark.parametrize("said", ["no discriminator", "for images of 32, not 128"])
def test_an_unusable_discriminator_starts_from_random_weights(said, weights, start_from):
    if said == "no discriminator":
        config = start_from(dataclasses.replace(weights, discriminator=None))
    else:
        config = start_from(image_size=128)
    origin = initial_networks(config)
    assert_equal(origin.generator, weights.generator)
    assert origin.discriminator is None
    assert said in origin.description and "random weights" in origin.description


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (ModelConfig(width=8), "model.width 4, this config 8; pass --config.model.width=4"),
        (ModelConfig(width=4, output="sigmoid"), "model.output 'clip', this config 'sigmoid'"),
        (ModelConfig(width=4, base="smooth"), "model.base 'none', this config 'smooth'"),
    ],
)
def test_a_mismatched_generator_is_rejected(model, named, start_from):
    with pytest.raises(UserError, match=named):
        initial_networks(start_from(model=model))


def test_without_init_from_weights_are_random(small_config):
    assert initial_networks(small_config)[:2] == (None, None)


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [
        (3, "num_steps=3 ends in the completion phase; the discriminators are never trained"),
        (
            6,
            "num_steps=6 ends in the discriminator phase; the generator is never trained against "
            "the discriminators",
        ),
        (7, ""),
    ],
)
def test_a_run_too_short_for_all_phases_is_announced(num_steps, expected):
    phases = PhasesConfig(completion_end=2, discriminator_end=5)
    assert unreached_phase(make_small_config(num_steps=num_steps, phases=phases)) == expected


def test_milestones_are_saved_between_checkpoints():
    config = make_small_config(checkpoint_every=4, keep_every=6)
    assert [step for step in range(1, 13) if is_saved(step, config)] == [4, 6, 8, 12]
