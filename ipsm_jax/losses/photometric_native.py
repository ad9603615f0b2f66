"""The photometric loss and its gradient in one native pass over the image, for CPUs.

XLA makes some thirty passes over memory of `photometric.py`'s formulas; here bands of rows stream through the cache.
Shapes: V views, images (H, W, C) with any number of channels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ipsm_jax.rasterizer.native import load_library

TARGET = "ipsm_photometric"


def photometric_terms_native(
    image: Float[Array, "h w c"],
    target_image: Float[Array, "v h w c"],
    l1_image: Float[Array, "v h w c"],
    mean: Float[Array, "v h w c"],
    variance: Float[Array, "v h w c"],
    view: Int[Array, ""],
    ssim_weight: Float[Array, ""],
) -> tuple[Float[Array, " 3"], Float[Array, "h w c"]]:
    """Terms of the loss of one image and one of the views, and the loss's gradient with respect to the image.

    Everything is float32; see `photometric.PhotometricTarget` for the targets. Works under jit and vmap, on CPUs only;
    the views stay where they are, nothing is copied. Not differentiable.

    Returns:
      (3,) the means of |image - l1_image|, SSIM and (image - target_image)^2; (h, w, c) gradient of
      (1 - ssim_weight) mean |image - l1_image| + ssim_weight (1 - mean SSIM).

    Raises:
      NativeUnavailableError: the native library is missing or does not fit.
    """
    load_library()
    shapes = (jax.ShapeDtypeStruct((3,), jnp.float32), jax.ShapeDtypeStruct(image.shape, jnp.float32))
    terms, gradient = jax.ffi.ffi_call(TARGET, shapes, vmap_method="expand_dims")(
        image, target_image, l1_image, mean, variance, view, ssim_weight
    )
    return terms, gradient
