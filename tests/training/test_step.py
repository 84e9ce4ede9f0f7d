"""Training steps: the EMA, microbatches, skipped updates, learning, bfloat16.

tests/interop/test_step_parity.py compares a step of each phase on eight devices with PyTorch.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.config import LossConfig, OptimizerConfig
from glinpaint_jax.parallel import to_global
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.step import make_steps
from tests.helpers.configs import make_small_config
from tests.helpers.steps import make_batch, make_state, place


def to_float64(leaf):
    return leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf


def assert_close(first, second, **tolerances):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerances), first, second)


def test_the_ema_follows_the_generator(steps, initial_state, step_config, mesh8):
    batch = make_batch(0, step_config, mesh8)
    state, _ = steps[Phase.COMPLETION](place(initial_state, mesh8), batch)
    old, new = initial_state.ema, jax.device_get(state.generator.variables)
    decay = 1 / 10  # min(0.9, (1 + 0) / (10 + 0))
    expected = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, new)
    assert_close(jax.device_get(state.ema), expected, atol=1e-6)
    assert state.eval_variables is state.ema


def test_weights_that_see_only_padding_stay_zero(steps, initial_state, step_config, mesh8):
    state = place(initial_state, mesh8)
    for number in range(2):
        state, _ = steps[Phase.COMPLETION](state, make_batch(number, step_config, mesh8))
    for params in (state.generator.params, state.ema["params"]):
        kernels = [layer["conv"]["kernel"] for layer in params["dilation_neck"].values()]
        weights = [int((kernel != 0).sum()) / kernel[0, 0].size for kernel in kernels]
        assert weights == [9, 9, 1, 1]  # of 8x8 inputs, dilations of 8 and 16 see only the middle


def run_in_float64(config, mesh, phase, images):
    """(networks' new states, metrics) after one step on these images of batch 0."""
    batch = jax.device_get(make_batch(0, make_small_config(global_batch_size=16), mesh))
    batch = to_global({name: values[np.array(images)] for name, values in batch.items()}, mesh)
    state = jax.tree.map(to_float64, jax.device_get(make_state(config, mesh)))
    with jax.enable_x64(True):
        state, metrics = make_steps(config, mesh)[phase](place(state, mesh), batch)
    return jax.device_get(((state.generator, state.discriminator), metrics))


def test_microbatches_are_parts_of_the_global_batch(mesh8, mesh1, soak):
    """The same on one device and eight; statistics are the mean of those of separate batches."""
    phase = Phase.JOINT if soak else Phase.COMPLETION  # the joint step takes a minute to compile
    config = make_small_config(global_batch_size=16, microbatches=2)
    on_eight, metrics = run_in_float64(config, mesh8, phase, range(16))
    assert_close((on_eight, metrics), run_in_float64(config, mesh1, phase, range(16)), rtol=1e-9)

    config = dataclasses.replace(config, global_batch_size=8, microbatches=1)
    halves = [run_in_float64(config, mesh1, phase, range(half, 16, 2))[0][0] for half in (0, 1)]
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *(half.batch_stats for half in halves))
    assert_close(on_eight[0].batch_stats, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("phase", "broken", "skipped", "moving"),
    [
        (Phase.COMPLETION, "generator", 1, set()),
        (Phase.COMPLETION, "discriminator", 0, {"generator"}),
        (Phase.DISCRIMINATOR, "generator", 1, set()),
        # The generator's running statistics do not depend on the discriminator.
        (Phase.DISCRIMINATOR, "discriminator", 1, {"generator"}),
        (Phase.JOINT, "generator", 1, set()),
        (Phase.JOINT, "discriminator", 1, set()),
    ],
)
def test_non_finite_updates_are_skipped(
    phase, broken, skipped, moving, steps, initial_state, step_config, mesh8
):
    """One parameter of NaNs makes the losses and gradients NaN."""
    network = getattr(initial_state, broken)
    first, *rest = jax.tree.leaves(network.params)
    params = jax.tree.unflatten(
        jax.tree.structure(network.params), [np.full_like(first, np.nan), *rest]
    )
    poisoned = initial_state.replace(**{broken: network.replace(params=params)})
    batch = make_batch(0, step_config, mesh8)
    state, metrics = steps[phase](place(poisoned, mesh8), batch)
    assert metrics["skipped"] == skipped
    assert int(state.step) == 1  # the batch is not repeated
    for name in ("generator", "discriminator"):
        before, after = getattr(poisoned, name), getattr(state, name)
        if name in moving:
            pairs = zip(*map(jax.tree.leaves, (before.batch_stats, after.batch_stats)), strict=True)
            assert any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs)
        else:
            jax.tree.map(np.testing.assert_array_equal, before, after)
        broken_leaves = [np.isnan(leaf).any() for leaf in jax.tree.leaves(after)]
        assert sum(broken_leaves) == (name == broken)


def make_fast_learner(precision="float32"):
    """A config for two images, shared by the tests on one device so that they compile once."""
    return make_small_config(
        precision=precision,
        global_batch_size=2,
        losses=LossConfig(l1_valid=1.0),
        optimizer=OptimizerConfig(learning_rate=1e-2),
    )


def test_overfits_one_batch(mesh1):
    config = make_fast_learner()
    state, batch = make_state(config, mesh1), make_batch(0, config, mesh1)
    rows = 8 * jnp.arange(32, dtype=jnp.uint8).reshape(1, 32, 1, 1)
    batch["image"] = jnp.broadcast_to(rows, batch["image"].shape)
    step = make_steps(config, mesh1)[Phase.COMPLETION]
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch)
        losses.append(float(metrics["l1_hole"]))
    assert losses[-1] < 0.25 * losses[0]


def test_bfloat16_keeps_the_state_in_float32_and_stays_close(mesh1):
    results = {}
    for precision in ("float32", "bfloat16"):
        config = make_fast_learner(precision)
        state, metrics = make_steps(config, mesh1)[Phase.COMPLETION](
            make_state(config, mesh1), make_batch(0, config, mesh1)
        )
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.generator.variables))
        assert metrics["l1_hole"].dtype == jnp.float32
        results[precision] = float(metrics["l1_hole"])
    assert results["bfloat16"] == pytest.approx(results["float32"], rel=0.02)
    assert results["bfloat16"] != results["float32"]
