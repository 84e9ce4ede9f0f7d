"""The two convolutions of the paper, on NHWC arrays. Pure functions, differentiable in reverse.

Their gradients are XLA's own, but on CPU, where XLA is up to twenty times slower than a matrix
product: there they are matrix products and plain convolutions (kernel_gradient, input_gradient).
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

# Output pixels of an image in one matrix product of the kernel's gradient: more of them leave the
# processor's cache, fewer make small products. Of outputs this small XLA's own gradient is as fast.
BLOCK_PIXELS = 1024


def conv2d(
    x: Float[Array, "b h w ci"],
    kernel: Float[Array, "k k ci co"],
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int = 0,
) -> Float[Array, "b ho wo co"]:
    """Cross-correlation with zero padding on all sides, as torch.nn.Conv2d."""
    return _conv2d(x, kernel, stride, dilation, padding)


def _native(x: Array, kernel: Array, stride: int, dilation: int, padding: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


_conv2d = jax.custom_vjp(_native, nondiff_argnums=(2, 3, 4))


def _conv2d_forward(x: Array, kernel: Array, *shape: int) -> tuple[Array, tuple[Array, Array]]:
    return _native(x, kernel, *shape), (x, kernel)


def _conv2d_backward(
    stride: int, dilation: int, padding: int, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    shape = stride, dilation, padding

    def of_x(x: Array, kernel: Array, gradient: Array) -> Array:
        return jax.vjp(lambda x: _native(x, kernel, *shape), x)[1](gradient)[0]

    def of_kernel(x: Array, kernel: Array, gradient: Array) -> Array:
        return jax.vjp(lambda kernel: _native(x, kernel, *shape), kernel)[1](gradient)[0]

    def of_x_on_cpu(x: Array, kernel: Array, gradient: Array) -> Array:
        return input_gradient(gradient, kernel, x.shape[1:3], *shape)

    def of_kernel_on_cpu(x: Array, kernel: Array, gradient: Array) -> Array:
        if gradient.shape[1] * gradient.shape[2] <= BLOCK_PIXELS:
            return of_kernel(x, kernel, gradient)
        return kernel_gradient(x, gradient, kernel.shape[0], *shape).astype(kernel.dtype)

    arrays = (*residuals, gradient)
    return (
        lax.platform_dependent(*arrays, cpu=of_x_on_cpu, default=of_x),
        lax.platform_dependent(*arrays, cpu=of_kernel_on_cpu, default=of_kernel),
    )


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


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
        return _native(gradient, _flipped(kernel), 1, dilation, around)
    lengths = [-(-side // stride) for side in size]  # rows and columns of each parity

    def pads(first: int, taps: int, length: int, outputs: int) -> tuple[int, int]:
        shift = (first + padding) // stride
        return taps - 1 - shift, length - outputs + shift

    def parity(row: int, column: int) -> Array:
        part = kernel[(row + padding) % stride :: stride, (column + padding) % stride :: stride]
        return lax.conv_general_dilated(
            gradient,
            _flipped(part),
            window_strides=(1, 1),
            padding=[
                pads(row, part.shape[0], lengths[0], gradient.shape[1]),
                pads(column, part.shape[1], lengths[1], gradient.shape[2]),
            ],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    parts = [[parity(row, column) for column in range(stride)] for row in range(stride)]
    return _interleaved(parts)[:, : size[0], : size[1]]


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
        return _flipped(kernel_gradient(gradient, x, taps, 1, dilation, around))

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

    rows = max(n for n in range(1, max(1, BLOCK_PIXELS // width) + 1) if height % n == 0)
    offsets = [divmod(dilation * tap, stride) for tap in range(taps)]

    def copies(first: Array) -> Float[Array, "b kkci pixels"]:
        part = lax.dynamic_slice_in_dim(parities, first, rows + offsets[-1][0], axis=4)
        return jnp.concatenate(
            [
                part[row, column, :, :, top : top + rows, left : left + width].reshape(
                    b, channels, -1
                )
                for top, row in offsets
                for left, column in offsets
            ],
            axis=1,
        )

    def add(block: Array, sums: Array) -> Array:
        part = lax.dynamic_slice_in_dim(gradient, block * rows, rows, axis=1)
        part = part.reshape(b, rows * width, features)
        products = (((2,), (1,)), ((0,), (0,)))  # over the pixels, image by image
        return sums + lax.dot_general(
            copies(block * rows), part, products, preferred_element_type=sums.dtype
        )

    dtype = jnp.promote_types(x.dtype, jnp.float32)
    sums = jnp.zeros((b, taps * taps * channels, features), dtype)
    total = lax.fori_loop(0, height // rows, add, sums).sum(axis=0)
    return total.reshape(taps, taps, channels, features)


@jax.custom_vjp
def conv_transpose_4x4_stride2(
    x: Float[Array, "b h w ci"], kernel: Float[Array, "4 4 ci co"]
) -> Float[Array, "b ho wo co"]:
    """Transposed convolution, kernel 4, stride 2, padding 1: doubles height and width.

    Equals inserting a zero between all pixels and cross-correlating with `kernel`, padding 2;
    torch.nn.ConvTranspose2d holds the spatially flipped kernel.

    Each output parity (row, column) sees only the taps kernel[row::2, column::2], so the whole is
    four 2x2 convolutions, interleaved: no multiplication by inserted zeros.
    """
    parities = [
        [
            lax.conv_general_dilated(
                x,
                kernel[row::2, column::2],
                window_strides=(1, 1),
                padding=((1 - row, row), (1 - column, column)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            for column in (0, 1)
        ]
        for row in (0, 1)
    ]
    return _interleaved(parities)


def _transpose_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv_transpose_4x4_stride2(x, kernel), (x, kernel)


def _transpose_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """It is the adjoint of a convolution with the flipped kernel, whose gradients serve here."""
    x, kernel = residuals

    def adjoint(pixels: Array, flipped: Array) -> Array:
        return conv2d(pixels, flipped, stride=2, padding=1)

    x_gradient, pull_back = jax.vjp(adjoint, gradient, _flipped(kernel))
    return x_gradient, _flipped(pull_back(x)[1])


def _interleaved(parts: list[list[Array]]) -> Array:
    """[b, h, w, c] for each parity of rows and columns -> [b, n * h, n * w, c]."""
    rows = [jnp.stack(columns, axis=3) for columns in parts]
    image = jnp.stack(rows, axis=2)  # [b, h, row, w, column, c]
    b, h, n, w, m, c = image.shape
    return image.reshape(b, h * n, w * m, c)


def _flipped(kernel: Array) -> Array:
    """Both spatial axes reversed, input and output channels exchanged; its own inverse."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


conv_transpose_4x4_stride2.defvjp(_transpose_forward, _transpose_backward)
