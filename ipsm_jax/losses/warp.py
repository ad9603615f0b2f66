"""Inverse warping of a photo into another view, and the loss that asks for consistency with it (METHOD section 6).

Each pixel of the target view j is lifted to 3D with the target's depth, seen from the reference view i, and given what
is there:

    p_i ~ K_i T_{i<-j} D_j(p_j) K_j^-1 p_j,    sampled at floor(p_i), zero outside.

Images are (H, W, 3) in [0, 1], depths (H, W) are camera z in world units with 0 = nothing there, pixel (u, v) has its
center at +0.5. Nothing here passes a gradient to what is warped: the result says what the target view should look
like, and the warp must not be bent to make it so.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ipsm_jax.scene.camera import Camera, invert_rigid

GUIDANCE_THRESHOLD = 0.3
GEOMETRY_THRESHOLD = 0.1


@dataclasses.dataclass(frozen=True)
class GeometryOptions:
    """How strongly pseudo views are asked for consistency with the warped photos, and where.

    Attributes:
      weight: of `geometry_loss`.
      threshold: pixels whose normalized depths differ by this or more do not count.
    """

    weight: float = 2.0
    threshold: float = GEOMETRY_THRESHOLD


class Warp(NamedTuple):
    """The reference view as seen from the target view; (H, W) of the target, all without gradient.

    Attributes:
      image: (H, W, 3) the reference photo, 0 where it says nothing.
      depth: (H, W) the reference's depth, in the reference camera, 0 where it says nothing.
      in_bounds: (H, W) whether the pixel has depth and lies before the reference camera and within its image.
      difference: (H, W) |n(depth) - n(target's depth)| with n the min-max normalization, of the warped depth over its
        pixels > 0: small where both views see the same surface.
    """

    image: Float[Array, "h w 3"]
    depth: Float[Array, "h w"]
    in_bounds: Bool[Array, "h w"]
    difference: Float[Array, "h w"]

    def mask(self, threshold: float | Float[Array, ""] = GUIDANCE_THRESHOLD) -> Bool[Array, "h w"]:
        """Pixels in bounds at which the depths differ by less than the threshold."""
        return self.in_bounds & (self.difference < threshold)


def inverse_warp(
    reference: Camera,
    image: Float[Array, "hi wi 3"],
    reference_depth: Float[Array, "hi wi"],
    target: Camera,
    target_depth: Float[Array, "hj wj"],
) -> Warp:
    """The reference view's photo and depth, warped into the target view with the target's depth.

    Args:
      reference: camera of the photo.
      image: the photo.
      reference_depth: rendered depth of the reference view.
      target: camera of the pseudo view.
      target_depth: rendered depth of the pseudo view. Depths that are not finite count as 0.
    """
    image, reference_depth, target_depth = (
        lax.stop_gradient(_finite(array)) for array in (image, reference_depth, target_depth)
    )
    column, row, before = _project(reference, target, lax.stop_gradient(target_depth))
    # NaN compares false, and indices are made only from what is inside.
    in_bounds = before & (column >= 0) & (column < reference.width) & (row >= 0) & (row < reference.height)
    index = jnp.where(in_bounds, row, 0).astype(jnp.int32), jnp.where(in_bounds, column, 0).astype(jnp.int32)
    warped = jnp.where(in_bounds[..., None], image[index], 0.0)
    depth = jnp.where(in_bounds, reference_depth[index], 0.0)
    difference = jnp.abs(_normalized(depth, depth > 0) - _normalized(target_depth, jnp.ones_like(in_bounds)))
    return Warp(*(lax.stop_gradient(array) for array in (warped, depth, in_bounds, difference)))


def _project(
    reference: Camera, target: Camera, depth: Float[Array, "h w"]
) -> tuple[Float[Array, "h w"], Float[Array, "h w"], Bool[Array, "h w"]]:
    """Column and row (whole numbers as floats) in the reference image, and whether the point lies before its camera."""
    fx, fy, cx, cy = target.intrinsics
    u = (jnp.arange(target.width) + 0.5 - cx) / fx
    v = (jnp.arange(target.height) + 0.5 - cy) / fy
    rays = jnp.stack([*jnp.meshgrid(u, v), jnp.ones((target.height, target.width))])
    # float32 throughout: matrix units of reduced precision would shift points by pixels.
    transform = jnp.einsum(
        "ij,jk->ik", reference.camera_from_world, invert_rigid(target.camera_from_world), precision="highest"
    )
    turned = jnp.einsum("ij,jhw->ihw", transform[:3, :3], rays, precision="highest")
    x, y, z = turned * depth[None] + transform[:3, 3, None, None]
    before = (depth > 0) & (z > 0)
    z = jnp.where(before, z, 1.0)
    fx, fy, cx, cy = reference.intrinsics
    return jnp.floor(fx * x / z + cx), jnp.floor(fy * y / z + cy), before


def _finite(array: Array) -> Array:
    return jnp.where(jnp.isfinite(array), array, 0.0)


def _normalized(depth: Float[Array, "h w"], counted: Bool[Array, "h w"]) -> Float[Array, "h w"]:
    """(depth - min) / (max - min), both over the counted pixels; 0 if these are all the same or none."""
    low = jnp.min(jnp.where(counted, depth, jnp.inf))
    high = jnp.max(jnp.where(counted, depth, -jnp.inf))
    span = high - low
    return jnp.where(span > 0, (depth - low) / jnp.where(span > 0, span, 1.0), 0.0)


def geometry_loss(
    image: Float[Array, "h w 3"], warped: Float[Array, "h w 3"], mask: Bool[Array, "h w"]
) -> Float[Array, ""]:
    """Mean over all pixels and channels of |mask * (image - warped)|, unweighted.

    Args:
      image: the rendered pseudo view; the only argument with a gradient.
      warped, mask: of the warp, the mask with `GEOMETRY_THRESHOLD`.
    """
    difference = jnp.where(mask[..., None], image - lax.stop_gradient(warped), 0.0)
    return jnp.mean(jnp.abs(difference))
