"""The two convolutions of the paper, on NHWC arrays. Pure functions, differentiable."""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float


def conv2d(
    x: Float[Array, "b h w ci"],
    kernel: Float[Array, "kh kw ci co"],
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int = 0,
) -> Float[Array, "b ho wo co"]:
    """Cross-correlation with zero padding on all sides, as torch.nn.Conv2d."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


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
    b, h, w, _ = x.shape
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
    # [b, h, w, co] per parity -> [b, h, row, w, column, co]
    rows = [jnp.stack(columns, axis=3) for columns in parities]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, kernel.shape[-1])


def _transpose_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv_transpose_4x4_stride2(x, kernel), (x, kernel)


def _transpose_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """It is the adjoint of a convolution with the flipped kernel, whose gradients serve here.

    That convolution's kernel gradient, its input and cotangent exchanged, is on CPU two orders of
    magnitude faster than the gradient of lax.conv_transpose, one than that of the four parts.
    """
    x, kernel = residuals

    def adjoint(pixels: Array, flipped: Array) -> Array:
        return conv2d(pixels, flipped, stride=2, padding=1)

    x_gradient, pull_back = jax.vjp(adjoint, gradient, _flipped(kernel))
    return x_gradient, _flipped(pull_back(x)[1])


def _flipped(kernel: Array) -> Array:
    """Both spatial axes reversed, input and output channels exchanged; its own inverse."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


conv_transpose_4x4_stride2.defvjp(_transpose_forward, _transpose_backward)
