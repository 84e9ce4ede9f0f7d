"""Reads from the compiled steps what the devices exchange."""

import math
import re
from collections import Counter

import hlo
import jax
import pytest

from glinpaint_jax.models.networks import abstract_variables
from glinpaint_jax.training.phases import Phase
from tests.helpers.steps import make_batch

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
OTHER_REDUCTIONS = 6  # of gradients and losses; XLA joins them


def collectives_in(program):
    """(kind, [size]) of each collective in the text of a compiled program.

    Sizes, not shapes: XLA transposes and reshapes what it reduces.
    """
    return [
        (match[2], [math.prod(sides) for _, sides in hlo.arrays_in(match[1])])
        for match in re.finditer(rf"= (.*?) ({hlo.COLLECTIVES})(-start)?\(", program)
    ]


def expected_sizes(config, phase):
    """The sizes of what a step must reduce except sums in the losses, from the parameters' shapes.

    Returns (those of gradients, those of batch norms' sums).
    """
    gradients, sums = Counter(), []
    variables = dict(zip(("generator", "discriminator"), abstract_variables(config), strict=True))
    for network, (passes, trained) in PASSES[phase].items():
        for path, leaf in jax.tree.leaves_with_path(variables[network]["params"]):
            layer, name = path[-2].key, path[-1].key
            if layer != "bn":
                gradients[leaf.size] += trained
            elif name == "scale":  # the sums are also the gradients of scale and bias
                sums += [VECTORS * batches * leaf.size for batches in passes]
    return +gradients, sums


@pytest.mark.parametrize("phase", list(Phase))
def test_steps_only_reduce_gradients_and_batch_statistics(
    phase, steps, initial_state, step_config, mesh8
):
    """Statistics once per pass, gradients once; activations and images stay on their device."""
    batch = make_batch(0, step_config, mesh8)
    collectives = collectives_in(steps[phase].lower(initial_state, batch).compile().as_text())
    assert {kind for kind, _ in collectives} == {"all-reduce"}
    found = [size for _, sizes in collectives for size in sizes]
    gradients, sums = expected_sizes(step_config, phase)
    assert gradients - Counter(found) == Counter(), "not reduced"
    # XLA splits what we reduce at once, such as the two vectors of a batch norm, and joins it again
    # in one operation. So numbers and operations count, not arrays.
    scalars = sum(found) - sum(gradients.elements()) - sum(sums)
    assert 0 <= scalars <= MOST_SCALARS
    assert len(collectives) <= len(sums) + OTHER_REDUCTIONS
