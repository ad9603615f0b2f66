"""Binocular consistency: a view from a little to the side, moved back by the rendered depth, must show the photo.

For a shift b of the camera along its own x axis, what lies at depth z moves by fx b / z pixels to the left. So the
shifted render sampled there, and the rendered depth, are both wrong wherever the photo does not come out (Han et al.,
"Binocular-Guided 3D Gaussian Splatting with View Consistency for Sparse View Synthesis", NeurIPS 2024).
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ipsm_jax.scene.camera import Camera

_LEAST_ALPHA = 0.5
"""Where less is covered, the rendered depth means little, and the pixel does not count."""


@dataclasses.dataclass(frozen=True)
class BinocularOptions:
    """How strongly, how far aside and when.

    Attributes:
      weight: of `binocular_loss`.
      shift: largest shift to either side, in units of the scene's extent.
      start: last iteration without.
    """

    weight: float = 1.0
    shift: float = 0.2
    start: int = 2000

    def active(self, iteration: int | Int[Array, ""]) -> Bool[Array, ""]:
        """Whether the term acts in an iteration, counted from 1."""
        return jnp.asarray(iteration) > self.start


def shifted_camera(camera: Camera, shift: Float[Array, ""]) -> Camera:
    """The camera moved along its own x axis (to the right) by `shift` world units."""
    return Camera(camera.camera_from_world.at[0, 3].add(-shift), camera.intrinsics, camera.width, camera.height)


def moved_back(
    image: Float[Array, "h w c"], depth: Float[Array, "h w"], shift: Float[Array, ""], fx: Float[Array, ""]
) -> tuple[Float[Array, "h w c"], Bool[Array, "h w"]]:
    """The shifted render as seen from the view itself, and where it is inside of the render.

    Linear interpolation along rows; differentiable in the render and in the depth.

    Args:
      image: render of `shifted_camera`.
      depth: (H, W) camera z of the view itself, in world units; not positive = not known.
      shift: as there.
      fx: focal length in pixels.
    """
    height, width = depth.shape
    known = depth > 0
    column = jnp.arange(width, dtype=depth.dtype)[None] - fx * shift / jnp.where(known, depth, 1.0)
    inside = known & (column >= 0) & (column <= width - 1)
    column = jnp.where(inside, column, 0.0)
    left = jnp.clip(jnp.floor(column).astype(jnp.int32), 0, width - 2)
    share = (column - left)[..., None]
    rows = jnp.arange(height)[:, None]
    return (1 - share) * image[rows, left] + share * image[rows, left + 1], inside


def binocular_loss(
    photo: Float[Array, "h w 3"],
    shifted_image: Float[Array, "h w 3"],
    depth: Float[Array, "h w"],
    alpha: Float[Array, "h w"],
    shift: Float[Array, ""],
    fx: Float[Array, ""],
) -> Float[Array, ""]:
    """Mean over all pixels and channels of |photo - shifted render moved back|, where it can be moved; unweighted.

    Args:
      photo: of the view.
      shifted_image: render of `shifted_camera`.
      depth, alpha: render of the view itself; the depth, not divided by alpha, is divided by it here.
      shift: as there.
      fx: focal length in pixels.
    """
    solid = alpha > _LEAST_ALPHA
    image, inside = moved_back(shifted_image, jnp.where(solid, depth / jnp.where(solid, alpha, 1.0), 0.0), shift, fx)
    return jnp.mean(jnp.where((solid & inside)[..., None], jnp.abs(photo - image), 0.0))
