"""The paper's two convolutions on NHWC arrays, with reverse-mode gradients.

On accelerators, forward and backward passes are XLA's own. On CPU, conv_cpu.py is faster.
"""

import jax
from jax import Array, lax
from jaxtyping import Float

from glinpaint_jax.models import conv_cpu
from glinpaint_jax.models.conv_cpu import flip_kernel, xla_conv


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


def _conv2d_primal(x: Array, kernel: Array, stride: int, dilation: int, padding: int) -> Array:
    shape = stride, dilation, ((padding, padding), (padding, padding))
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: conv_cpu.convolve(x, kernel, *shape),
        default=lambda x, kernel: xla_conv(x, kernel, *shape),
    )


_conv2d = jax.custom_vjp(_conv2d_primal, nondiff_argnums=(2, 3, 4))


def _conv2d_forward(x: Array, kernel: Array, *shape: int) -> tuple[Array, tuple[Array, Array]]:
    return _conv2d_primal(x, kernel, *shape), (x, kernel)


def _conv2d_backward(
    stride: int, dilation: int, padding: int, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    pads = ((padding, padding), (padding, padding))

    def xla_input_gradient(x: Array, kernel: Array, gradient: Array) -> Array:
        return jax.vjp(lambda x: xla_conv(x, kernel, stride, dilation, pads), x)[1](gradient)[0]

    def xla_kernel_gradient(x: Array, kernel: Array, gradient: Array) -> Array:
        pull_back = jax.vjp(lambda kernel: xla_conv(x, kernel, stride, dilation, pads), kernel)[1]
        return pull_back(gradient)[0]

    def cpu_input_gradient(x: Array, kernel: Array, gradient: Array) -> Array:
        return conv_cpu.input_gradient(gradient, kernel, x.shape[1:3], stride, dilation, padding)

    def cpu_kernel_gradient(x: Array, kernel: Array, gradient: Array) -> Array:
        if conv_cpu.xla_kernel_gradient_is_fast(gradient):
            return xla_kernel_gradient(x, kernel, gradient)
        return conv_cpu.kernel_gradient(
            x, gradient, kernel.shape[0], stride, dilation, padding
        ).astype(kernel.dtype)

    arrays = (*residuals, gradient)
    return (
        lax.platform_dependent(*arrays, cpu=cpu_input_gradient, default=xla_input_gradient),
        lax.platform_dependent(*arrays, cpu=cpu_kernel_gradient, default=xla_kernel_gradient),
    )


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


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
        cpu=conv_cpu.conv_transpose_4x4_stride2,
        default=lambda x, kernel: xla_conv(x, kernel, 1, 1, ((2, 2), (2, 2)), zeros=1),
    )


def _transpose_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv_transpose_4x4_stride2(x, kernel), (x, kernel)


def _transpose_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """Reuses the gradients of the convolution with the flipped kernel, which is the adjoint."""
    x, kernel = residuals

    def adjoint(pixels: Array, kernel: Array) -> Array:
        return conv2d(pixels, kernel, stride=2, padding=1)

    x_gradient, pull_back = jax.vjp(adjoint, gradient, flip_kernel(kernel))
    return x_gradient, flip_kernel(pull_back(x)[1])


conv_transpose_4x4_stride2.defvjp(_transpose_forward, _transpose_backward)
