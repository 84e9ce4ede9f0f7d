"""What XLA:GPU must be told to move less memory. On other platforms these functions do nothing.

On a TPU they would break fusions. What they save was read from the joint step in bfloat16, compiled
for eight H200s with 12 images each (`scripts/benchmarks/compile_steps.py`). It moves 16.4 GB.
"""

from typing import Any

from jax import Array, lax
from jax.experimental.layout import Layout, with_layout_constraint


def separate(tree: Any) -> Any:
    """The same arrays. XLA fuses nothing across this point, and computes again what is used later.

    In batch norm, it would keep masks of active pixels (1.3 GB). After the optimizer, it would also
    write kernels for the next convolution in the same loop, which then works on copies (0.2 GB).
    """
    return lax.platform_dependent(tree, cuda=lax.optimization_barrier, default=lambda tree: tree)


def row_major(array: Array) -> Array:
    """The same array, in memory in the order of its axes.

    cuDNN returns gradients of kernels in another order. The optimizer's state would follow them,
    and be transposed twice a step (1.2 GB).
    """
    layout = Layout(major_to_minor=tuple(range(array.ndim)))
    return lax.platform_dependent(
        array, cuda=lambda array: with_layout_constraint(array, layout), default=lambda array: array
    )
