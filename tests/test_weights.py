"""Loads weights from workdirs, steps and files."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from glinpaint_jax.errors import UserError
from glinpaint_jax.interop.mmagic import to_state_dict
from glinpaint_jax.interop.weight_files import pth_bytes
from glinpaint_jax.models.networks import Weights
from glinpaint_jax.parallel import replicated
from glinpaint_jax.runs.checkpoints import Checkpoints
from glinpaint_jax.step_folders import FOLDER
from glinpaint_jax.training.state import create_state
from glinpaint_jax.weights import load_weights
from tests.helpers.configs import make_small_config


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture(scope="module")
def config():
    return make_small_config(ema_decay=0.9)


@pytest.fixture(scope="module")
def state(config):
    """A state whose averaged weights differ from its generator's."""
    state = jax.device_get(jax.jit(lambda: create_state(config))())
    return state.replace(ema=jax.tree.map(lambda leaf: leaf + 1, state.ema))


@pytest.fixture(scope="module")
def workdir(config, state, mesh8, tmp_path_factory):
    """A workdir with steps 3 and 12."""
    workdir = tmp_path_factory.mktemp("workdir")
    checkpoints = Checkpoints(workdir, config, print)
    for step in (3, 12):
        checkpoints.save(jax.device_put(state, replicated(mesh8)), step, {})
    checkpoints.finish()
    return workdir


@pytest.fixture(scope="module")
def weights(config, state):
    return Weights(config, 5, state.generator.variables, state.discriminator.variables)


@pytest.mark.parametrize(("folder", "step"), [("", 12), (f"{FOLDER}/3", 3)])
@pytest.mark.parametrize("ema", [None, True, False])
def test_load_a_run(folder, step, ema, workdir, config, state):
    loaded = load_weights(workdir / folder, ema)
    assert (loaded.config, loaded.step) == (config, step)
    assert_equal(loaded.generator, state.generator.variables if ema is False else state.ema)
    assert_equal(loaded.discriminator, state.discriminator.variables)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded.generator))


def test_a_renamed_copy_of_a_step_loads(workdir, state, tmp_path):
    shutil.copytree(workdir / FOLDER / "3", tmp_path / "best")
    loaded = load_weights(tmp_path / "best")
    assert loaded.step == 3
    assert_equal(loaded.generator, state.ema)


@pytest.mark.parametrize("kind", ["run", "file"])
def test_missing_averaged_weights_are_reported(kind, weights, mesh1, tmp_path):
    path = tmp_path / "x"
    if kind == "run":
        path.mkdir()
        config = dataclasses.replace(weights.config, ema_decay=0.0)
        checkpoints = Checkpoints(path, config, print)
        created = jax.jit(lambda: create_state(config), out_shardings=replicated(mesh1))()
        checkpoints.save(created, 1, {})
        checkpoints.finish()
    else:
        path.write_bytes(pth_bytes(weights))
        assert_equal(to_state_dict(load_weights(path)), to_state_dict(weights))
    load_weights(path, ema=False)
    with pytest.raises(UserError, match="no averaged weights"):
        load_weights(path, ema=True)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}/nowhere", "no checkpoint in {}/nowhere; it must be .* URL, hf://USER/REPO, places or"),
        ("{}", "no checkpoint in {}; it must be "),
        (300 * "a", "a{{300}}: File name too long|no checkpoint in .*a{{300}}"),
        (f"file:///{300 * 'a'}", "a{{300}}: File name too long|no checkpoint in .*a{{300}}"),
    ],
    ids=["missing", "empty", "long", "long URL"],
)
def test_what_is_no_checkpoint_is_reported(spec, expected, tmp_path):
    with pytest.raises(UserError, match=expected.format(tmp_path)):
        load_weights(spec.format(tmp_path))
