"""Reads from the compiled steps what the devices exchange."""

import math
import re
from collections import Counter

import jax
import numpy as np
import pytest

from glinpaint_jax.distributed import split_into_groups
from glinpaint_jax.models.networks import abstract_variables
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import abstract_state
from glinpaint_jax.training.step import make_steps
from tests.helpers.configs import make_small_config
from tests.helpers.steps import make_batch

COLLECTIVES = (
    "all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|"
    "collective-permute|collective-broadcast"
)
# For each network: the batches that each of its passes, forward or backward, normalizes; and
# whether its parameters are trained. Fake and real images share the passes of the discriminator's
# update; the joint phase adds two for the generator's loss.
PASSES = {
    Phase.COMPLETION: {"generator": ([1, 1], 1)},
    Phase.DISCRIMINATOR: {"generator": ([1], 0), "discriminator": ([2, 2], 1)},
    Phase.JOINT: {"generator": ([1, 1], 1), "discriminator": ([2, 2, 1, 1], 1)},
}
# A batch norm reduces two values per channel and batch in each pass: the sums of its inputs and
# their squares forward; those of the gradient and of its product with the normalized inputs
# backward.
VECTORS = 2
# Sums in the losses: ten for the reconstruction, three for the discriminator's logits.
MOST_SCALARS = 13


def collectives_in(program):
    """(kind, replica groups, [(type, size)]) of each collective in the text of a compiled program.

    Sizes, not shapes: XLA transposes and reshapes what it reduces.
    """
    found = []
    for line in program.splitlines():
        match = re.search(rf"= (.*?) ({COLLECTIVES})(-start)?\(", line)
        if match:
            groups = re.search(r"replica_groups=(.*?), (?:use_|to_apply|dimensions|channel)", line)
            result = re.sub(r"/\*.*?\*/|{.*?}", "", match[1])
            tensors = [
                (dtype, math.prod(int(n) for n in dimensions.split(",") if n))
                for dtype, dimensions in re.findall(r"(\w+)\[([\d,]*)\]", result)
            ]
            found.append((match[2], groups[1] if groups else "", tensors))
    return found


def reductions_in(program, mesh):
    """{replica groups: {(type, size): count}} of the sums over devices in a lowered program."""
    found = {}
    pattern = r"stablehlo\.all_reduce.*?replica_groups = (.*?), use_.*?\}\) : \(tensor<(.*?)>\)"
    for groups, tensor in re.findall(pattern, program, re.S):
        *shape, dtype = tensor.split("x")
        counter = found.setdefault(list_groups(groups, mesh), Counter())
        counter[dtype, math.prod(map(int, shape))] += 1
    return found


def list_groups(groups, mesh):
    """Writes replica groups as lists of devices, whether given as such or by the mesh's axes."""
    axes = re.findall(r'name = "(\w+)"', groups)
    if not axes:
        return re.search(r"dense<(.*?)>", groups)[1]
    numbers = np.arange(mesh.devices.size).reshape(mesh.devices.shape)
    last = [mesh.axis_names.index(axis) for axis in axes]
    numbers = np.moveaxis(numbers, last, range(-len(last), 0))
    sizes = [mesh.shape[axis] for axis in axes]
    return str(numbers.reshape(-1, math.prod(sizes)).tolist())


def spans_all_devices(groups, devices):
    """Whether `groups`, in any of XLA's notations, is one group of all `devices` devices."""
    axes = dict(re.findall(r"'(\w+)'=(\d+)", groups))
    if axes:  # mesh['axis_0'=8,'axis_1'=1] {'axis_0'}
        return math.prod(int(axes[a]) for a in re.findall(r"'(\w+)'(?!=)", groups)) == devices
    if "<=" in groups:  # [1,8]<=[8]
        return groups.startswith(f"[1,{devices}]")
    return groups == "{{" + ",".join(map(str, range(devices))) + "}}"


def expected_tensors(config, phase):
    """Everything a step must reduce except sums in the losses, from the parameters' shapes.

    Returns (gradients, batch norms' sums).
    """
    gradients, sums = Counter(), Counter()
    variables = dict(zip(("generator", "discriminator"), abstract_variables(config), strict=True))
    for network, (passes, trained) in PASSES[phase].items():
        for path, leaf in jax.tree.leaves_with_path(variables[network]["params"]):
            gradients["f32", leaf.size] += trained
            if (path[-2].key, path[-1].key) == ("bn", "scale"):
                sums.update(("f32", VECTORS * batches * leaf.size) for batches in passes)
    return +gradients, sums


@pytest.mark.parametrize("phase", list(Phase))
def test_steps_only_reduce_gradients_and_batch_statistics(
    phase, steps, initial_state, step_config, mesh8
):
    """Statistics once per pass, gradients once; activations and images stay on their device."""
    batch = make_batch(0, step_config, mesh8)
    collectives = collectives_in(steps[phase].lower(initial_state, batch).compile().as_text())
    assert {kind for kind, _, _ in collectives} == {"all-reduce"}
    assert all(spans_all_devices(groups, mesh8.devices.size) for _, groups, _ in collectives)

    found = Counter(tensor for _, _, tensors in collectives for tensor in tensors)
    gradients, sums = expected_tensors(step_config, phase)
    expected = gradients + sums
    assert expected - found == Counter(), "not reduced"
    scalars = (found - expected).pop(("f32", 1))
    assert found - expected == Counter({("f32", 1): scalars}), "reduced too often"
    assert scalars <= MOST_SCALARS


def test_batch_norm_groups_only_reduce_gradients_over_all_devices(mesh8):
    config = make_small_config(batch_norm_devices=4)
    traced = make_steps(config, mesh8)[Phase.JOINT].trace(
        abstract_state(config, mesh8), make_batch(0, config, mesh8)
    )
    found = reductions_in(traced.lower().as_text(), split_into_groups(mesh8, 4))
    gradients, sums = expected_tensors(config, Phase.JOINT)
    assert found["[[0, 1, 2, 3], [4, 5, 6, 7]]"] == sums
    everywhere = found["[[0, 1, 2, 3, 4, 5, 6, 7]]"]
    scalars = (everywhere - gradients).pop(("f32", 1))
    assert everywhere - gradients == Counter({("f32", 1): scalars})
    # The mean of the running statistics: of the generator, and of the discriminator's two updates.
    between = found["[[0, 4], [1, 5], [2, 6], [3, 7]]"]
    assert sum(between.values()) == 3
    assert len(found) == 3


def test_gradients_are_reduced_in_the_chosen_type(mesh8):
    config = make_small_config(gradient_dtype="bfloat16")
    traced = make_steps(config, mesh8)[Phase.JOINT].trace(
        abstract_state(config, mesh8), make_batch(0, config, mesh8)
    )
    (found,) = reductions_in(traced.lower().as_text(), mesh8).values()
    gradients, sums = expected_tensors(config, Phase.JOINT)
    in_bfloat16 = Counter({("bf16", size): count for (_, size), count in gradients.items()})
    assert {key: count for key, count in found.items() if key[0] == "bf16"} == in_bfloat16
    assert not sums - found
