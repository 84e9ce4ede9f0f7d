"""Memory and arithmetic of the compiled steps."""

import dataclasses
import re
from pathlib import Path

import jax
import pytest

from glinpaint_jax.config import Config
from glinpaint_jax.errors import UserError
from glinpaint_jax.models.complete import make_complete_function
from glinpaint_jax.models.networks import Weights, init_variables
from glinpaint_jax.training import compile as compile_module
from glinpaint_jax.training import loop
from glinpaint_jax.training.compile import check_fit, compile_step, free_host_memory
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import abstract_state
from glinpaint_jax.training.step import make_steps
from tests.helpers.configs import make_small_config
from tests.helpers.steps import make_batch

GB = 10**9
# Bytes of the joint step and of the state, compiled for one CPU at full width.
JOINT_4, JOINT_12, STATE = 3_000_000_000, 6_493_000_000, 614_000_000


def test_a_step_that_fits_is_accepted(mesh1):
    check_fit(Phase.JOINT, JOINT_12, JOINT_12, STATE, Config(global_batch_size=12), mesh1)


@pytest.mark.parametrize(("limit", "fitting"), [(JOINT_4, 4), (6_400_000_000, 11)])
def test_a_step_that_does_not_fit_is_rejected_with_a_batch_that_does(limit, fitting, mesh1):
    config = Config(global_batch_size=12)
    with pytest.raises(UserError) as error:
        check_fit(Phase.JOINT, JOINT_12, limit, STATE, config, mesh1)
    message = str(error.value)
    assert "the joint step needs 6.5 GB of memory per device" in message and "\n" not in message
    assert f"with config.global_batch_size=12, but only {limit / 1e9:.1f} GB are" in message
    suggested = int(re.search(r"--config\.global_batch_size=(\d+), or", message)[1])
    assert suggested in (fitting, fitting - 1)  # an estimate, on the safe side
    parts = int(re.search(r"or --config\.microbatches=(\d+) for the same batch$", message)[1])
    assert parts == {4: 3, 11: 2}[fitting]  # of 12 images


def test_the_suggested_batch_is_shared_by_all_devices(mesh8):
    with pytest.raises(UserError, match=r"about 32 images .* --config\.global_batch_size=32, or"):
        check_fit(Phase.JOINT, 13 * GB, 5 * GB, GB // 2, Config(), mesh8)
    with pytest.raises(UserError, match=r"not even one image would fit; lower --config\.model\.w"):
        check_fit(Phase.JOINT, 13 * GB, GB // 2, GB // 2, Config(), mesh8)


def test_a_run_that_does_not_fit_stops_before_its_first_step(step_config, tmp_path, monkeypatch):
    def add(*_):
        raise AssertionError("a step was made")

    monkeypatch.setattr(compile_module, "free_memory", lambda: 10_000)
    monkeypatch.setattr(loop.Progress, "add", add)
    with pytest.raises(UserError, match=r"the completion step needs \d MB .* only 2 MB are"):
        loop.train(dataclasses.replace(step_config, num_steps=2), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_compiler_out_of_memory_is_reported_in_one_line(monkeypatch):
    def compile(lowered, options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 20G of 15.7G hbm.\nBig: x")

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile)
    with pytest.raises(UserError) as error:
        compile_step(jax.jit(abs).lower(1), Phase.JOINT, make_small_config())
    assert str(error.value) == (
        "the joint step does not fit the memory of a device (RESOURCE_EXHAUSTED: Used 20G of 15.7G "
        "hbm); lower --config.global_batch_size, which is 8"
    )


def test_this_jaxlib_knows_the_compiler_flags(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compile_step(jax.jit(abs).lower(1), Phase.JOINT, make_small_config())


def write_cgroup(folder, limit, used, cached):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")


def test_free_memory_respects_the_limits_of_all_enclosing_cgroups(tmp_path, monkeypatch):
    class Machine:
        available = 900

    monkeypatch.setattr(compile_module.psutil, "virtual_memory", lambda: Machine)
    membership = tmp_path / "cgroup"
    assert free_host_memory(tmp_path, membership) == 900  # not Linux
    membership.write_text("4:memory:/old\n0::/job/step\n")
    assert free_host_memory(tmp_path, membership) == 900  # no limits
    write_cgroup(tmp_path / "job" / "step", "max", 100, 0)
    write_cgroup(tmp_path / "job", 500, 300, 50)
    assert free_host_memory(tmp_path, membership) == 250
    write_cgroup(tmp_path / "job", 5000, 300, 50)
    assert free_host_memory(tmp_path, membership) == 900
    write_cgroup(tmp_path / "job", 300, 400, 50)
    assert free_host_memory(tmp_path, membership) == 0
    assert free_host_memory(tmp_path, Path("/proc/self/cgroup")) == 900


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
    batch = make_batch(0, config, mesh1)
    traced = make_steps(config, mesh1)[Phase.JOINT].trace(abstract_state(config, mesh1), batch)
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
