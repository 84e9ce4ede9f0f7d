"""Full-resolution layers on blocks of 2x2 pixels, for TPUs. Equal to the same layers on pixels.

A TPU computes on 128 channels at a time, even if there are only 64, 32 or 3. With `pixel_blocks`,
full-resolution arrays are kept as blocks: the channels of four pixels side by side, [b, h, w, c] ->
[b, h/2, w/2, 4c]. A convolution between blocks is an ordinary one, with a larger kernel that holds
the same numbers and zeros. It multiplies more, but wastes less.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from glinpaint_jax.models.conv import conv


def to_blocks(x: Float[Array, "b h w c"]) -> Float[Array, "b half_h half_w c4"]:
    """Rows of a block first, then columns, then channels. Height and width must be even."""
    b, height, width, channels = x.shape
    x = x.reshape(b, height // 2, 2, width // 2, 2, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, height // 2, width // 2, 4 * channels)


def to_pixels(x: Float[Array, "b hb wb cb"], side: int) -> Float[Array, "b h w c"]:
    """From blocks of side x side pixels."""
    b, height, width, channels = x.shape
    x = x.reshape(b, height, width, side, side, channels // side**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, side * height, side * width, -1)


def conv2d_on_blocks(
    x: Float[Array, "b h w ci4"], kernel: Float[Array, "k k ci co"], stride: int, side: int
) -> Float[Array, "b ho wo cos"]:
    """conv2d with odd k and padding k // 2. Returns blocks of side x side pixels; 1: pixels.

    stride * side must be even and at most 4. The window of a pixel begins k // 2 pixels before it.
    """
    size, _, channels, _ = kernel.shape
    step = stride * side // 2  # blocks of x for each block of the output
    before = (size // 2 + 1) // 2  # blocks that the window needs before those
    first = 2 * before - size // 2  # where in them the kernel begins, in pixels
    taps = (first + size + stride * (side - 1) + 1) // 2  # blocks from the first to the last

    def place(row: int, column: int) -> Float[Array, "n n ci co"]:
        starts = first + stride * row, first + stride * column
        pads = [(start, 2 * taps - size - start) for start in starts]
        return jnp.pad(kernel, (*pads, (0, 0), (0, 0)))

    placed = [place(row, column) for row in range(side) for column in range(side)]
    # Each block of the kernel becomes 4 * channels inputs, as to_blocks arranges them.
    dense = jnp.concatenate(placed, axis=-1).reshape(taps, 2, taps, 2, channels, -1)
    dense = dense.transpose(0, 2, 1, 3, 4, 5).reshape(taps, taps, 4 * channels, -1)
    return conv(x, dense, (before, taps - step - before), step)


def conv_transpose_to_blocks(
    x: Float[Array, "b h w ci"], kernel: Float[Array, "4 4 ci co"]
) -> Float[Array, "b h w co4"]:
    """conv_transpose_4x4_stride2, whose output has one block for each pixel of `x`.

    The rows 2i and 2i + 1 of the output need the rows i-1, i and i, i+1 of `x`.
    """

    def place(row: int, column: int) -> Float[Array, "3 3 ci co"]:
        pads = [(parity, 1 - parity) for parity in (row, column)]
        return jnp.pad(kernel[row::2, column::2], (*pads, (0, 0), (0, 0)))

    dense = jnp.concatenate([place(row, column) for row in (0, 1) for column in (0, 1)], axis=-1)
    return conv(x, dense, (1, 1))
