"""The photometric loss, (1 - w) L1 + w (1 - SSIM), with its gradient in closed form (METHOD section 3).

Images are float32 (H, W, 3) in [0, 1]. SSIM is the one of METHOD section 8: 11 x 11 Gaussian window with sigma 1.5,
zero padding, averaged over pixels and channels. With F the window, x the rendered image and y the target,

    mu_x = F x,  s_xx = F x^2 - mu_x^2,  s_xy = F xy - mu_x mu_y,
    SSIM = A1 A2 / (B1 B2),
    A1 = 2 mu_x mu_y + C1,  A2 = 2 s_xy + C2,  B1 = mu_x^2 + mu_y^2 + C1,  B2 = s_xx + s_yy + C2.

This runs at every iteration, hence three measures that make it several times faster on a CPU than automatic
differentiation of the formulas: what depends on the target alone is computed once (`PhotometricTarget`); the gradient
reuses the maps of the value, and since F is its own adjoint it takes three more filterings; and the filter adds shifted
slices of a padded (H, 3W) array, which becomes one vector loop per axis.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

RADIUS = 5
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2
_OFFSETS = np.arange(-RADIUS, RADIUS + 1)
_WINDOW = np.exp(-(_OFFSETS**2) / (2 * SIGMA**2)) / np.exp(-(_OFFSETS**2) / (2 * SIGMA**2)).sum()


class PhotometricTarget(NamedTuple):
    """What the loss compares with: the photo and what is computed from it alone; may carry a leading view axis.

    Attributes:
      image: (H, W, 3) the photo, target of SSIM.
      l1_image: (H, W, 3) target of L1; the photo, or the photo with its background zeroed (DTU).
      mean: (H, W, 3) F y.
      variance: (H, W, 3) F y^2 - (F y)^2.
    """

    image: Float[Array, "... h w 3"]
    l1_image: Float[Array, "... h w 3"]
    mean: Float[Array, "... h w 3"]
    variance: Float[Array, "... h w 3"]


def photometric_target(
    image: Float[Array, "h w 3"], l1_image: Float[Array, "h w 3"] | None = None
) -> PhotometricTarget:
    """Precompute what depends on one target image; `l1_image` defaults to the image itself."""
    mean = gaussian_filter(image)
    variance = gaussian_filter(image * image) - mean * mean
    return PhotometricTarget(image, image if l1_image is None else l1_image, mean, variance)


def gaussian_filter(image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Each channel filtered with the 11 x 11 Gaussian window of SSIM, zeros outside; its own adjoint."""
    height, width, channels = image.shape
    rows = image.reshape(height, width * channels)
    return _filter_axis(_filter_axis(rows, 1, channels), 0, 1).reshape(image.shape)


def _filter_axis(rows: Float[Array, "h l"], axis: int, stride: int) -> Float[Array, "h l"]:
    """Filter along `axis` with taps `stride` entries apart.

    The barriers keep XLA from fusing the padding, or a later elementwise use, into the sum: fused, every tap computes
    its bounds check and every use the whole sum again, which costs a factor of 2 to 10.
    """
    length = rows.shape[axis]
    padding = [(0, 0), (0, 0)]
    padding[axis] = (RADIUS * stride, RADIUS * stride)
    padded = lax.optimization_barrier(jnp.pad(rows, padding))

    def tap(k: int) -> Float[Array, "h l"]:
        return lax.slice_in_dim(padded, k * stride, k * stride + length, axis=axis)

    total = float(_WINDOW[RADIUS]) * tap(RADIUS)
    for k in range(RADIUS):
        total = total + float(_WINDOW[k]) * (tap(k) + tap(2 * RADIUS - k))
    return lax.optimization_barrier(total)


def _ssim_and_gradient(
    image: Float[Array, "h w 3"], target: PhotometricTarget
) -> tuple[Float[Array, ""], Float[Array, "h w 3"]]:
    """Mean SSIM and its gradient with respect to the image."""
    mean = gaussian_filter(image)
    square = gaussian_filter(image * image)
    product = gaussian_filter(image * target.image)
    a1 = 2 * mean * target.mean + C1
    a2 = 2 * (product - mean * target.mean) + C2
    inverse_b1 = 1 / (mean * mean + target.mean * target.mean + C1)
    inverse_b2 = 1 / (square - mean * mean + target.variance + C2)
    ssim = a1 * a2 * inverse_b1 * inverse_b2
    by_mean = 2 * target.mean * (a2 - a1) * inverse_b1 * inverse_b2 + 2 * mean * ssim * (inverse_b2 - inverse_b1)
    by_square = -ssim * inverse_b2
    by_product = 2 * a1 * inverse_b1 * inverse_b2
    gradient = (
        gaussian_filter(by_mean) + 2 * image * gaussian_filter(by_square) + target.image * gaussian_filter(by_product)
    )
    return jnp.mean(ssim), gradient / image.size


@jax.custom_vjp
def ssim(image: Float[Array, "h w 3"], target: PhotometricTarget) -> Float[Array, ""]:
    """Mean structural similarity of a rendered image and a target, 1 = equal (METHOD section 8).

    Differentiable in the image only: the target is data, and its gradient is zero.
    """
    return _ssim_and_gradient(image, target)[0]


def _ssim_forward(image: Array, target: PhotometricTarget) -> tuple[Array, tuple[Array, PhotometricTarget]]:
    value, gradient = _ssim_and_gradient(image, target)
    return value, (gradient, target)


def _ssim_backward(residuals: tuple[Array, PhotometricTarget], cotangent: Array) -> tuple[Array, PhotometricTarget]:
    gradient, target = residuals
    return cotangent * gradient, jax.tree.map(jnp.zeros_like, target)


ssim.defvjp(_ssim_forward, _ssim_backward)


def photometric_loss(
    image: Float[Array, "h w 3"], target: PhotometricTarget, ssim_weight: float | Float[Array, ""]
) -> Float[Array, ""]:
    """(1 - ssim_weight) mean |image - l1_image| + ssim_weight (1 - SSIM) (METHOD section 3)."""
    l1 = jnp.mean(jnp.abs(image - target.l1_image))
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim(image, target))
