"""Which depths to believe: those that another view, matched on its own, confirms.

A pixel is lifted to 3D by its depth and seen from another view; that view's own depth there is lifted in turn and seen
from the first. The two views agree where this ends within a pixel of where it began and at nearly the same depth.
"""

from __future__ import annotations

import jax
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
    there = project(pair(reference, other), u, v, 1 / jnp.where(known, depth, 1.0), other.height, other.width)
    known &= there.visible
    found = _depth_at(other_depth, jnp.where(known, there.x, 0.0), jnp.where(known, there.y, 0.0), difference)
    known &= found > 0
    safe = jnp.where(known, found, 1.0)
    # From the exact place, not the center of the pixel that its depth was read from.
    back = project(pair(other, reference), there.x, there.y, 1 / safe, reference.height, reference.width)
    again = back.depth * safe
    near = (back.x - u) ** 2 + (back.y - v) ** 2 < reprojection**2
    agrees = known & back.visible & near & (jnp.abs(again - depth) < difference * depth)
    return agrees, jnp.where(agrees, again, 0.0)


def _depth_at(depth: Float[Array, "h w"], x: Float[Array, "m n"], y: Float[Array, "m n"], difference: float) -> Array:
    """Depth at columns x and rows y: interpolated on a surface, that of the pixel itself beside an edge or a hole.

    Inverse depth is what is linear in the image on a plane.
    """
    height, width = depth.shape
    pixel = depth[jnp.clip(y.astype(jnp.int32), 0, height - 1), jnp.clip(x.astype(jnp.int32), 0, width - 1)]
    x, y = jnp.clip(x - 0.5, 0, width - 1), jnp.clip(y - 0.5, 0, height - 1)
    column, row = x.astype(jnp.int32), y.astype(jnp.int32)
    right, down = x - column, y - row
    columns, rows = (column, jnp.minimum(column + 1, width - 1)), (row, jnp.minimum(row + 1, height - 1))
    corners = [depth[r, c] for r in rows for c in columns]
    smooth = jnp.ones(pixel.shape, bool)
    for corner in corners:
        smooth &= (corner > 0) & (jnp.abs(corner - pixel) < 2 * difference * pixel)
    upper_left, upper_right, lower_left, lower_right = (1 / jnp.where(smooth, corner, 1.0) for corner in corners)
    upper = upper_left + right * (upper_right - upper_left)
    lower = lower_left + right * (lower_right - lower_left)
    return jnp.where(smooth, 1 / (upper + down * (lower - upper)), pixel)


def cross_check(
    cameras: Camera,
    depths: Float[Array, "v h w"],
    related: Bool[Array, "v v"],
    reprojection: float,
    difference: float,
    agreeing: int,
) -> tuple[Float[Array, "v h w"], Bool[Array, "v h w"], Float[Array, "v v"]]:
    """Depths averaged over the views that agree, where at least `agreeing` others do, and how much each pair agrees.

    Args:
      cameras: batch of V.
      depths: of each view on its own, 0 = unknown.
      related: whether view j is one that can confirm view i.
      reprojection, difference: as above.
      agreeing: number of other views.

    Returns:
      The depths, the mask, and in row i and column j the share of the pixels of view i that view j agrees with.
    """
    cameras = jax.tree.map(jnp.asarray, cameras)
    views = depths.shape[0]

    def one(i: Int[Array, ""]) -> tuple[Float[Array, "h w"], Bool[Array, "h w"], Float[Array, " v"]]:
        def add(state: tuple[Array, Array], j: Int[Array, ""]) -> tuple[tuple[Array, Array], Float[Array, ""]]:
            total, count = state
            agrees, depth = agreement(cameras[i], depths[i], cameras[j], depths[j], reprojection, difference)
            agrees &= related[i, j]
            return (total + jnp.where(agrees, depth, 0.0), count + agrees), jnp.mean(agrees)

        start = depths[i], jnp.zeros(depths.shape[1:], jnp.int32)
        (total, count), shares = lax.scan(add, start, jnp.arange(views))
        return total / (count + 1), count >= agreeing, shares

    return lax.map(one, jnp.arange(views))
