"""What XLA:GPU must be told to move less memory. On other platforms these functions do nothing.

Each number is the joint step's memory traffic in bfloat16, with 12 images on each of eight H200s,
as `scripts/benchmarks/compile_steps.py` reads it from the compiled program. TPUs would lose their
fusions.
"""

from typing import Any

import jax
from jax import Array, lax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Float


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


def pixels_in_lanes(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """The same images; on TPUs in memory as planes of pixels.

    The compiler would lay them out, and what they are computed from, by images: 12 for 128 lanes.
    """
    layout = Layout(major_to_minor=(0, 3, 1, 2))
    return lax.platform_dependent(
        images,
        tpu=lambda images: with_layout_constraint(images, layout),
        default=lambda images: images,
    )


def row_major(array: Array) -> Array:
    """The same array, in memory in the order of its axes.

    cuDNN returns gradients of kernels in another order; the optimizer's state would follow them,
    and be transposed twice a step.
    """
    layout = Layout(major_to_minor=tuple(range(array.ndim)))
    return lax.platform_dependent(
        array, cuda=lambda array: with_layout_constraint(array, layout), default=lambda array: array
    )
