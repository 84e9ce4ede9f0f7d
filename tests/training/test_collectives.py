"""What the devices say to each other in a step, read from the compiled programs."""

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
# Of each network: forward passes, backward passes, and those of them that give its parameters'
# gradient. Fake and real are two of each; the joint phase judges once more, for the generator.
PASSES = {
    Phase.COMPLETION: {"generator": (1, 1, 1)},
    Phase.DISCRIMINATOR: {"generator": (1, 0, 0), "discriminator": (2, 2, 2)},
    Phase.JOINT: {"generator": (1, 1, 1), "discriminator": (3, 3, 2)},
}
# Vectors of a batch norm's channels: forward the mean and the variance, backward the gradients of
# its bias and its scale, which its input's gradient needs as well.
FORWARD_VECTORS, BACKWARD_VECTORS = 2, 2
# Sums of the losses: ten of the reconstruction, one for each time that the discriminator judges.
MOST_SCALARS = 13


def collectives_in(program):
    """(kind, replica groups, [(type, size)]) of each collective in the text of a program.

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
    """Whether `groups`, in any of XLA's notations, is one group of so many devices."""
    axes = dict(re.findall(r"'(\w+)'=(\d+)", groups))
    if axes:  # mesh['axis_0'=8,'axis_1'=1] {'axis_0'}
        return math.prod(int(axes[a]) for a in re.findall(r"'(\w+)'(?!=)", groups)) == devices
    if "<=" in groups:  # [1,8]<=[8]
        return groups.startswith(f"[1,{devices}]")
    return groups == "{{" + ",".join(map(str, range(devices))) + "}}"


def expected_tensors(config, phase):
    """All that a step must reduce but its losses' sums, from the parameters' shapes alone."""
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
    """Once for each pass: no activations, no gathering of images to cut their windows."""
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
