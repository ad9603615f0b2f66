"""Which depths to believe: those that another view, matched on its own, confirms.

A pixel is lifted to 3D by its depth and seen from another view; that view's own depth there is lifted in turn and seen
from the first. The two views agree where this ends within a pixel of where it began and at nearly the same depth.
"""

from __future__ import annotations


import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ipsm_jax.scene.camera import Camera
from ipsm_jax.stereo.geometry import pair, pixel_centers, project


def agreement(
    reference: Camera,
    depth: Float[Array, "h w"],
    other: Camera,
    other_depth: Float[Array, "h w"],
    reprojection: float,
    difference: float,
) -> tuple[Bool[Array, "h w"], Float[Array, "h w"]]:
    """Whether another view agrees with each pixel of the reference, and what depth it gives it.

    Args:
      reference, other: two cameras of one size.
      depth, other_depth: their depths, 0 = unknown; that never agrees.
      reprojection: pixels.
      difference: relative, of depths in the reference.

    Returns:
      The mask, and the depth in the reference of the point that the other view has there (0 outside the mask).
    """
    u, v = pixel_centers(reference.width, reference.height)
    known = depth > 0
    there = project(pair(reference, other), u, v, 1 / jnp.where(known, depth, 1.0), other)
    known &= there.visible
    column = jnp.clip(jnp.where(known, there.x, 0.0).astype(jnp.int32), 0, other.width - 1)
    row = jnp.clip(jnp.where(known, there.y, 0.0).astype(jnp.int32), 0, other.height - 1)
    found = other_depth[row, column]
    known &= found > 0
    safe = jnp.where(known, found, 1.0)
    # From the exact place, not the center of the pixel that its depth was read from.
    back = project(pair(other, reference), there.x, there.y, 1 / safe, reference)
    again = back.depth * safe
    near = (back.x - u) ** 2 + (back.y - v) ** 2 < reprojection**2
    agrees = known & back.visible & near & (jnp.abs(again - depth) < difference * depth)
    return agrees, jnp.where(agrees, again, 0.0)


def cross_check(
    cameras: Camera, depths: Float[Array, "v h w"], reprojection: float, difference: float, agreeing: int
) -> tuple[Float[Array, "v h w"], Bool[Array, "v h w"]]:
    """Depths averaged over the views that agree, and where at least `agreeing` others do.

    Args:
      cameras: batch of V.
      depths: of each view on its own, 0 = unknown.
      reprojection, difference: as above.
      agreeing: number of other views.
    """
    views = depths.shape[0]

    def one(i: Int[Array, ""]) -> tuple[Float[Array, "h w"], Bool[Array, "h w"]]:
        def add(state: tuple[Array, Array], j: Int[Array, ""]) -> tuple[tuple[Array, Array], None]:
            total, count = state
            agrees, depth = agreement(cameras[i], depths[i], cameras[j], depths[j], reprojection, difference)
            agrees &= i != j
            return (total + jnp.where(agrees, depth, 0.0), count + agrees), None

        start = depths[i], jnp.zeros(depths.shape[1:], jnp.int32)
        (total, count), _ = lax.scan(add, start, jnp.arange(views))
        return total / (count + 1), count >= agreeing

    return lax.map(one, jnp.arange(views))


