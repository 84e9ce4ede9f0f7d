"""l1 error, PSNR and SSIM as MMagic defines them: on the device, one value per image.

Images are float [b, h, w, 3] in 0..255. Completed images are composited and clipped, not rounded.
"""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

Image = Float[Array, "b h w 3"]
PerImage = Float[Array, "b"]

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1 = (0.01 * 255) ** 2
SSIM_C2 = (0.03 * 255) ** 2


def l1_error(completed: Image, image: Image, mask: Float[Array, "b h w 1"]) -> PerImage:
    """Mean absolute error over the hole (mask 1), in percent of the value range."""
    error = jnp.sum(jnp.abs(completed - image) / 255 * mask, axis=(1, 2, 3))
    return 100 * error / (3 * jnp.sum(mask, axis=(1, 2, 3)))


def psnr(completed: Image, image: Image) -> PerImage:
    """Peak signal-to-noise ratio of the whole image, in dB; infinite for equal images."""
    mse = jnp.mean(jnp.square(completed - image), axis=(1, 2, 3))
    return 20 * jnp.log10(255 / jnp.sqrt(mse))


def ssim(completed: Image, image: Image) -> PerImage:
    """Structural similarity (Wang et al. 2004), averaged over channels.

    Uses an 11x11 Gaussian window, only where it fits into the image, and biased variances. Images
    must be at least 11x11.
    """
    mean_a, mean_b = _gaussian(completed), _gaussian(image)
    var_a = _gaussian(jnp.square(completed)) - jnp.square(mean_a)
    var_b = _gaussian(jnp.square(image)) - jnp.square(mean_b)
    covariance = _gaussian(completed * image) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (
        jnp.square(mean_a) + jnp.square(mean_b) + SSIM_C1
    )
    contrast_structure = (2 * covariance + SSIM_C2) / (var_a + var_b + SSIM_C2)
    return jnp.mean(luminance * contrast_structure, axis=(1, 2, 3))


def _gaussian(image: Image) -> Float[Array, "b hv wv 3"]:
    """Separable Gaussian filter without padding, as a weighted sum of shifted slices.

    Not a convolution, because some accelerators compute those in reduced precision.
    """
    offsets = jnp.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = jnp.exp(-jnp.square(offsets) / (2 * SSIM_SIGMA**2))
    weights /= weights.sum()
    for axis in (1, 2):
        size = image.shape[axis] - SSIM_WINDOW + 1
        image = sum(
            weights[i] * lax.slice_in_dim(image, i, i + size, axis=axis) for i in range(SSIM_WINDOW)
        )
    return image
