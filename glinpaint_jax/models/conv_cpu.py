"""Convolutions and their gradients on CPU, as matrix products.

Some of these are up to 20 times faster than XLA's convolutions. In bfloat16 everything is a matrix
product: twice as fast as float32 if the processor supports bfloat16, while XLA's convolutions would
compute in float32. In float32 only kernel gradients are matrix products.
"""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Shaped

from glinpaint_jax.distributed import vary

# Output pixels per matrix product. More overflow the processor's cache; fewer make the products too
# small. kernel_gradient counts the pixels of one image; for outputs smaller than this, XLA's kernel
# gradient is as fast.
BLOCK_PIXELS = 1024

Pads = tuple[tuple[int, int], tuple[int, int]]  # (top, bottom), (left, right); negative: crop


def xla_conv(
    x: Float[Array, "b h w ci"],
    kernel: Float[Array, "kh kw ci co"],
    stride: int,
    dilation: int,
    pads: Pads,
    zeros: int = 0,
) -> Float[Array, "b ho wo co"]:
    """XLA's cross-correlation, with `zeros` zeros inserted between neighbouring pixels of `x`."""
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
    """Cross-correlation: XLA's in float32; in bfloat16, (patches of a block of rows) @ kernel."""
    if x.dtype != jnp.bfloat16:
        return xla_conv(x, kernel, stride, dilation, pads)
    taps = kernel.shape[:2]
    height, width = (
        (side + sum(pad) - dilation * (n - 1) - 1) // stride + 1
        for side, pad, n in zip(x.shape[1:3], pads, taps, strict=True)
    )
    x, dtype = _to_bits(x), x.dtype
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])
    matrix = kernel.reshape(-1, kernel.shape[-1])
    rows = _rows_per_block(height, width * x.shape[0])

    def compute_block(number: Array | int) -> Array:
        input_rows = (rows - 1) * stride + dilation * (taps[0] - 1) + 1
        part = lax.dynamic_slice_in_dim(x, number * rows * stride, input_rows, axis=1)
        patches = _from_bits(_patches(part, (rows, width), taps, stride, dilation), dtype)
        product = jnp.matmul(patches, matrix, preferred_element_type=jnp.float32)
        return _to_bits(product.astype(dtype))

    def write_block(number: Array, output: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(output, compute_block(number), number * rows, axis=1)

    if rows == height:
        return _from_bits(compute_block(0), dtype)
    empty = vary(jnp.zeros((x.shape[0], height, width, kernel.shape[-1]), x.dtype))
    return _from_bits(lax.fori_loop(0, height // rows, write_block, empty), dtype)


def conv_transpose_4x4_stride2(
    x: Float[Array, "b h w ci"], kernel: Float[Array, "4 4 ci co"]
) -> Float[Array, "b ho wo co"]:
    """The function of this name in conv.py, as four interleaved 2x2 convolutions.

    Each output parity (row, column) uses only the taps kernel[row::2, column::2], so nothing is
    multiplied by inserted zeros.
    """

    def parity(row: int, column: int) -> Array:
        pads = ((1 - row, row), (1 - column, column))
        return convolve(x, kernel[row::2, column::2], 1, 1, pads)

    return interleave([[parity(row, column) for column in (0, 1)] for row in (0, 1)])


def input_gradient(
    gradient: Float[Array, "b ho wo co"],
    kernel: Float[Array, "k k ci co"],
    size: tuple[int, int],
    stride: int,
    dilation: int,
    padding: int,
) -> Float[Array, "b h w ci"]:
    """Gradient of conv2d's output with respect to its input, whose (height, width) is `size`.

    Convolves `gradient` with the flipped kernel. With a stride (and no dilation), each parity of
    the input's rows and columns uses the taps of one parity: small convolutions, interleaved.
    """
    taps = kernel.shape[0]
    if stride == 1:
        pad = dilation * (taps - 1) - padding
        return convolve(gradient, flip_kernel(kernel), 1, dilation, ((pad, pad),) * 2)
    lengths = [-(-side // stride) for side in size]  # rows and columns of each parity

    def pads(first: int, taps: int, length: int, outputs: int) -> tuple[int, int]:
        shift = (first + padding) // stride
        return taps - 1 - shift, length - outputs + shift

    def parity(row: int, column: int) -> Array:
        part = kernel[(row + padding) % stride :: stride, (column + padding) % stride :: stride]
        part_pads = (
            pads(row, part.shape[0], lengths[0], gradient.shape[1]),
            pads(column, part.shape[1], lengths[1], gradient.shape[2]),
        )
        return convolve(gradient, flip_kernel(part), 1, 1, part_pads)

    parts = [[parity(row, column) for column in range(stride)] for row in range(stride)]
    return interleave(parts)[:, : size[0], : size[1]]


def xla_kernel_gradient_is_fast(gradient: Float[Array, "b ho wo co"]) -> bool:
    """Whether XLA's kernel gradient is at least as fast as kernel_gradient below."""
    return gradient.shape[1] * gradient.shape[2] <= BLOCK_PIXELS


def kernel_gradient(
    x: Float[Array, "b h w ci"],
    gradient: Float[Array, "b ho wo co"],
    taps: int,
    stride: int,
    dilation: int,
    padding: int,
) -> Float[Array, "k k ci co"]:
    """Gradient of conv2d's output with respect to its `taps` x `taps` kernel; at least float32.

    Loops over blocks of rows: (copies of the input, one shifted for each tap) @ gradient. Sums stay
    separate for each image until the end, so a batch sharded over devices is reduced once.
    """
    b, channels = x.shape[0], x.shape[3]
    _, height, width, features = gradient.shape
    if stride == 1 and features <= channels // 2:
        # Copy the smaller array instead: swap the two, which flips the kernel.
        pad = dilation * (taps - 1) - padding
        return flip_kernel(kernel_gradient(gradient, x, taps, 1, dilation, pad))

    dtype, x, gradient = x.dtype, _to_bits(x), _to_bits(gradient)
    sum_type = jnp.promote_types(dtype, jnp.float32)
    parities = _split_parities(x, (height, width), dilation * (taps - 1) + 1, stride, padding)
    rows = _rows_per_block(height, width)
    offsets = [divmod(dilation * tap, stride) for tap in range(taps)]

    def shifted_copies(first: Array) -> Shaped[Array, "b kkci pixels"]:
        part = lax.dynamic_slice_in_dim(parities, first, rows + offsets[-1][0], axis=4)
        copies = [
            part[row, column, :, :, top : top + rows, left : left + width]
            for top, row in offsets
            for left, column in offsets
        ]
        # Flatten after joining: XLA would not vectorize copies flattened one by one.
        return jnp.concatenate(copies, axis=1).reshape(b, -1, rows * width)

    def add_block(block: Array, sums: Array) -> Array:
        part = lax.dynamic_slice_in_dim(gradient, block * rows, rows, axis=1)
        part = part.reshape(b, rows * width, features)
        contract_pixels = (((2,), (1,)), ((0,), (0,)))  # batched over images
        return sums + lax.dot_general(
            _from_bits(shifted_copies(block * rows), dtype),
            _from_bits(part, dtype),
            contract_pixels,
            preferred_element_type=sum_type,
        )

    sums = vary(jnp.zeros((b, taps * taps * channels, features), sum_type))
    total = lax.fori_loop(0, height // rows, add_block, sums).sum(axis=0)
    return total.reshape(taps, taps, channels, features)


def _split_parities(
    x: Shaped[Array, "b h w c"], outputs: tuple[int, int], reach: int, stride: int, padding: int
) -> Shaped[Array, "stride stride b c _ _"]:
    """`x` padded, with the rows and columns of each parity in one contiguous array.

    Dimensions: row parity, column parity, b, c, h / stride, w / stride. Channels precede pixels so
    that the matrix products need no transposition. `reach` is the dilated kernel's side.
    """
    b, channels = x.shape[0], x.shape[3]
    sides = []
    for length, count in zip(x.shape[1:3], outputs, strict=True):
        needed = (count - 1) * stride + reach
        sides.append((length, -(-needed // stride) * stride))
    pads = [(padding, max(0, side - length - padding)) for length, side in sides]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))[:, : sides[0][1], : sides[1][1]]
    parities = x.reshape(b, sides[0][1] // stride, stride, sides[1][1] // stride, stride, channels)
    return parities.transpose(2, 4, 0, 5, 1, 3)


def interleave(parts: list[list[Array]]) -> Array:
    """[b, h, w, c] for each parity of rows and columns -> [b, n * h, n * w, c]."""
    rows = [jnp.stack(columns, axis=3) for columns in parts]
    image = jnp.stack(rows, axis=2)  # [b, h, row, w, column, c]
    b, h, n, w, m, c = image.shape
    return image.reshape(b, h * n, w * m, c)


def flip_kernel(kernel: Array) -> Array:
    """Reverses both spatial axes and swaps input and output channels; its own inverse."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _patches(
    x: Shaped[Array, "b h w ci"],
    size: tuple[int, int],
    taps: tuple[int, int],
    stride: int,
    dilation: int,
) -> Shaped[Array, "b ho wo kkci"]:
    """The input pixels under the kernel, for the first (height, width) output pixels."""
    down, across = ((side - 1) * stride + 1 for side in size)  # from the first pixel to the last
    tops, lefts = (range(0, dilation * n, dilation) for n in taps)
    # Columns, then rows: fewer copies to compile than one for each tap.
    x = jnp.concatenate([x[:, :, left : left + across : stride] for left in lefts], axis=-1)
    return jnp.concatenate([x[:, top : top + down : stride] for top in tops], axis=-1)


def _rows_per_block(height: int, width: int) -> int:
    """The largest divisor of `height` that keeps a block within BLOCK_PIXELS; at least 1."""
    return max(n for n in range(1, max(1, BLOCK_PIXELS // width) + 1) if height % n == 0)


def _to_bits(x: Array) -> Array:
    """bfloat16 as uint16, because XLA copies bfloat16 by way of float32."""
    return lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def _from_bits(x: Array, dtype: jnp.dtype) -> Array:
    return lax.bitcast_convert_type(x, dtype) if x.dtype != dtype else x
