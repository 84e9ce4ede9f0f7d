"""l1 error, PSNR and SSIM as MMagic defines them, and more: on the device, one value per image.

Images are float [b, h, w, 3] in 0..255. Completed images are composited and clipped, not rounded.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

Image = Float[Array, "b h w 3"]
Mask = Float[Array, "b h w 1"]
Map = Float[Array, "b hv wv 3"]
PerImage = Float[Array, "b"]

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1 = (0.01 * 255) ** 2
SSIM_C2 = (0.03 * 255) ** 2
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
PATCH, STEP, DIRECTIONS = 7, 3, 16  # more take long on a CPU
NAMES = ("l1", "psnr", "ssim", "ms_ssim", "patches", "l1_image", "psnr_hole", "ssim_hole")
OUTSIDE = 1e6  # above all projections, so that sorting puts it last


def l1_error(completed: Image, image: Image, mask: Mask) -> PerImage:
    """Mean absolute error where the mask is 1, in percent of the value range."""
    error = jnp.sum(jnp.abs(completed - image) / 255 * mask, axis=(1, 2, 3))
    return 100 * error / (3 * jnp.sum(mask, axis=(1, 2, 3)))


def psnr(completed: Image, image: Image, mask: Mask) -> PerImage:
    """Peak signal-to-noise ratio where the mask is 1, in dB; infinite for equal images."""
    mse = jnp.sum(jnp.square(completed - image) * mask, axis=(1, 2, 3))
    mse /= 3 * jnp.sum(mask, axis=(1, 2, 3))
    return 20 * jnp.log10(255 / jnp.sqrt(mse))


def ssim(completed: Image, image: Image, mask: Mask) -> PerImage:
    """Structural similarity (Wang et al. 2004), averaged over channels.

    Uses 11x11 Gaussian windows whose centers have mask 1, only where they fit into the image, and
    biased variances. Images must be at least 11x11.
    """
    border = SSIM_WINDOW // 2
    centers = mask[:, border:-border, border:-border]
    total = jnp.sum(_ssim_maps(completed, image)[0] * centers, axis=(1, 2, 3))
    return total / jnp.maximum(3 * jnp.sum(centers, axis=(1, 2, 3)), 1)


def ms_ssim(completed: Image, image: Image) -> PerImage:
    """Multi-scale SSIM (Wang et al. 2003), averaged over channels.

    Uses its five scales, or those at which the window fits (images below 176 pixels have fewer),
    with weights that add up to 1.
    """
    side = min(image.shape[1:3])
    weights = [w for k, w in enumerate(MS_SSIM_WEIGHTS) if side >> k >= SSIM_WINDOW]
    product = 1
    for k, weight in enumerate(weights):
        whole, contrast_structure = _ssim_maps(completed, image)
        values = whole if k == len(weights) - 1 else contrast_structure
        means = jnp.maximum(jnp.mean(values, axis=(1, 2)), 0)
        product *= means ** (weight / sum(weights))
        completed, image = (nn.avg_pool(x, (2, 2), (2, 2)) for x in (completed, image))
    return jnp.mean(product, axis=1)


def patch_distance(completed: Image, image: Image, mask: Mask) -> PerImage:
    """Sliced Wasserstein distance of the 7x7 patches in the hole, in gray levels.

    It compares which patches there are, not where (Rabin et al. 2011; Karras et al. 2018, section
    5): blur and wrong texture count, a texture that is only shifted does not. Uses every third
    pixel of every third row, and 16 random directions of length 1.
    """
    directions = jax.random.normal(jax.random.key(0), (3 * PATCH**2, DIRECTIONS))
    directions /= jnp.linalg.norm(directions, axis=0, keepdims=True)
    kernel = directions.reshape(PATCH, PATCH, 3, DIRECTIONS)
    border = PATCH // 2
    centers = mask[:, border:-border:STEP, border:-border:STEP]

    def sort_projections(x: Image) -> Float[Array, "b n directions"]:
        projections = lax.conv_general_dilated(
            x,
            kernel,
            (STEP, STEP),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )
        inside = jnp.where(centers > 0, projections, OUTSIDE)
        return jnp.sort(inside.reshape(len(x), -1, DIRECTIONS), axis=1)

    difference = jnp.abs(sort_projections(completed) - sort_projections(image))
    count = jnp.maximum(jnp.sum(centers, axis=(1, 2, 3)), 1)
    return jnp.sum(difference, axis=(1, 2)) / (DIRECTIONS * count)


def all_scores(completed: Image, image: Image, mask: Mask) -> dict[str, PerImage]:
    """The scores NAMES; the first three are MMagic's."""
    everywhere = jnp.ones_like(mask)
    return {
        "l1": l1_error(completed, image, mask),
        "psnr": psnr(completed, image, everywhere),
        "ssim": ssim(completed, image, everywhere),
        "ms_ssim": ms_ssim(completed, image),
        "patches": patch_distance(completed, image, mask),
        "l1_image": l1_error(completed, image, everywhere),
        "psnr_hole": psnr(completed, image, mask),
        "ssim_hole": ssim(completed, image, mask),
    }


def _ssim_maps(completed: Image, image: Image) -> tuple[Map, Map]:
    """SSIM of each window, and its contrast and structure alone."""
    mean_a, mean_b = _gaussian(completed), _gaussian(image)
    var_a = _gaussian(jnp.square(completed)) - jnp.square(mean_a)
    var_b = _gaussian(jnp.square(image)) - jnp.square(mean_b)
    covariance = _gaussian(completed * image) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (
        jnp.square(mean_a) + jnp.square(mean_b) + SSIM_C1
    )
    contrast_structure = (2 * covariance + SSIM_C2) / (var_a + var_b + SSIM_C2)
    return luminance * contrast_structure, contrast_structure


def _gaussian(image: Image) -> Map:
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
