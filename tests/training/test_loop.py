"""The weights a new run starts from, what it says, when it saves and what it compiles."""

import dataclasses
import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax import parallel
from glinpaint_jax.config import MaskConfig, ModelConfig, PhasesConfig
from glinpaint_jax.data.datasets import Sources
from glinpaint_jax.errors import UserError
from glinpaint_jax.interop.weight_files import pth_bytes
from glinpaint_jax.runs.progress import Progress
from glinpaint_jax.step_folders import FOLDER, read_json, steps_in
from glinpaint_jax.training import loop
from glinpaint_jax.training.state import create_state
from glinpaint_jax.weights import load_weights
from tests.helpers.configs import make_small_config
from tests.helpers.networks import make_weights
from tests.helpers.sources import Numbered, numbers, take


@pytest.fixture(scope="module")
def weights():
    return make_weights(make_small_config(seed=5))


@pytest.fixture
def start_from(weights, tmp_path):
    """Saves the weights and returns a config that starts from them."""

    def start_from(weights=weights, **changes):
        (tmp_path / "a.pth").write_bytes(pth_bytes(weights))
        return make_small_config(init_from=str(tmp_path / "a.pth"), **changes)

    return start_from


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_networks_and_ema_start_from_the_file(weights, start_from):
    config = start_from(ema_decay=0.9)
    *networks, origin = loop.initial_networks(config)
    state = jax.jit(lambda *networks: create_state(config, *networks))(*networks)
    for variables in (state.generator.variables, state.ema):
        assert_equal(variables, weights.generator)
    assert_equal(state.discriminator.variables, weights.discriminator)
    assert int(state.step) == 0
    assert origin == (
        f"starting from {config.init_from} in the completion phase; its discriminator comes along"
    )


@pytest.mark.parametrize("said", ["no discriminator", "for images of 32, not 128"])
def test_an_unusable_discriminator_starts_from_random_weights(said, weights, start_from):
    if said == "no discriminator":
        config = start_from(dataclasses.replace(weights, discriminator=None))
    else:
        config = start_from(image_size=128)
    generator, discriminator, origin = loop.initial_networks(config)
    assert_equal(generator, weights.generator)
    assert discriminator is None
    assert said in origin and "random weights" in origin


def test_another_color_in_holes_and_the_first_phase_are_said(start_from):
    mask = MaskConfig(max_size=16, max_delta=4, margin=2, fill=(1.0, 2.0, 3.0))
    config = start_from(mask=mask, phases=PhasesConfig(-1, -1))
    origin = loop.initial_networks(config)[-1]
    assert " in the joint phase; " in origin
    assert "it saw the color (127.5, 127.5, 127.5) in holes, now mask.fill is (1.0, 2.0" in origin


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
        loop.initial_networks(start_from(model=model))


def test_milestones_are_saved_between_checkpoints():
    config = make_small_config(checkpoint_every=4, keep_every=6)
    assert [step for step in range(1, 13) if loop.is_save_due(step, config)] == [4, 6, 8, 12]


def test_the_images_of_a_step_are_those_that_the_pipeline_feeds_it():
    source, config = Numbered(50), make_small_config(global_batch_size=4)
    fed = numbers(take(source, config, 2)[1:])
    expected = f"images: records {fed}, the first image {fed[0]}"
    assert loop.describe_images(source, config, 0, 2) == expected


def test_a_due_save_is_made_even_if_the_evaluation_before_it_fails(tmp_path, monkeypatch):
    """Steps 2 and 4 are evaluated, 4 is the last. Without the failure, the step has its scores."""

    def fail(*_):
        raise UserError("a held-out image cannot be decoded")

    phases = PhasesConfig(completion_end=10, discriminator_end=10)
    config = make_small_config(num_steps=4, checkpoint_every=100, eval_every=2, phases=phases)
    with monkeypatch.context() as patched, pytest.raises(UserError, match="a held-out image"):
        patched.setattr(loop, "evaluate", fail)
        loop.train(dataclasses.replace(config, checkpoint_every=2), tmp_path / "failed")
    assert steps_in(tmp_path / "failed") == [2]
    loop.train(config, tmp_path / "failed")  # resumes there
    loop.train(config, tmp_path / "whole")
    metrics = [
        json.loads((tmp_path / name / FOLDER / "4" / "metrics" / "metrics").read_text())
        for name in ("failed", "whole")
    ]
    assert metrics[0] == metrics[1] and metrics[0]["phase"] == "completion"


def test_batch_rate_and_devices_change_on_resume_without_a_gap_in_the_stream(tmp_path, monkeypatch):
    seen, source = [], Numbered(50)

    def to_global(batch, mesh):
        seen.extend(batch["image"][:, 0, 0, 0].tolist())
        return parallel.to_global(batch, mesh)

    monkeypatch.setattr(loop, "to_global", to_global)
    monkeypatch.setattr(loop, "open_sources", lambda *_: Sources(source, {"val": Numbered(4)}, ""))
    config = make_small_config(eval_every=100, checkpoint_every=100, num_steps=3)
    starts = [
        (8, {"num_steps": 3, "global_batch_size": 8}),
        (2, {"num_steps": 5, "global_batch_size": 4, "microbatches": 2, "ema_decay": 0.9}),
        (4, {"num_steps": 8, "global_batch_size": 12, "microbatches": 1, "precision": "bfloat16"}),
    ]
    config.ema_decay = 0.99
    for devices, changes in starts:
        mesh = parallel.make_mesh(jax.devices()[:devices])
        monkeypatch.setattr(loop, "make_mesh", lambda mesh=mesh: mesh)
        config = dataclasses.replace(config, **changes)
        config.optimizer = dataclasses.replace(config.optimizer, learning_rate=1e-4 * devices)
        loop.train(config, tmp_path, ["config"])
    total = 3 * 8 + 2 * 4 + 3 * 12
    assert seen == numbers(take(source, config, 1, local_batch_size=total))
    assert load_weights(tmp_path).step == 8
    data = read_json(tmp_path / FOLDER / "8" / "data")
    assert data["examples"] == total and [change["step"] for change in data["changes"]] == [3, 5]
    fields = data["changes"][0]["fields"]
    assert fields["global_batch_size"] == [8, 4]
    assert fields["optimizer.learning_rate"] == [8e-4, 2e-4]


def test_a_trace_shows_the_steps_asked_for(tmp_path, capsys):
    """Also if the run ends before: it traces what is left."""
    config = make_small_config(num_steps=7, phases=PhasesConfig(10, 10), eval_every=100)
    for steps, expected in ((1, 3), (9, 4)):  # two more are in flight
        loop.train(config, tmp_path / str(steps), profiled_steps=steps)
        assert f"wrote a trace of {steps} steps to" in capsys.readouterr().err
        (trace,) = (tmp_path / str(steps) / "profile").rglob("perfetto_trace.json.gz")
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
        names = [event.get("name", "") for event in events]
        assert names.count("PjitFunction(completion_step)") in (0, expected)
        assert sum("completion_step" in name for name in names) >= expected


def test_steps_that_move_anything_else_to_the_devices_are_rejected(tmp_path, monkeypatch):
    compile_steps = loop.compile_steps

    def compile_careless_steps(*arguments):
        return {phase: careless(step) for phase, step in compile_steps(*arguments).items()}

    def careless(step):
        return lambda *inputs: (jnp.add(np.ones(3), 1), step(*inputs))[1]

    monkeypatch.setattr(loop, "compile_steps", compile_careless_steps)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        loop.train(make_small_config(num_steps=1), tmp_path)


COMPILED = "/jax/core/compile/backend_compile_duration"  # cache hits on disk too


@pytest.fixture
def compiled():
    """The names of the programs compiled so far, in any thread."""
    names = []

    def listen(event, duration, **details):
        if event == COMPILED:
            names.append(details["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_every_program_is_compiled_once(compiled, step_config, tmp_path, monkeypatch):
    config = dataclasses.replace(
        step_config,
        eval_every=2,
        checkpoint_every=2,
        # Steps 1 to 4: completion; 5, 6, 7 and 9: discriminator; 8 and 10: joint.
        phases=PhasesConfig(completion_end=3, discriminator_end=5, disc_step=2),
    )
    names_by_step = {}

    class CountingProgress(Progress):
        def add(self, step, phase, metrics):
            super().add(step, phase, metrics)
            names_by_step[step] = compiled.copy()
            compiled.clear()

    monkeypatch.setattr(loop, "Progress", CountingProgress)
    loop.train(config.validate(), tmp_path)

    assert len(names_by_step) == config.num_steps == 10
    assert compiled == []  # nothing since the last step: not by the last evaluation and save
    steps = [name for name in names_by_step.pop(1) if name.endswith("_step)")]
    assert sorted(steps) == ["jit(completion_step)", "jit(discriminator_step)", "jit(joint_step)"]
    assert "jit(complete_pixels)" in names_by_step.pop(3)  # after the first evaluation
    assert not any(names_by_step.values()), names_by_step
