"""The smooth fill: the solution of Laplace's equation in a hole, given the pixels around it.

Every pixel of the hole becomes the mean of its neighbors. Conjugate gradients solve the linear
system, preconditioned by a multigrid cycle (Tatebe 1993): on each coarser level, 2x2 pixels become
one. The number of cycles is fixed, so that the program is static. `interop/torch_module.py` has the
same algorithm in PyTorch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

CYCLES = 8
SMOOTHINGS = 2  # Jacobi iterations before and after each coarser level
COARSEST_SMOOTHINGS = 8
DAMPING = 0.8  # of the Jacobi iterations
UNKNOWN_SIZE_LEVELS = 8  # in programs for any size; enough for holes of up to 1,900 pixels
# Coarse weights are sums over two links, scaled by the longer distance: two fine pixels to the next
# coarse one, one and a half to a known pixel.
COARSE_LINK, COARSE_ANCHOR = 1 / 2, 2 / 3

Grid = Float[Array, "b c h w"]


class Level(NamedTuple):
    """The linear system at one resolution: weight * x - sum of (links * neighbors) = right side.

    `links` [b, 4, h, w] are the weights of the links to the next pixel on the left and right, above
    and below, if both are in the hole. `weight` [b, 1, h, w] is their sum plus the weight of links
    to known pixels, and 0 outside the hole.
    """

    links: Array
    weight: Array


def smooth_fill(
    image: Float[Array, "b h w c"], mask: Float[Array, "b h w 1"]
) -> Float[Array, "b h w c"]:
    """Returns the image with its hole (mask 1) filled smoothly from the pixels around it.

    The image's edge acts as a mirror. Without any known pixel, the fill is 0. No gradient flows.
    """
    image, mask = (jnp.moveaxis(lax.stop_gradient(x), -1, 1) for x in (image, mask))
    known = jnp.where(mask > 0, 0, image)
    levels = make_levels(mask)
    residual = mask * sum(neighbors(known))
    direction = cycle(levels, residual)
    start = jnp.zeros_like(known), residual, direction, dot(residual, direction)

    def iterate(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        solution, residual, direction, energy = state
        change = apply(levels[0], direction)
        step = divide(energy, dot(direction, change))
        solution, residual = solution + step * direction, residual - step * change
        correction = cycle(levels, residual)
        new_energy = dot(residual, correction)
        direction = correction + divide(new_energy, energy) * direction
        return solution, residual, direction, new_energy

    return jnp.moveaxis(known + lax.fori_loop(0, CYCLES, iterate, start)[0], 1, -1)


def make_levels(mask: Grid) -> list[Level]:
    """Returns the linear systems from the finest, [b, 1, h, w], to the coarsest."""
    links = jnp.concatenate([mask * other for other in neighbors(mask)], axis=1)
    anchor = mask * sum(neighbors(jnp.ones_like(mask))) - links.sum(1, keepdims=True)
    levels = []
    for _ in range(count_levels(*mask.shape[2:])):
        levels.append(Level(links, links.sum(1, keepdims=True) + anchor))
        # Links within a block of 2x2 pixels vanish: those of odd pixels to the left or above, and
        # of even ones to the right or below.
        direction, row, column = (lax.broadcasted_iota(int, links.shape, i) for i in (1, 2, 3))
        position = jnp.where(direction < 2, column, row)
        links = COARSE_LINK * pool(jnp.where(position % 2 == direction % 2, links, 0))
        anchor = COARSE_ANCHOR * pool(anchor)
    return levels


def count_levels(height: Any, width: Any) -> int:
    """Enough for a coarsest level of at most 4x4. Exported programs have symbolic sizes."""
    if jax.export.is_symbolic_dim(height) or jax.export.is_symbolic_dim(width):
        return UNKNOWN_SIZE_LEVELS
    return max(1, (max(height, width) - 1).bit_length() - 1)


def cycle(levels: list[Level], residual: Grid) -> Grid:
    """One symmetric V-cycle: an approximate solution for the right side `residual`."""
    level, *coarser = levels
    if not coarser:
        return relax(level, residual, jnp.zeros_like(residual), COARSEST_SMOOTHINGS)
    solution = relax(level, residual, jnp.zeros_like(residual), SMOOTHINGS)
    coarse = cycle(coarser, pool(residual - apply(level, solution)))
    height, width = residual.shape[2:]
    coarse = jnp.repeat(jnp.repeat(coarse, 2, axis=2), 2, axis=3)[:, :, :height, :width]
    solution += jnp.where(level.weight > 0, coarse, 0)
    return relax(level, residual, solution, SMOOTHINGS)


def relax(level: Level, residual: Grid, solution: Grid, steps: int) -> Grid:
    """Damped Jacobi iterations. A loop, since XLA compiles unrolled stencils very slowly."""
    rate = DAMPING * divide(jnp.ones_like(level.weight), level.weight)

    def iterate(_: Array, x: Grid) -> Grid:
        return x + rate * (residual - apply(level, x))

    return lax.fori_loop(0, steps, iterate, solution)


def apply(level: Level, x: Grid) -> Grid:
    """Returns the system's matrix times `x`, which is 0 outside the hole."""
    linked = (level.links[:, i : i + 1] * other for i, other in enumerate(neighbors(x)))
    return level.weight * x - sum(linked)


def neighbors(x: Grid) -> list[Grid]:
    """Each pixel's left, right, upper and lower neighbor; 0 beyond the edge."""
    none, before, after = (0, 0, 0), (1, -1, 0), (-1, 1, 0)
    zero = jnp.zeros((), x.dtype)
    return [
        lax.pad(x, zero, (none, none, rows, columns))
        for rows, columns in ((none, before), (none, after), (before, none), (after, none))
    ]


def pool(x: Grid) -> Float[Array, "b c half_h half_w"]:
    """Sums blocks of 2x2 pixels; a last odd row or column has its own."""
    return lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "SAME")


def dot(x: Grid, y: Grid) -> Float[Array, "b c 1 1"]:
    return (x * y).sum((2, 3), keepdims=True)


def divide(x: Grid, y: Grid) -> Grid:
    """x / y, and 0 unless y > 0."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), 0)
