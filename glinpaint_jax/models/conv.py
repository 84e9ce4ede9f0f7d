"""The two convolutions of the paper, on NHWC arrays. Pure functions, differentiable in reverse.

They and their gradients are XLA's own, but on CPU, where conv_cpu.py knows faster ways.
"""

import jax
from jax import Array, lax
from jaxtyping import Float

from glinpaint_jax.models import conv_cpu
from glinpaint_jax.models.conv_cpu import flipped, native


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


def _symmetric(x: Array, kernel: Array, stride: int, dilation: int, padding: int) -> Array:
    shape = stride, dilation, ((padding, padding), (padding, padding))
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: conv_cpu.convolve(x, kernel, *shape),
        default=lambda x, kernel: native(x, kernel, *shape),
    )


_conv2d = jax.custom_vjp(_symmetric, nondiff_argnums=(2, 3, 4))


def _conv2d_forward(x: Array, kernel: Array, *shape: int) -> tuple[Array, tuple[Array, Array]]:
    return _symmetric(x, kernel, *shape), (x, kernel)


def _conv2d_backward(
    stride: int, dilation: int, padding: int, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    pads = ((padding, padding), (padding, padding))

    def of_x(x: Array, kernel: Array, gradient: Array) -> Array:
        return jax.vjp(lambda x: native(x, kernel, stride, dilation, pads), x)[1](gradient)[0]

    def of_kernel(x: Array, kernel: Array, gradient: Array) -> Array:
        pull_back = jax.vjp(lambda kernel: native(x, kernel, stride, dilation, pads), kernel)[1]
        return pull_back(gradient)[0]

    def of_x_on_cpu(x: Array, kernel: Array, gradient: Array) -> Array:
        return conv_cpu.input_gradient(gradient, kernel, x.shape[1:3], stride, dilation, padding)

    def of_kernel_on_cpu(x: Array, kernel: Array, gradient: Array) -> Array:
        if conv_cpu.native_kernel_gradient_is_fast(gradient):
            return of_kernel(x, kernel, gradient)
        return conv_cpu.kernel_gradient(
            x, gradient, kernel.shape[0], stride, dilation, padding
        ).astype(kernel.dtype)

    arrays = (*residuals, gradient)
    return (
        lax.platform_dependent(*arrays, cpu=of_x_on_cpu, default=of_x),
        lax.platform_dependent(*arrays, cpu=of_kernel_on_cpu, default=of_kernel),
    )


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


@jax.custom_vjp
def conv_transpose_4x4_stride2(
    x: Float[Array, "b h w ci"], kernel: Float[Array, "4 4 ci co"]
) -> Float[Array, "b ho wo co"]:
    """Transposed convolution, kernel 4, stride 2, padding 1: doubles height and width.

    Equals inserting a zero between all pixels and cross-correlating with `kernel`, padding 2;
    torch.nn.ConvTranspose2d holds the spatially flipped kernel.

    XLA's own but on CPU (conv_cpu.py).
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=conv_cpu.conv_transpose_4x4_stride2,
        default=lambda x, kernel: native(x, kernel, 1, 1, ((2, 2), (2, 2)), zeros=1),
    )


def _transpose_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv_transpose_4x4_stride2(x, kernel), (x, kernel)


def _transpose_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """It is the adjoint of a convolution with the flipped kernel, whose gradients serve here."""
    x, kernel = residuals

    def adjoint(pixels: Array, kernel: Array) -> Array:
        return conv2d(pixels, kernel, stride=2, padding=1)

    x_gradient, pull_back = jax.vjp(adjoint, gradient, flipped(kernel))
    return x_gradient, flipped(pull_back(x)[1])


conv_transpose_4x4_stride2.defvjp(_transpose_forward, _transpose_backward)
