"""Which views are matched with which, and at which depths: all that is decided before a pixel is looked at.

On the host, in float64; a few rays and depths stand for all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ipsm_jax.scene.camera import Camera
from ipsm_jax.stereo.options import StereoError, StereoOptions

NEARER, FARTHER = 0.9, 1.15
"""Depths are searched from NEARER x the nearest to FARTHER x the farthest: bounds come from few points."""
_GRID = 9  # pixels along each side that stand for all
_DEPTHS = 65
_LEAST_OVERLAP = 0.05  # of rays and depths, that a source sees
_LEAST_DISPARITY = 2.0  # pixels that a point moves along the depths searched; with less there is nothing to see
_PERCENTILE = 95  # of the disparity ranges: a few rays pass close to the source
_PLANE_STEP = 32  # plane counts are multiples, so that fewer programs are compiled


class Plan(NamedTuple):
    """What to do for V views with up to S sources each.

    Attributes:
      sources: (V, S) int32 indices of views, best first.
      used: (V, S) bool, False where a view has fewer.
      related: (V, V) bool, whether view j shows enough of what view i shows, from a place different enough, to confirm
        its depths. Two photos from one place agree on any depth.
      inverse_depths: (V, 2) float32, farthest and nearest plane in 1 / world units.
      half_pixel: (V,) float32, change of inverse depth that moves a point by half a pixel in the farthest source.
      planes: how many.
      wide: whether some view's sources are so far apart that slanted planes are needed.
    """

    sources: np.ndarray
    used: np.ndarray
    related: np.ndarray
    inverse_depths: np.ndarray
    half_pixel: np.ndarray
    planes: int
    wide: bool


def plan(cameras: Camera, bounds: np.ndarray, options: StereoOptions, shrink: int = 1) -> Plan:
    """Sources and planes.

    Args:
      cameras: batch of V views.
      bounds: (V, 2) nearest and farthest depth in world units.
      options: of the stereo.
      shrink: by which the images that planes are swept in are smaller.

    Raises:
      StereoError: if there are fewer than two views, a bound is not 0 < nearest < farthest, or no two views overlap.
    """
    matrices, lenses = (np.asarray(a, np.float64) for a in (cameras.camera_from_world, cameras.intrinsics))
    bounds = np.asarray(bounds, np.float64)
    views = len(matrices)
    if views < 2:
        raise StereoError(f"stereo needs at least two views, got {views}: add a training view or start from points")
    if bounds.shape != (views, 2):
        raise StereoError(f"need nearest and farthest depth of each of the {views} views, got shape {bounds.shape}")
    wrong = ~((bounds[:, 0] > 0) & (bounds[:, 1] > bounds[:, 0]) & np.isfinite(bounds).all(1))
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        raise StereoError(f"the depth bounds of view {i} are {bounds[i].tolist()}; need 0 < nearest < farthest")
    inverse = np.stack([1 / (FARTHER * bounds[:, 1]), 1 / (NEARER * bounds[:, 0])], axis=1)
    most = min(options.sources, views - 1)
    sources, used = np.zeros((views, most), np.int32), np.zeros((views, most), bool)
    related, disparity, widest = np.zeros((views, views), bool), np.zeros(views), 0.0
    for i in range(views):
        candidates = []
        for j in range(views):
            if j == i:
                continue
            seen, moved, angle = _relation(matrices[i], lenses[i], matrices[j], lenses[j], cameras, inverse[i])
            related[i, j] = seen >= _LEAST_OVERLAP and moved >= _LEAST_DISPARITY
            if related[i, j]:
                axes = np.degrees(np.arccos(np.clip(matrices[i, 2, :3] @ matrices[j, 2, :3], -1, 1)))
                candidates.append((axes > options.largest_angle, angle, j, moved))
        candidates.sort()
        # Views that look elsewhere only if there is no other.
        kept = [c for c in candidates if not c[0]] or candidates[:1]
        for k, (_, angle, j, moved) in enumerate(kept[:most]):
            sources[i, k], used[i, k] = j, True
            disparity[i], widest = max(disparity[i], moved), max(widest, angle)
    if not used.any():
        raise StereoError(
            f"no two of the {views} views see the same part of the scene from different places within the depth "
            "bounds, so depth cannot be found from them: check poses and bounds, or choose other training views"
        )
    planes = options.planes or int(np.clip(2 * disparity.max() / shrink, 2 * _PLANE_STEP, options.most_planes))
    if options.planes is None:
        planes = -(-planes // _PLANE_STEP) * _PLANE_STEP
    half_pixel = 0.5 * (inverse[:, 1] - inverse[:, 0]) / np.maximum(disparity, _LEAST_DISPARITY)
    limits, half_pixel = inverse.astype(np.float32), half_pixel.astype(np.float32)
    return Plan(sources, used, related, limits, half_pixel, planes, widest > options.wide_angle)


def _relation(
    reference: np.ndarray,
    lens: np.ndarray,
    source: np.ndarray,
    source_lens: np.ndarray,
    size: Camera,
    inverse: np.ndarray,
) -> tuple[float, float, float]:
    """Share of the reference's rays and depths that the source sees, disparity range in pixels, angle in degrees.

    The angle is that at which the two views see a point, the median over the points that both see.
    """
    fx, fy, cx, cy = lens
    u, v = np.meshgrid((np.arange(_GRID) + 0.5) / _GRID * size.width, (np.arange(_GRID) + 0.5) / _GRID * size.height)
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], axis=-1).reshape(-1, 1, 3)
    w = np.linspace(inverse[0], inverse[1], _DEPTHS)
    points = rays / w[None, :, None]
    rotation = source[:3, :3] @ reference[:3, :3].T
    translation = source[:3, 3] - rotation @ reference[:3, 3]
    x, y, z = np.moveaxis(points @ rotation.T + translation, -1, 0)
    before = z > 0
    z = np.where(before, z, 1.0)
    fx, fy, cx, cy = source_lens
    x, y = fx * x / z + cx, fy * y / z + cy
    visible = before & (x >= 0) & (x <= size.width) & (y >= 0) & (y <= size.height)
    if not visible.any():
        return 0.0, 0.0, 0.0
    both = visible[:, 1:] & visible[:, :-1]
    moved = np.hypot(np.diff(x, axis=1), np.diff(y, axis=1))[both] * (_DEPTHS - 1)
    center = -rotation.T @ translation
    to_source = points[visible] - center
    cosine = np.sum(points[visible] * to_source, -1) / (
        np.linalg.norm(points[visible], axis=-1) * np.maximum(np.linalg.norm(to_source, axis=-1), 1e-12)
    )
    angle = float(np.median(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))
    return float(visible.mean()), float(np.percentile(moved, _PERCENTILE)) if len(moved) else 0.0, angle
