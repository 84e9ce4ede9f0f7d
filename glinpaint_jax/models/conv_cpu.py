"""Convolutions and their gradients on CPU, where a matrix product is up to twenty times faster
than some of XLA's own.

In bfloat16 all are products of matrices: twice as fast as in float32 where the processor can, while
XLA's would compute in float32. In float32 the gradients of kernels are.
"""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Shaped

# Output pixels in one matrix product: more of them leave the processor's cache, fewer make small
# products. The kernel's gradient counts those of one image; of smaller outputs XLA's is as fast.
BLOCK_PIXELS = 1024

Pads = tuple[tuple[int, int], tuple[int, int]]  # above and below, left and right; negative: cut


def native(
    x: Float[Array, "b h w ci"],
    kernel: Float[Array, "kh kw ci co"],
    stride: int,
    dilation: int,
    pads: Pads,
    zeros: int = 0,
) -> Float[Array, "b ho wo co"]:
    """XLA's cross-correlation, with so many `zeros` between the pixels of x."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads,
        lhs_dilation=(1 + zeros, 1 + zeros),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def convolve(
    x: Float[Array, "b h w ci"],
    kernel: Float[Array, "kh kw ci co"],
    stride: int,
    dilation: int,
    pads: Pads,
) -> Float[Array, "b ho wo co"]:
    """Cross-correlation: XLA's, or blocks of rows in which all that a pixel sees lies side by
    side, times the kernel as a matrix."""
    if x.dtype != jnp.bfloat16:
        return native(x, kernel, stride, dilation, pads)
    taps = kernel.shape[:2]
    height, width = (
        (side + sum(pad) - dilation * (n - 1) - 1) // stride + 1
        for side, pad, n in zip(x.shape[1:3], pads, taps, strict=True)
    )
    x, dtype = _bits(x), x.dtype
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])
    matrix = kernel.reshape(-1, kernel.shape[-1])
    rows = _rows_of_a_block(height, width * x.shape[0])

    def block(number: Array | int) -> Array:
        reached = (rows - 1) * stride + dilation * (taps[0] - 1) + 1
        part = lax.dynamic_slice_in_dim(x, number * rows * stride, reached, axis=1)
        seen = _from_bits(_patches(part, (rows, width), taps, stride, dilation), dtype)
        product = jnp.matmul(seen, matrix, preferred_element_type=jnp.float32)
        return _bits(product.astype(dtype))

    def place(number: Array, whole: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(whole, block(number), number * rows, axis=1)

    if rows == height:
        return _from_bits(block(0), dtype)
    empty = jnp.zeros((x.shape[0], height, width, kernel.shape[-1]), x.dtype)
    return _from_bits(lax.fori_loop(0, height // rows, place, empty), dtype)


def conv_transpose_4x4_stride2(
    x: Float[Array, "b h w ci"], kernel: Float[Array, "4 4 ci co"]
) -> Float[Array, "b ho wo co"]:
    """As conv.py's: each output parity (row, column) sees only the taps kernel[row::2, column::2],
    so the whole is four 2x2 convolutions, interleaved: no multiplication by inserted zeros."""

    def parity(row: int, column: int) -> Array:
        pads = ((1 - row, row), (1 - column, column))
        return convolve(x, kernel[row::2, column::2], 1, 1, pads)

    return interleaved([[parity(row, column) for column in (0, 1)] for row in (0, 1)])


def input_gradient(
    gradient: Float[Array, "b ho wo co"],
    kernel: Float[Array, "k k ci co"],
    size: tuple[int, int],
    stride: int,
    dilation: int,
    padding: int,
) -> Float[Array, "b h w ci"]:
    """Of conv2d's output with respect to its input, whose (height, width) is `size`.

    The gradient convolved with the flipped kernel. With a stride (and no dilation) each parity of
    the input's rows and columns sees the taps of one parity: small convolutions, interleaved.
    """
    taps = kernel.shape[0]
    if stride == 1:
        around = dilation * (taps - 1) - padding
        return convolve(gradient, flipped(kernel), 1, dilation, ((around, around),) * 2)
    lengths = [-(-side // stride) for side in size]  # rows and columns of each parity

    def pads(first: int, taps: int, length: int, outputs: int) -> tuple[int, int]:
        shift = (first + padding) // stride
        return taps - 1 - shift, length - outputs + shift

    def parity(row: int, column: int) -> Array:
        part = kernel[(row + padding) % stride :: stride, (column + padding) % stride :: stride]
        around = (
            pads(row, part.shape[0], lengths[0], gradient.shape[1]),
            pads(column, part.shape[1], lengths[1], gradient.shape[2]),
        )
        return convolve(gradient, flipped(part), 1, 1, around)

    parts = [[parity(row, column) for column in range(stride)] for row in range(stride)]
    return interleaved(parts)[:, : size[0], : size[1]]


def native_kernel_gradient_is_fast(gradient: Float[Array, "b ho wo co"]) -> bool:
    """Whether XLA computes the kernel's gradient as fast as kernel_gradient below, or faster."""
    return gradient.shape[1] * gradient.shape[2] <= BLOCK_PIXELS


def kernel_gradient(
    x: Float[Array, "b h w ci"],
    gradient: Float[Array, "b ho wo co"],
    taps: int,
    stride: int,
    dilation: int,
    padding: int,
) -> Float[Array, "k k ci co"]:
    """Of conv2d's output with respect to its kernel, of `taps` x `taps`; at least float32.

    Blocks of rows, one after the other: the input's shifted copies, one for each tap, times the
    gradient. Each image has a sum of its own until the end, so that a batch that is split over
    devices is reduced once.
    """
    b, h, w, channels = x.shape
    _, height, width, features = gradient.shape
    if stride == 1 and features <= channels // 2:
        # The smaller of the two is copied: they change places, and so do the kernel's ends.
        around = dilation * (taps - 1) - padding
        return flipped(kernel_gradient(gradient, x, taps, 1, dilation, around))

    dtype, x, gradient = x.dtype, _bits(x), _bits(gradient)
    sum_type = jnp.promote_types(dtype, jnp.float32)
    # Channels first, so that the products need no transposition. Each parity of rows and columns
    # by itself, so that copies are contiguous: [row, column, b, ci, h / stride, w / stride].
    sides = []
    for length, outputs in ((h, height), (w, width)):
        reached = (outputs - 1) * stride + dilation * (taps - 1) + 1
        sides.append((length, -(-reached // stride) * stride))
    pads = [(padding, max(0, side - length - padding)) for length, side in sides]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))[:, : sides[0][1], : sides[1][1]]
    parities = x.reshape(b, sides[0][1] // stride, stride, sides[1][1] // stride, stride, channels)
    parities = parities.transpose(2, 4, 0, 5, 1, 3)

    rows = _rows_of_a_block(height, width)
    offsets = [divmod(dilation * tap, stride) for tap in range(taps)]

    def copies(first: Array) -> Shaped[Array, "b kkci pixels"]:
        part = lax.dynamic_slice_in_dim(parities, first, rows + offsets[-1][0], axis=4)
        shifted = [
            part[row, column, :, :, top : top + rows, left : left + width]
            for top, row in offsets
            for left, column in offsets
        ]
        # Flattened when joined: one by one, the copies would not be vectorized.
        return jnp.concatenate(shifted, axis=1).reshape(b, -1, rows * width)

    def add(block: Array, sums: Array) -> Array:
        part = lax.dynamic_slice_in_dim(gradient, block * rows, rows, axis=1)
        part = part.reshape(b, rows * width, features)
        products = (((2,), (1,)), ((0,), (0,)))  # over the pixels, image by image
        return sums + lax.dot_general(
            _from_bits(copies(block * rows), dtype),
            _from_bits(part, dtype),
            products,
            preferred_element_type=sum_type,
        )

    sums = jnp.zeros((b, taps * taps * channels, features), sum_type)
    total = lax.fori_loop(0, height // rows, add, sums).sum(axis=0)
    return total.reshape(taps, taps, channels, features)


def interleaved(parts: list[list[Array]]) -> Array:
    """[b, h, w, c] for each parity of rows and columns -> [b, n * h, n * w, c]."""
    rows = [jnp.stack(columns, axis=3) for columns in parts]
    image = jnp.stack(rows, axis=2)  # [b, h, row, w, column, c]
    b, h, n, w, m, c = image.shape
    return image.reshape(b, h * n, w * m, c)


def flipped(kernel: Array) -> Array:
    """Both spatial axes reversed, input and output channels exchanged; its own inverse."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _patches(
    x: Shaped[Array, "b h w ci"],
    size: tuple[int, int],
    taps: tuple[int, int],
    stride: int,
    dilation: int,
) -> Shaped[Array, "b ho wo kkci"]:
    """What each of the first (height, width) output pixels sees, side by side."""
    down, across = ((side - 1) * stride + 1 for side in size)  # from the first pixel to the last
    tops, lefts = (range(0, dilation * n, dilation) for n in taps)
    # First along the rows, then the rows: fewer copies to compile than one for each tap.
    x = jnp.concatenate([x[:, :, left : left + across : stride] for left in lefts], axis=-1)
    return jnp.concatenate([x[:, top : top + down : stride] for top in tops], axis=-1)


def _rows_of_a_block(height: int, width: int) -> int:
    """As many as fit, of those that divide the height."""
    return max(n for n in range(1, max(1, BLOCK_PIXELS // width) + 1) if height % n == 0)


def _bits(x: Array) -> Array:
    """bfloat16 as integers: XLA would move the numbers by way of float32."""
    return lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def _from_bits(x: Array, dtype: jnp.dtype) -> Array:
    return lax.bitcast_convert_type(x, dtype) if x.dtype != dtype else x
