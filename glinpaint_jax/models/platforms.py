"""What XLA:GPU must be told to move less memory. On other platforms these functions do nothing.

Each number is the joint step's memory traffic in bfloat16, with 12 images on each of eight H200s,
as `scripts/benchmarks/compile_steps.py` reads it from the compiled program. TPUs would lose their
fusions.
"""

from typing import Any

import jax
from jax import Array, lax
from jax.experimental.layout import Layout, with_layout_constraint


def separate(tree: Any) -> Any:
    """The same arrays. XLA fuses nothing across this point, and computes again what is used later.

    It would keep intermediate results of batch norm in float32, or as a mask.
    """
    leaves, structure = jax.tree.flatten(tree)
    leaves = lax.platform_dependent(
        *leaves,
        cuda=lambda *leaves: lax.optimization_barrier(leaves),
        default=lambda *leaves: leaves,
    )
    return jax.tree.unflatten(structure, leaves)


def row_major(array: Array) -> Array:
    """The same array, in memory in the order of its axes.

    cuDNN returns gradients of kernels in another order; the optimizer's state would follow them,
    and be transposed twice a step.
    """
    layout = Layout(major_to_minor=tuple(range(array.ndim)))
    return lax.platform_dependent(
        array, cuda=lambda array: with_layout_constraint(array, layout), default=lambda array: array
    )
