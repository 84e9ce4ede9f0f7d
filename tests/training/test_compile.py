"""Memory and arithmetic of the compiled steps."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from glinpaint_jax.config import MaskConfig
from glinpaint_jax.errors import UserError
from glinpaint_jax.models.networks import Weights, init_variables, make_complete_function
from glinpaint_jax.training import compile as compile_module
from glinpaint_jax.training import loop
from glinpaint_jax.training.compile import abstract_batch, compile_step, free_memory, readable
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import abstract_state
from glinpaint_jax.training.step import make_steps
from tests.helpers.configs import make_small_config
from tests.helpers.sources import Numbered, take

ADVICE = "lower --config.global_batch_size, which is 8, or raise --config.microbatches, which is 1"


def test_a_run_that_does_not_fit_stops_before_its_first_step(step_config, tmp_path, monkeypatch):
    def unread(*_):
        pytest.fail("a batch was read")
        yield

    monkeypatch.setattr(compile_module, "free_memory", lambda: 10_000)
    monkeypatch.setattr(loop, "open_batches", unread)
    expected = rf"the completion step does not fit .* \(\d MB needed, 2 MB available\); {ADVICE}$"
    with pytest.raises(UserError, match=expected):
        loop.train(dataclasses.replace(step_config, num_steps=2), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_device_may_not_tell_its_memory(monkeypatch):
    device = SimpleNamespace(platform="metal", memory_stats=lambda: None)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert readable(free_memory()) == "an unknown amount"


def test_a_compiler_out_of_memory_is_reported_in_one_line(monkeypatch):
    def compile(lowered, options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 20G of 15.7G hbm.\nBig: x")

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile)
    with pytest.raises(UserError) as error:
        compile_step(jax.jit(abs).lower(1), Phase.JOINT, make_small_config())
    assert str(error.value) == (
        "the joint step does not fit the memory of a device (RESOURCE_EXHAUSTED: Used 20G of 15.7G "
        f"hbm); {ADVICE}"
    )


def test_this_jaxlib_knows_the_compiler_flags(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compile_step(jax.jit(abs).lower(1), Phase.JOINT, make_small_config())


MIXED = {"kind": "mixed", "mixed": "square,free_form"}


@pytest.mark.parametrize("mask", [{}, {"max_holes": 3}, {"kind": "irregular"}, MIXED], ids=str)
def test_abstract_batches_are_what_the_pipeline_makes(mask, mesh1):
    config = make_small_config(mask=MaskConfig(max_size=16, max_delta=4, margin=2, **mask))
    (batch,) = take(Numbered(20), config, 1, local_batch_size=config.global_batch_size)
    del batch["failed"]
    found = {name: (leaf.shape, leaf.dtype) for name, leaf in abstract_batch(config, mesh1).items()}
    assert found == {name: (np.shape(values), values.dtype) for name, values in batch.items()}


def precisions(traced, platform):
    """{operation: the precisions it is lowered with}."""
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    found = {}
    for line in program.splitlines():
        operation = re.search(r"stablehlo\.(convolution|dot_general)", line)
        if operation:
            found.setdefault(operation[1], set()).update(re.findall(r"DEFAULT|HIGHEST|HIGH", line))
    return found


@pytest.mark.parametrize(
    ("matmul_precision", "convolution"), [("tensorfloat32", "HIGH"), ("float32", "HIGHEST")]
)
def test_accelerators_train_in_the_chosen_precision(matmul_precision, convolution, mesh1):
    """jax's HIGH is TF32 on GPUs. Its default would be bfloat16 on TPUs."""
    config = make_small_config(matmul_precision=matmul_precision)
    step = make_steps(config, mesh1)[Phase.JOINT]
    traced = step.trace(abstract_state(config, mesh1), abstract_batch(config, mesh1))
    for platform in ("cuda", "tpu"):
        assert precisions(traced, platform) == {
            "convolution": {convolution},
            # The linear layers. On GPUs, gradients of small convolutions are products, too.
            "dot_general": {"HIGHEST"} | ({convolution} if platform == "cuda" else set()),
        }


def test_accelerators_complete_in_float32():
    config = make_small_config()
    abstract = jax.eval_shape(lambda: init_variables(config))
    image, mask = (jax.ShapeDtypeStruct((1, 32, 32, channels), "float32") for channels in (3, 1))

    def complete(variables, image, mask):
        return make_complete_function(Weights(config, 0, variables, None))(image, mask)

    traced = jax.jit(complete).trace(abstract[0], image, mask)
    for platform in ("cuda", "tpu"):
        assert precisions(traced, platform) == {"convolution": {"HIGHEST"}}
