"""Gaussians onto the image plane: everything the rasterizer needs per Gaussian, before any pixel is looked at.

Camera axes are OpenCV's (x right, y down, z forward). Image coordinates (u, v) are in pixels, pixel (i, j) has its
center at (i + 0.5, j + 0.5). n is the number of Gaussian slots. R, t are rotation and translation of
`camera_from_world`; S = diag(exp(log_scales)), Q the rotation of the normalized quaternion, so the 3D covariance is
Q S S Q^T. The numbers are those of the original 3D Gaussian splatting (METHOD section 2 and 3 build on it).

All functions are plain jnp, in the precision of `gaussians.means`, and differentiable in the Gaussians and the camera.
A Gaussian that cannot be seen, or whose numbers are not finite, gets zeros and exactly zero gradients.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ipsm_jax.scene.camera import Camera, invert_rigid
from ipsm_jax.scene.gaussians import Gaussians
from ipsm_jax.scene.harmonics import evaluate_harmonics, harmonics_to_color

Footprint = Literal["exact", "3sigma"]

NEAR_PLANE = 0.2  # camera z at or below this is culled
JACOBIAN_LIMIT = 1.3  # x/z and y/z are clamped to this many times tan(fov / 2) in the Jacobian
DILATION = 0.3  # variance in square pixels added to both axes of the 2D covariance
MIN_ALPHA = 1 / 255  # a weaker contribution is skipped
TILE = 16  # tile edge of the "3sigma" footprint, in pixels
_MAX_RADIUS = 2.0**30  # keeps the conversion to int32 defined for absurdly large Gaussians


class ProjectedGaussians(NamedTuple):
    """n Gaussians on the image plane; a slot with radius 0 is invisible and holds zeros."""

    means2d: Float[Array, "n 2"]  # (u, v) in pixels
    conics: Float[Array, "n 3"]  # A, B, C of the inverse 2D covariance [[A, B], [B, C]], 1 / square pixel
    opacities: Float[Array, " n"]  # [0, 1)
    colors: Float[Array, "n 3"]  # [0, inf)
    depths: Float[Array, " n"]  # camera z, world units
    radii: Int[Array, " n"]  # ceil(3 sigma) in pixels
    boxes: Int[Array, "n 4"]  # pixels it may touch: columns [x0, x1), rows [y0, y1) as (x0, y0, x1, y1)


class _Shape(NamedTuple):
    """Camera-space position (n, 3), image position (n, 2) and 2D covariance (xx, xy, yy, each (n,)), determinants."""

    position: Float[Array, "n 3"]
    means2d: Float[Array, "n 2"]
    xx: Float[Array, " n"]
    xy: Float[Array, " n"]
    yy: Float[Array, " n"]
    determinant: Float[Array, " n"]  # after dilation
    determinant_before: Float[Array, " n"]  # before


def rotation_matrices(quaternions: Float[Array, "n 4"]) -> Float[Array, "n 3 3"]:
    """Rotations of wxyz quaternions of any length but 0; the normalization is differentiated through."""
    q = quaternions / jnp.sqrt(jnp.sum(quaternions * quaternions, axis=-1, keepdims=True))
    w, x, y, z = (q[:, i] for i in range(4))
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def _clamp_ratio(ratio: Float[Array, " n"], limit: Float[Array, ""]) -> Float[Array, " n"]:
    """Clamp to [-limit, limit]; where it bites, neither the ratio nor the limit gets a gradient."""
    bound = lax.stop_gradient(limit)
    return jnp.where(jnp.abs(ratio) <= bound, ratio, jnp.where(ratio > 0, bound, -bound))


def _transform(means: Float[Array, "n 3"], camera: Camera) -> Float[Array, "n 3"]:
    rotation, translation = camera.camera_from_world[:3, :3], camera.camera_from_world[:3, 3]
    return jnp.einsum("ij,nj->ni", rotation, means, precision="highest") + translation[None, :]


def _splat_shape(
    gaussians: Gaussians, position: Float[Array, "n 3"], camera: Camera, mean2d_offset: Float[Array, "n 2"]
) -> _Shape:
    """Means and covariances on the image plane of Gaussians at camera-space `position`."""
    fx, fy, cx, cy = (camera.intrinsics[i] for i in range(4))
    x, y, z = (position[:, i] for i in range(3))
    means2d = jnp.stack([fx * x / z + cx, fy * y / z + cy], axis=-1) + mean2d_offset

    ratio_x = _clamp_ratio(x / z, JACOBIAN_LIMIT * 0.5 * camera.width / fx)
    ratio_y = _clamp_ratio(y / z, JACOBIAN_LIMIT * 0.5 * camera.height / fy)
    # Rows of J R, with J = [[fx/z, 0, -fx ratio_x / z], [0, fy/z, -fy ratio_y / z]].
    rotation = camera.camera_from_world[:3, :3]
    row_u = (fx / z)[:, None] * (rotation[None, 0] - ratio_x[:, None] * rotation[None, 2])
    row_v = (fy / z)[:, None] * (rotation[None, 1] - ratio_y[:, None] * rotation[None, 2])

    # The covariance is a Gram matrix of a = (J R Q S)_u and b = (J R Q S)_v.
    axes = rotation_matrices(gaussians.quaternions) * jnp.exp(gaussians.log_scales)[:, None, :]
    a = jnp.sum(row_u[:, :, None] * axes, axis=1)
    b = jnp.sum(row_v[:, :, None] * axes, axis=1)
    aa, ab, bb = jnp.sum(a * a, axis=-1), jnp.sum(a * b, axis=-1), jnp.sum(b * b, axis=-1)
    # |a x b|^2 = aa bb - ab^2, without the cancellation that would turn thin Gaussians' determinants negative.
    cross = jnp.cross(a, b)
    before = jnp.sum(cross * cross, axis=-1)
    determinant = before + DILATION * (aa + bb) + DILATION**2
    return _Shape(position, means2d, aa + DILATION, ab, bb + DILATION, determinant, before)


def _blended_opacities(opacity_logits: Float[Array, " n"], shape: _Shape, antialiased: bool) -> Float[Array, " n"]:
    """Opacities as they are blended: antialiased, what dilation adds in area is taken from the opacity."""
    opacities = jax.nn.sigmoid(opacity_logits)
    return opacities * jnp.sqrt(shape.determinant_before / shape.determinant) if antialiased else opacities


def _pixel_boxes(
    shape: _Shape,
    opacities: Float[Array, " n"],
    radii: Float[Array, " n"],
    width: int,
    height: int,
    footprint: Footprint,
) -> Int[Array, "n 4"]:
    """(n, 4) int32 pixels (x0, y0, x1, y1) that each Gaussian may touch, clipped to the image; x1 <= x0 if none."""
    center = shape.means2d - 0.5  # in units where pixel (i, j) has its center at (i, j)
    size = jnp.asarray([width, height], center.dtype)[None, :]
    if footprint == "exact":
        # alpha >= 1/255 holds inside an ellipse with these half extents along the image axes.
        reach = 2 * jnp.log(jnp.maximum(opacities / MIN_ALPHA, 1))
        extent = jnp.sqrt(reach[:, None] * jnp.stack([shape.xx, shape.yy], axis=-1))
        first = jnp.clip(jnp.ceil(center - extent), 0, size)
        end = jnp.clip(jnp.floor(center + extent) + 1, 0, size)
    else:
        # The original's square of 3 sigma, grown to whole tiles; the image depends on where the tile edges are.
        tiles = jnp.ceil(size / TILE)
        first = jnp.clip(jnp.floor((center - radii[:, None]) / TILE), 0, tiles) * TILE
        end = jnp.clip(jnp.floor((center + radii[:, None] + (TILE - 1)) / TILE), 0, tiles) * TILE
        first, end = jnp.minimum(first, size), jnp.minimum(end, size)
    # A NaN would make the conversion to int32 undefined: such a box is empty.
    finite = jnp.all(jnp.isfinite(first) & jnp.isfinite(end), axis=-1, keepdims=True)
    return jnp.where(finite, jnp.concatenate([first, end], axis=-1), 0).astype(jnp.int32)


def _visibility(
    shape: _Shape, opacities: Float[Array, " n"], alive: Bool[Array, " n"], camera: Camera, footprint: Footprint
) -> tuple[Int[Array, " n"], Int[Array, "n 4"]]:
    """Screen radii (0 = invisible) and pixel boxes. Every comparison is written so that a NaN means invisible."""
    mid = 0.5 * (shape.xx + shape.yy)
    largest = mid + jnp.sqrt(jnp.maximum(0.1, mid * mid - shape.determinant))
    radii = jnp.minimum(jnp.ceil(3 * jnp.sqrt(largest)), _MAX_RADIUS)
    boxes = _pixel_boxes(shape, opacities, radii, camera.width, camera.height, footprint)
    visible = alive & (shape.position[:, 2] > NEAR_PLANE) & (opacities >= MIN_ALPHA)
    visible &= (shape.determinant > 0) & jnp.isfinite(shape.determinant)
    visible &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return jnp.where(visible, radii, 0).astype(jnp.int32), jnp.where(visible[:, None], boxes, 0)


def _select(mask: Bool[Array, " n"], value: Array, otherwise: float | tuple[float, ...]) -> Array:
    """`value` (n, ...) where `mask` (n,) holds, else `otherwise`; no gradient reaches the slots not selected."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (value.ndim - 1)), value, jnp.asarray(otherwise, value.dtype))


def _harmonics(
    gaussians: Gaussians, view: Float[Array, "n 3"], sh_degree: int | Int[ArrayLike, ""]
) -> Float[Array, "n 3"]:
    """Values of the harmonics along `view`, vectors of any length from the camera's center to the means."""
    directions = view / jnp.sqrt(jnp.sum(view * view, axis=-1, keepdims=True))
    return evaluate_harmonics(gaussians.sh_dc, gaussians.sh_rest, directions, sh_degree)


def check_footprint(footprint: str) -> None:
    """Raise ValueError unless `footprint` is one of the two known names."""
    if footprint not in get_args(Footprint):
        raise ValueError(f"footprint must be one of {', '.join(get_args(Footprint))}, got {footprint!r}")


def project(
    gaussians: Gaussians,
    camera: Camera,
    alive: Bool[Array, " n"],
    sh_degree: int | Int[ArrayLike, ""],
    mean2d_offset: Float[Array, "n 2"],
    footprint: Footprint,
    antialiased: bool = False,
) -> ProjectedGaussians:
    """Project Gaussians and find which pixels each may touch.

    The 2D covariance is J R Q S S Q^T R^T J^T + 0.3 I, where J is the Jacobian of the projection with x/z and y/z
    clamped to 1.3 tan(fov / 2); a clamped ratio has gradient 0 and passes none on to the focal length. The viewing
    direction of the color is (mean - camera center) / norm, differentiated through both.

    A Gaussian is visible, radius > 0, when it is alive, camera z > 0.2, its determinant is positive and finite, its
    color is finite, its opacity >= 1/255 and its pixel box is not empty. Box of footprint "exact": the rectangle around
    the ellipse alpha >= 1/255. Box of "3sigma": the tiles of 16 x 16 pixels touched by the square of the radius, as in
    the original rasterizer.

    Args:
      gaussians: n slots, float32 or float64.
      camera: one camera (no batch axes).
      alive: (n,) bool; dead slots may hold anything, NaN included.
      sh_degree: 0 to 3, may be traced.
      mean2d_offset: (n, 2) pixels added to the projected means.
      footprint: "exact" or "3sigma".
      antialiased: scale opacities by sqrt(det before / det after dilation), as Mip-Splatting and gsplat do.

    Raises:
      ValueError: an unknown footprint, a Python integer degree outside 0..3, or a camera with batch axes.
    """
    check_footprint(footprint)
    if jnp.shape(camera.camera_from_world) != (4, 4) or jnp.shape(camera.intrinsics) != (4,):
        raise ValueError(
            "need one camera with camera_from_world (4, 4) and intrinsics (4,), got "
            f"{jnp.shape(camera.camera_from_world)} and {jnp.shape(camera.intrinsics)}; use jax.vmap for a batch"
        )
    dtype = gaussians.means.dtype
    camera = Camera(
        jnp.asarray(camera.camera_from_world, dtype), jnp.asarray(camera.intrinsics, dtype), camera.width, camera.height
    )

    # Decide first, without gradients; then compute once more with harmless numbers in the slots that are not seen,
    # so that no NaN or infinity exists for a zero cotangent to be multiplied with.
    raw, offset, fixed_camera = lax.stop_gradient((gaussians, mean2d_offset, camera))
    raw_shape = _splat_shape(raw, _transform(raw.means, fixed_camera), fixed_camera, offset)
    center = invert_rigid(camera.camera_from_world)[:3, 3]
    raw_values = _harmonics(raw, raw.means - lax.stop_gradient(center)[None, :], sh_degree)
    radii, boxes = _visibility(
        raw_shape,
        _blended_opacities(raw.opacity_logits, raw_shape, antialiased),
        alive & jnp.all(jnp.isfinite(raw_values), axis=-1),
        camera,
        footprint,
    )
    visible = radii > 0

    safe = Gaussians(
        means=_select(visible, gaussians.means, 0),
        log_scales=_select(visible, gaussians.log_scales, 0),
        quaternions=_select(visible, gaussians.quaternions, (1, 0, 0, 0)),
        opacity_logits=_select(visible, gaussians.opacity_logits, 0),
        sh_dc=_select(visible, gaussians.sh_dc, 0),
        sh_rest=_select(visible, gaussians.sh_rest, 0),
    )
    position = _select(visible, _transform(safe.means, camera), (0, 0, 1))
    shape = _splat_shape(safe, position, camera, _select(visible, mean2d_offset, 0))
    conics = jnp.stack([shape.yy, -shape.xy, shape.xx], axis=-1) / shape.determinant[:, None]

    view = _select(visible, safe.means - center[None, :], (0, 0, 1))
    colors = harmonics_to_color(_harmonics(safe, view, sh_degree))

    return ProjectedGaussians(
        means2d=_select(visible, shape.means2d, 0),
        conics=_select(visible, conics, 0),
        opacities=_select(visible, _blended_opacities(safe.opacity_logits, shape, antialiased), 0),
        colors=_select(visible, colors, 0),
        depths=_select(visible, position[:, 2], 0),
        radii=radii,
        boxes=boxes,
    )
