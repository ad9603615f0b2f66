"""Where the pixels of one view lie in another, given their inverse depth.

A pixel (u, v) of the reference at inverse depth w = 1 / z lies in the source at

    (x, y, 1) ~ infinite (u, v, 1) + w epipole,    infinite = K_s R K_r^-1,  epipole = K_s t,

with R, t the source's pose relative to the reference. All pixels on one plane w(u, v) = s (1, r_x, r_y) . n, with r the
ray through the pixel, make this a homography. Pixel centers are at +0.5.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ipsm_jax.scene.camera import Camera, invert_rigid


class Pair(NamedTuple):
    """Two views' relation: infinite (..., 3, 3) and epipole (..., 3) of the equation above, in pixels."""

    infinite: Float[Array, "*b 3 3"]
    epipole: Float[Array, "*b 3"]


class Projection(NamedTuple):
    """Column x, row y (H, W) in the source in pixels, and `visible`: before the camera and inside its image.

    `depth` is the source's camera z divided by the reference's.
    """

    x: Float[Array, "h w"]
    y: Float[Array, "h w"]
    depth: Float[Array, "h w"]
    visible: Bool[Array, "h w"]


def matrix(intrinsics: Float[Array, "*b 4"]) -> Float[Array, "*b 3 3"]:
    """Camera matrices K of (fx, fy, cx, cy)."""
    fx, fy, cx, cy = jnp.moveaxis(intrinsics, -1, 0)
    zero, one = jnp.zeros_like(fx), jnp.ones_like(fx)
    rows = [jnp.stack(row, axis=-1) for row in ((fx, zero, cx), (zero, fy, cy), (zero, zero, one))]
    return jnp.stack(rows, axis=-2)


def pair(reference: Camera, source: Camera) -> Pair:
    """The relation of one reference to one source, or to a batch of them."""
    relative = jnp.einsum(
        "...ij,jk->...ik",
        jnp.asarray(source.camera_from_world),
        invert_rigid(reference.camera_from_world),
        precision="highest",
    )
    fx, fy, cx, cy = jnp.asarray(reference.intrinsics)
    zero, one = jnp.zeros_like(fx), jnp.ones_like(fx)
    inverse = jnp.stack([1 / fx, zero, -cx / fx, zero, 1 / fy, -cy / fy, zero, zero, one]).reshape(3, 3)
    k = matrix(jnp.asarray(source.intrinsics))
    infinite = jnp.einsum("...ij,...jk,kl->...il", k, relative[..., :3, :3], inverse, precision="highest")
    return Pair(infinite, jnp.einsum("...ij,...j->...i", k, relative[..., :3, 3], precision="highest"))


def project(
    relation: Pair,
    u: Float[Array, "h w"],
    v: Float[Array, "h w"],
    inverse_depth: Float[Array, "h w"],
    height: int,
    width: int,
) -> Projection:
    """Where pixels (u, v) of the reference lie in the source, whose image has `height` x `width` pixels."""
    a, b = relation

    # Written out: as a matrix product it would be no part of the loop that samples.
    def row(i: int) -> Float[Array, "h w"]:
        return a[i, 0] * u + a[i, 1] * v + (a[i, 2] + inverse_depth * b[i])

    depth = row(2)
    before = depth > 1e-6
    scale = 1.0 / jnp.where(before, depth, 1.0)
    x, y = row(0) * scale, row(1) * scale
    return Projection(x, y, depth, before & (x >= 0) & (x <= width) & (y >= 0) & (y <= height))


def pixel_centers(width: int, height: int) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """(H, W) columns and rows of the centers of all pixels."""
    u, v = jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5)
    return u.astype(jnp.float32), v.astype(jnp.float32)


def rays(camera: Camera) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """(H, W) x and y of the rays through the pixels of one camera, at z = 1."""
    u, v = pixel_centers(camera.width, camera.height)
    fx, fy, cx, cy = jnp.asarray(camera.intrinsics)
    return (u - cx) / fx, (v - cy) / fy


def halved(camera: Camera) -> Camera:
    """The camera of a photo reduced to half its size, odd sizes rounded up; pixel coordinates are halved exactly."""
    return dataclasses.replace(
        camera,
        intrinsics=camera.intrinsics / 2,
        width=(camera.width + 1) // 2,
        height=(camera.height + 1) // 2,
    )
