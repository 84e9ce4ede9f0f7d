"""The paper's two convolutions on NHWC arrays, plain first; then what some compilers need.

The special forms give the same numbers. The reason for each was found in programs compiled for
eight H200s or v5es (`scripts/benchmarks/compile_steps.py`), or by timing on a CPU.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

CPU_PIXELS = 1024  # of an image, in one matrix product: more would overflow the cache


def conv(
    x: Float[Array, "b h w ci"],
    kernel: Float[Array, "kh kw ci co"],
    pads: tuple[int, int],  # rows above and below, and as many columns left and right
    stride: int = 1,
    dilation: int = 1,
    zeros: int = 0,
) -> Float[Array, "b ho wo co"]:
    """XLA's cross-correlation, with `zeros` zeros inserted between neighboring pixels of `x`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=(pads, pads),
        lhs_dilation=(1 + zeros, 1 + zeros),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv2d(
    x: Float[Array, "b h w ci"],
    kernel: Float[Array, "k k ci co"],
    stride: int = 1,
    dilation: int = 1,
    padding: int = 0,
) -> Float[Array, "b ho wo co"]:
    """Cross-correlation with zero padding on all sides, as torch.nn.Conv2d."""
    return conv(x, kernel, (padding, padding), stride, dilation)


@jax.custom_vjp
def conv_transpose_4x4_stride2(
    x: Float[Array, "b h w ci"], kernel: Float[Array, "4 4 ci co"]
) -> Float[Array, "b ho wo co"]:
    """Transposed convolution, kernel 4, stride 2, padding 1: doubles height and width.

    Equals inserting a zero between all pixels and cross-correlating with `kernel`, padding 2.
    torch.nn.ConvTranspose2d stores the spatially flipped kernel.
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=conv_transpose_by_parity,
        cuda=lambda x, kernel: conv(x, hide_flips(kernel), (2, 2), zeros=1),
        default=lambda x, kernel: conv(x, kernel, (2, 2), zeros=1),
    )


def _transpose_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv_transpose_4x4_stride2(x, kernel), (x, kernel)


def _transpose_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """From the gradients of the adjoint, the convolution with the flipped kernel."""
    x, kernel = residuals

    def adjoint(pixels: Array, kernel: Array) -> Array:
        return conv2d(pixels, kernel[::-1, ::-1].swapaxes(2, 3), stride=2, padding=1)

    x_gradient, pull_back = jax.vjp(adjoint, gradient, kernel)
    return x_gradient, pull_back(x)[1]


conv_transpose_4x4_stride2.defvjp(_transpose_forward, _transpose_backward)


def hide_flips(kernel: Array) -> Array:
    """The kernel, flipped twice.

    XLA:GPU calls cuDNN's transposed convolution only with a kernel that it sees flipped. It would
    write the zeros to memory and multiply by them: four times the FLOP of dec3 and dec5.
    """
    return lax.rev(lax.optimization_barrier(lax.rev(kernel, (0, 1))), (0, 1))


def conv_transpose_by_parity(x: Array, kernel: Array) -> Array:
    """conv_transpose_4x4_stride2 as one 2x2 convolution, whose channels hold the four parities."""
    b, h, w, ci = x.shape
    taps = kernel.reshape(2, 2, 2, 2, ci, -1).transpose(0, 2, 4, 1, 3, 5)
    y = conv(x, taps.reshape(2, 2, ci, -1), (1, 1)).reshape(b, h + 1, w + 1, 2, 2, -1)
    # The taps of an odd row are those of the next even one, a pixel further up.
    rows = jnp.stack([y[:, :-1, :, 0], y[:, 1:, :, 1]], axis=2)
    pixels = jnp.stack([rows[:, :, :, :-1, 0], rows[:, :, :, 1:, 1]], axis=4)
    return pixels.reshape(b, 2 * h, 2 * w, -1)


def _conv_forward(x: Array, kernel: Array, *shape: int) -> tuple[Array, tuple[Array, Array]]:
    return conv2d(x, kernel, *shape), (x, kernel)


def _conv_backward(
    stride: int, dilation: int, padding: int, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    """The gradients, in the form that suits the platform."""
    shape = stride, dilation, padding

    def gradients_of(function: Callable[..., Array]) -> Callable[..., tuple[Array, Array]]:
        return lambda x, kernel, gradient: jax.vjp(function, x, kernel)[1](gradient)

    plain = gradients_of(lambda *a: conv(*a, (padding, padding), stride, dilation))
    by_patches = gradients_of(lambda *a: conv_by_patches(*a, *shape))

    def by_taps(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        kernel_gradient = kernel_gradient_by_taps(x, gradient, kernel.shape[0], *shape)
        return plain(x, kernel, gradient)[0], kernel_gradient.astype(kernel.dtype)

    def of_split_images(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        images, gradients = split_pixels(x, dilation), split_pixels(gradient, dilation)
        pads = padding // dilation, padding // dilation
        pull_back = jax.vjp(lambda k: conv(images, k, pads), kernel)[1]
        return plain(x, kernel, gradient)[0], pull_back(gradients)[0]

    x, kernel = residuals
    height, width = gradient.shape[1:3]
    cuda = cpu = plain
    if max(height, width) < kernel.shape[0]:
        cuda = cpu = by_patches
    elif height * width > CPU_PIXELS:
        cpu = by_taps
    sides = *x.shape[1:3], height, width, padding
    if dilation > 1 and stride == 1 and not any(side % dilation for side in sides):
        cuda = of_split_images
    return lax.platform_dependent(x, kernel, gradient, cuda=cuda, cpu=cpu, default=plain)


conv2d.defvjp(_conv_forward, _conv_backward)


def conv_by_patches(
    x: Array, kernel: Array, stride: int, dilation: int, padding: int
) -> Float[Array, "b ho wo co"]:
    """conv2d as one matrix product.

    For outputs smaller than the kernel. In the gradients of such a convolution, XLA:GPU swaps image
    and kernel and stuffs the kernel with zeros: four times the FLOP of the discriminators' last
    layers. A CPU is faster, too.
    """
    size = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = (side - dilation * (size - 1) for side in x.shape[1:3])
    starts = range(0, dilation * size, dilation)
    x = jnp.concatenate([x[:, :, left : left + width : stride] for left in starts], axis=-1)
    x = jnp.concatenate([x[:, top : top + height : stride] for top in starts], axis=-1)
    return jnp.matmul(x, kernel.reshape(-1, kernel.shape[-1]))


def split_pixels(x: Float[Array, "b h w c"], step: int) -> Float[Array, "bn hs ws c"]:
    """Images of every `step`-th row and column: step**2 of each.

    A dilated convolution is a plain one of these. XLA:GPU gives cuDNN no gradients of dilated
    kernels: it would convolve with a window of 64x64.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // step, step, w // step, step, c).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(b * step**2, h // step, w // step, c)


def kernel_gradient_by_taps(
    x: Array, gradient: Array, size: int, stride: int, dilation: int, padding: int
) -> Float[Array, "k k ci co"]:
    """The gradient of a kernel of `size` x `size` taps, at least in float32.

    For each tap, a matrix product of rows that stay in the cache: on a CPU, twice as fast as XLA's.
    The sums of each image stay apart until the end, so that devices exchange them once.
    """
    channels, (height, width, features) = x.shape[3], gradient.shape[1:]
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    rows = max(n for n in range(1, max(CPU_PIXELS // width, 1) + 1) if height % n == 0)
    down, across = stride * (rows - 1) + 1, stride * (width - 1) + 1
    taps = [(dilation * row, dilation * column) for row, column in np.ndindex(size, size)]

    def add_rows(number: Array, sums: Array) -> Array:
        first, length = number * rows * stride, down + dilation * (size - 1)
        pixels = lax.dynamic_slice_in_dim(x, first, length, axis=1)
        part = lax.dynamic_slice_in_dim(gradient, number * rows, rows, axis=1)
        products = [
            jnp.einsum(
                "bhwi,bhwo->bio",
                pixels[:, top : top + down : stride, left : left + across : stride],
                part,
                preferred_element_type=dtype,
            )
            for top, left in taps
        ]
        return sums + jnp.stack(products, axis=1)

    sums = jnp.zeros((x.shape[0], size**2, channels, features), dtype)
    sums = lax.fori_loop(0, height // rows, add_rows, sums).sum(axis=0)
    return sums.reshape(size, size, channels, features)
