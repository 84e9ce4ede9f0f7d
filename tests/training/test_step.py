"""Training steps: the EMA, microbatches, skipped updates, bfloat16.

tests/interop/test_step_parity.py compares a step of each phase on eight devices with PyTorch.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def run_in_float64(config, mesh, phase, images):
    """(networks' new states, metrics) after one step on these images of batch 0."""
    batch = jax.device_get(make_batch(0, make_small_config(global_batch_size=16), mesh))
    batch = to_global({name: values[np.array(images)] for name, values in batch.items()}, mesh)
    state = jax.tree.map(to_float64, jax.device_get(make_state(config, mesh)))
    with jax.enable_x64(True):
        state, metrics = make_steps(config, mesh)[phase](place(state, mesh), batch)
    return jax.device_get(((state.generator, state.discriminator), metrics))


@pytest.mark.parametrize("phase", [Phase.COMPLETION, Phase.DISCRIMINATOR])
def test_microbatches_are_parts_of_the_global_batch(phase, mesh8, mesh1):
    """The same on one device and eight; statistics are the mean of those of separate batches."""
    config = make_small_config(global_batch_size=16, microbatches=2)
    on_eight, metrics = run_in_float64(config, mesh8, phase, range(16))
    on_one = run_in_float64(config, mesh1, phase, range(16))
    # Some of Adam's moments are near 0: sums that cancel.
    assert_close((on_eight, metrics), on_one, rtol=1e-9, atol=1e-17)

    config = dataclasses.replace(config, global_batch_size=8, microbatches=1)
    halves = [run_in_float64(config, mesh1, phase, range(half, 16, 2))[0] for half in (0, 1)]
    for network, *separate in zip(on_eight, *halves, strict=True):
        expected = jax.tree.map(lambda a, b: (a + b) / 2, *(half.batch_stats for half in separate))
        assert_close(network.batch_stats, expected, rtol=1e-12)


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


def test_bfloat16_keeps_the_state_in_float32_and_stays_close(mesh1):
    results = {}
    for precision in ("float32", "bfloat16"):
        config = make_small_config(precision=precision, global_batch_size=2)
        state, metrics = make_steps(config, mesh1)[Phase.COMPLETION](
            make_state(config, mesh1), make_batch(0, config, mesh1)
        )
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.generator.variables))
        assert metrics["l1_hole"].dtype == jnp.float32
        results[precision] = float(metrics["l1_hole"])
    assert results["bfloat16"] == pytest.approx(results["float32"], rel=0.02)
    assert results["bfloat16"] != results["float32"]
