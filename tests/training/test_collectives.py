"""Reads from the compiled steps what the devices exchange."""

import math
import re
from collections import Counter

import jax
import pytest

from glinpaint_jax.models.networks import abstract_variables
from glinpaint_jax.training.phases import Phase
from tests.helpers.steps import make_batch

COLLECTIVES = (
    "all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|"
    "collective-permute|collective-broadcast"
)
# For each network: forward passes, backward passes, and backward passes that compute gradients of
# its parameters. The discriminator has one of each for fake and for real images; the joint phase
# adds a forward and a backward pass for the generator's loss.
PASSES = {
    Phase.COMPLETION: {"generator": (1, 1, 1)},
    Phase.DISCRIMINATOR: {"generator": (1, 0, 0), "discriminator": (2, 2, 2)},
    Phase.JOINT: {"generator": (1, 1, 1), "discriminator": (3, 3, 2)},
}
# Vectors that a batch norm reduces, one value per channel: the mean and the variance in the forward
# pass; the gradients of bias and scale, which the input's gradient needs too, in the backward pass.
FORWARD_VECTORS, BACKWARD_VECTORS = 2, 2
# Sums in the losses: ten for the reconstruction, one for each pass of the discriminator.
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


def spans_all_devices(groups, devices):
    """Whether `groups`, in any of XLA's notations, is one group of all `devices` devices."""
    axes = dict(re.findall(r"'(\w+)'=(\d+)", groups))
    if axes:  # mesh['axis_0'=8,'axis_1'=1] {'axis_0'}
        return math.prod(int(axes[a]) for a in re.findall(r"'(\w+)'(?!=)", groups)) == devices
    if "<=" in groups:  # [1,8]<=[8]
        return groups.startswith(f"[1,{devices}]")
    return groups == "{{" + ",".join(map(str, range(devices))) + "}}"


def expected_tensors(config, phase):
    """Everything a step must reduce except sums in the losses, from the parameters' shapes."""
    expected = Counter()
    variables = dict(zip(("generator", "discriminator"), abstract_variables(config), strict=True))
    for network, (forward, backward, gradients) in PASSES[phase].items():
        for path, leaf in jax.tree.leaves_with_path(variables[network]["params"]):
            if path[-2].key == "bn":  # scale and bias: half of the layer's vectors each
                count = (forward * FORWARD_VECTORS + backward * BACKWARD_VECTORS) // 2
            else:
                count = gradients
            expected["f32", leaf.size] += count
    return +expected


@pytest.mark.parametrize("phase", list(Phase))
def test_steps_only_reduce_gradients_and_batch_statistics(
    phase, steps, initial_state, step_config, mesh8
):
    """Each is reduced once per pass; activations and images stay on their device."""
    batch = make_batch(0, step_config, mesh8)
    collectives = collectives_in(steps[phase].lower(initial_state, batch).compile().as_text())
    assert {kind for kind, _, _ in collectives} == {"all-reduce"}
    assert all(spans_all_devices(groups, mesh8.devices.size) for _, groups, _ in collectives)

    found = Counter(tensor for _, _, tensors in collectives for tensor in tensors)
    expected = expected_tensors(step_config, phase)
    assert expected - found == Counter(), "not reduced"
    scalars = (found - expected).pop(("f32", 1))
    assert found - expected == Counter({("f32", 1): scalars}), "reduced too often"
    assert scalars <= MOST_SCALARS
