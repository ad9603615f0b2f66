"""PSNR, SSIM and AVGE of one picture against one photo (METHOD section 8).

Pictures are float32 (H, W, 3) in [0, 1]. All functions are pure jnp: jit, vmap and grad work.
"""

from __future__ import annotations

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def whiten_background(image: Float[Array, "h w 3"], mask: Bool[Array, "h w"]) -> Float[Array, "h w 3"]:
    """The image with every pixel outside the object mask set to 1, as the DTU protocol compares pictures."""
    return jnp.where(jnp.asarray(mask)[..., None], image, 1.0)


def psnr(
    image: Float[Array, "h w 3"], target: Float[Array, "h w 3"], mask: Bool[Array, "h w"] | None = None
) -> Float[Array, ""]:
    """Peak signal-to-noise ratio in dB, from the mean squared error over pixels and channels.

    Args:
      image, target: pictures in [0, 1].
      mask: True where a pixel counts; default all. With no pixel left the result is NaN.

    Returns:
      A scalar; infinity where the pictures are equal.
    """
    squared = jnp.square(jnp.asarray(image) - jnp.asarray(target))
    if mask is None:
        error = jnp.mean(squared)
    else:
        weight = jnp.asarray(mask, squared.dtype)[..., None]
        error = jnp.sum(squared * weight) / (jnp.sum(weight) * squared.shape[-1])
    return -10.0 * jnp.log10(error)


def ssim(image: Float[Array, "h w 3"], target: Float[Array, "h w 3"]) -> Float[Array, ""]:
    """Structural similarity as the papers of this field compute it, averaged over pixels and channels.

    1 for equal pictures.
    11x11 Gaussian window of sigma 1.5, *zero padding* at the border, C1 = 0.01^2, C2 = 0.03^2. The padding matters:
    other libraries leave the border out, and their mean differs in the second digit.
    """
    image, target = jnp.asarray(image), jnp.asarray(target)
    return dm_pix.ssim(
        image, target, filter_size=SSIM_WINDOW, filter_sigma=SSIM_SIGMA, k1=0.01, k2=0.03, filter_fn=_blur_zero_padded
    )


def _blur_zero_padded(image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Gaussian blur of each channel with zeros assumed outside the picture, one axis after the other."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    kernel = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    window = jnp.asarray(kernel / kernel.sum(), image.dtype)
    planes = jnp.moveaxis(image, -1, 0)[:, None]  # channels take the place of a batch: (c, 1, h, w)
    for shape in ((SSIM_WINDOW, 1), (1, SSIM_WINDOW)):
        planes = jax.lax.conv(planes, window.reshape(1, 1, *shape), (1, 1), "SAME", precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(planes[:, 0], 0, -1)


def average_error(
    psnr_db: Float[Array, ""] | float, ssim_value: Float[Array, ""] | float, lpips_value: Float[Array, ""] | float
) -> Float[Array, ""]:
    """AVGE: geometric mean of 10^(-PSNR/10), sqrt(1 - SSIM) and LPIPS; lower is better.

    The published tables take it of the metrics' means over views and scenes.
    """
    mse = jnp.power(10.0, -jnp.asarray(psnr_db) / 10.0)
    dissimilarity = jnp.sqrt(jnp.maximum(1.0 - jnp.asarray(ssim_value), 0.0))  # rounding can lift SSIM above 1
    return jnp.cbrt(mse * dissimilarity * jnp.maximum(jnp.asarray(lpips_value), 0.0))
