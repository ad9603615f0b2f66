"""The photometric loss, (1 - w) L1 + w (1 - SSIM), with its gradient in closed form (METHOD section 3).

Images are float32 (H, W, C) in [0, 1], C = 3 in training. SSIM is the one of METHOD section 8: 11 x 11 Gaussian window
with sigma 1.5, zero padding, averaged over pixels and channels. With F the window, x the rendered image and y the
target,

    mu_x = F x,  s_xx = F x^2 - mu_x^2,  s_xy = F xy - mu_x mu_y,
    SSIM = A1 A2 / (B1 B2),
    A1 = 2 mu_x mu_y + C1,  A2 = 2 s_xy + C2,  B1 = mu_x^2 + mu_y^2 + C1,  B2 = s_xx + s_yy + C2.

This runs at every iteration. On CPUs and in float32 it is one native operation (`photometric_native.py`); what follows
is its oracle, and what GPUs and other precisions use. Three measures make it several times faster than automatic
differentiation of the formulas: what depends on the target alone is computed once (`PhotometricTarget`); the gradient
reuses the maps of the value, and since F is its own adjoint it takes three more filterings; and the filter adds shifted
slices of a padded (H, C W) array, which becomes one vector loop per axis.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from ipsm_jax.losses.photometric_native import photometric_terms_native
from ipsm_jax.rasterizer.native import load_library
from ipsm_jax.rasterizer.render import Backend

RADIUS = 5
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2
_OFFSETS = np.arange(-RADIUS, RADIUS + 1)
_WINDOW = np.exp(-(_OFFSETS**2) / (2 * SIGMA**2)) / np.exp(-(_OFFSETS**2) / (2 * SIGMA**2)).sum()


class PhotometricTarget(NamedTuple):
    """What the loss compares with: the photo and what is computed from it alone; may carry a leading view axis.

    Attributes:
      image: (H, W, C) the photo, target of SSIM.
      l1_image: (H, W, C) target of L1; the photo, or the photo with its background zeroed (DTU).
      mean: (H, W, C) F y.
      variance: (H, W, C) F y^2 - (F y)^2.
    """

    image: Float[Array, "... h w c"]
    l1_image: Float[Array, "... h w c"]
    mean: Float[Array, "... h w c"]
    variance: Float[Array, "... h w c"]


def photometric_target(
    image: Float[Array, "h w c"], l1_image: Float[Array, "h w c"] | None = None
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
    image: Float[Array, "h w c"], target: PhotometricTarget
) -> tuple[Float[Array, ""], Float[Array, "h w c"]]:
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
def ssim(image: Float[Array, "h w c"], target: PhotometricTarget) -> Float[Array, ""]:
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


class Comparison(NamedTuple):
    """What a training view says about a rendered image.

    Attributes:
      loss: the photometric loss.
      mean_square: mean of (image - photo)^2, which PSNR is made of; for the log, its gradient is zero.
    """

    loss: Float[Array, ""]
    mean_square: Float[Array, ""]


def photometric_loss(
    image: Float[Array, "h w c"],
    target: PhotometricTarget,
    ssim_weight: float | Float[Array, ""],
    *,
    backend: Backend = "auto",
) -> Float[Array, ""]:
    """(1 - ssim_weight) mean |image - l1_image| + ssim_weight (1 - SSIM) (METHOD section 3).

    Differentiable in the image and the weight. Arguments and errors as for `compare_with_view`, with a single view.
    """
    views = jax.tree.map(lambda a: a[None], target)
    return compare_with_view(image, views, 0, ssim_weight, backend=backend).loss


def compare_with_view(
    image: Float[Array, "h w c"],
    targets: PhotometricTarget,
    view: int | Int[Array, ""],
    ssim_weight: float | Float[Array, ""],
    *,
    backend: Backend = "auto",
) -> Comparison:
    """The photometric loss of an image and one of V views; works under jit, grad and vmap.

    Args:
      image: rendered image.
      targets: of all views, leading axis V; they are data, their gradients are zero.
      view: which one, from 0; may be traced.
      ssim_weight: between 0 and 1; may be traced.
      backend: "reference" computes it with jnp anywhere; else float32 goes through the native library on CPUs.

    Raises:
      ValueError: image and targets differ in shape.
      NativeUnavailableError: the native library is missing or does not fit.
    """
    if targets.image.shape[1:] != image.shape or image.size == 0:
        raise ValueError(f"cannot compare an image {image.shape} with targets {targets.image.shape}, want (V, H, W, C)")
    if backend == "reference" or any(a.dtype != jnp.float32 for a in (image, *targets)):
        terms, loss = _terms(image, *(a[view] for a in targets), ssim_weight)
        return Comparison(loss, lax.stop_gradient(terms[2]))
    load_library()
    return _compare(image, targets, jnp.asarray(view, jnp.int32), jnp.asarray(ssim_weight, jnp.float32))


def _terms(
    image: Array, photo: Array, l1_image: Array, mean: Array, variance: Array, ssim_weight: float | Array
) -> tuple[Float[Array, " 3"], Float[Array, ""]]:
    """Means of |image - l1_image|, SSIM and (image - photo)^2; and the loss."""
    difference = image - l1_image
    # Not jnp.abs, whose slope at 0 is 1: where nothing differs nothing is to be pushed.
    l1 = jnp.mean(difference * lax.stop_gradient(jnp.sign(difference)))
    similarity = ssim(image, PhotometricTarget(photo, l1_image, mean, variance))
    squared = jnp.mean(jnp.square(image - photo))
    return jnp.stack([l1, similarity, squared]), (1 - ssim_weight) * l1 + ssim_weight * (1 - similarity)


def _terms_and_gradient(
    image: Array, photos: Array, l1_images: Array, means: Array, variances: Array, view: Array, ssim_weight: Array
) -> tuple[Float[Array, " 3"], Float[Array, "h w c"]]:
    """What `photometric_terms_native` computes, in jnp."""
    target = (a[view] for a in (photos, l1_images, means, variances))
    _, pullback, terms = jax.vjp(lambda x: _terms(x, *target, ssim_weight)[::-1], image, has_aux=True)
    return terms, pullback(jnp.ones((), image.dtype))[0]


@jax.custom_vjp
def _compare(image: Array, targets: PhotometricTarget, view: Array, ssim_weight: Array) -> Comparison:
    return _compare_forward(image, targets, view, ssim_weight)[0]


def _compare_forward(
    image: Array, targets: PhotometricTarget, view: Array, ssim_weight: Array
) -> tuple[Comparison, tuple[Array, Array]]:
    terms, gradient = lax.platform_dependent(
        image, *targets, view, ssim_weight, cpu=photometric_terms_native, default=_terms_and_gradient
    )
    l1, dissimilarity = terms[0], 1 - terms[1]
    loss = (1 - ssim_weight) * l1 + ssim_weight * dissimilarity
    return Comparison(loss, terms[2]), (gradient, dissimilarity - l1)


def _compare_backward(residuals: tuple[Array, Array], cotangents: Comparison) -> tuple[Array, None, None, Array]:
    gradient, by_weight = residuals
    return cotangents.loss * gradient, None, None, cotangents.loss * by_weight


_compare.defvjp(_compare_forward, _compare_backward)
