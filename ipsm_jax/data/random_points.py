"""Random colored points where the training views look.

Inside the frustum of a view: pixel uniform, inverse depth uniform between the nearest and the farthest depth, because
that spreads points evenly over what parallax can tell apart. Each point has the color of its pixel, so the first
renders of the training views are roughly right. Around known sparse points instead: uniform in 1.3 times their
bounding box, near-gray (METHOD section 2).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.scene import PointCloud, Scene

PIXELS_PER_POINT = 10
COUNTS = (5_000, 100_000)
BOX_SCALE = 1.3
GRAY_SPREAD = 0.1  # near-gray colors are 0.5 +- this
# Depth bounds where the source has none, as multiples of the distance d that the cameras themselves suggest.
_NEAR, _FAR = 0.4, 4.0
_LEAST_ANGLE = np.radians(5)  # between two optical axes, so that the point they turn around is well defined
_BASELINES = 4.0  # d in baselines for cameras that look in parallel


def default_count(scene: Scene) -> int:
    """One point per 10 pixels of a photo, between 5 000 and 100 000."""
    return int(np.clip(scene.width * scene.height // PIXELS_PER_POINT, *COUNTS))


def frustum_points(scene: Scene, count: int, seed: int) -> tuple[PointCloud, str]:
    """`count` points in the frusta of the training views, in equal parts, and words that say where.

    Raises:
      DataError: for count < 4.
    """
    if count < 4:
        raise DataError(f"at least 4 random points are needed, got {count}")
    rng = np.random.default_rng(seed)
    bounds, words = depth_bounds(scene)
    views = np.asarray(scene.train)[np.arange(count) % len(scene.train)]
    rows = bounds[np.arange(count) % len(scene.train)]
    u, v = rng.uniform(0, scene.width, count), rng.uniform(0, scene.height, count)
    inverse = rng.uniform(1 / rows[:, 1], 1 / rows[:, 0])
    fx, fy, cx, cy = np.asarray(scene.cameras.intrinsics, np.float64)[views].T
    local = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(count)], axis=-1) / inverse[:, None]
    matrices = np.asarray(scene.cameras.camera_from_world, np.float64)[views]
    world = np.einsum("nji,nj->ni", matrices[:, :3, :3], local - matrices[:, :3, 3])
    pixels = scene.images[views, v.astype(int), u.astype(int)]
    points = PointCloud(world.astype(np.float32), pixels.astype(np.float32) / 255)
    return points, f"in the frusta of the {len(scene.train)} training views, {words}, with the colors of their photos"


def box_points(sparse: Float[np.ndarray, "p 3"], count: int, seed: int) -> PointCloud:
    """`count` near-gray points, uniform in 1.3 times the bounding box of sparse points (without the outermost 1%)."""
    rng = np.random.default_rng(seed)
    low, high = np.percentile(np.asarray(sparse, np.float64), (1, 99), axis=0)
    center, half = (low + high) / 2, BOX_SCALE * (high - low) / 2
    # Points that happen to lie in a plane still need a box with some thickness.
    half = np.maximum(half, 0.01 * half.max())
    positions = rng.uniform(center - half, center + half, (count, 3))
    colors = rng.uniform(0.5 - GRAY_SPREAD, 0.5 + GRAY_SPREAD, (count, 3))
    return PointCloud(positions.astype(np.float32), colors.astype(np.float32))


def depth_bounds(scene: Scene) -> tuple[Float[np.ndarray, "n 2"], str]:
    """(n, 2) nearest and farthest depth of the n training views, and words that say where they come from."""
    train = list(scene.train)
    if scene.bounds is not None:
        return np.asarray(scene.bounds, np.float64)[train], "between their depth bounds"
    distance = _viewing_distance(scene)
    bounds = np.repeat([[_NEAR * distance, _FAR * distance]], len(train), axis=0)
    return bounds, f"between the depths {bounds[0, 0]:.3g} and {bounds[0, 1]:.3g} (a guess from where the cameras are)"


def _viewing_distance(scene: Scene) -> float:
    """Typical distance of what the training cameras look at, from their poses alone.

    Cameras that turn around something: the mean distance of the point nearest to all optical axes. Cameras that look in
    parallel: four times their largest distance from each other. One camera: 1, as there is no scale.
    """
    train = list(scene.train)
    centers = scene.centers[train]
    axes = np.asarray(scene.cameras.camera_from_world, np.float64)[train, 2, :3]
    baseline = np.linalg.norm(centers[:, None] - centers[None], axis=-1).max()
    if not baseline > 0:
        return 1.0
    widest = np.arccos(np.clip((axes @ axes.T).min(), -1, 1))
    if widest > _LEAST_ANGLE:
        across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
        point = np.linalg.lstsq(across.sum(0), np.einsum("nij,nj->i", across, centers), rcond=None)[0]
        depths = np.einsum("ni,ni->n", axes, point - centers)
        if (depths > 0.1 * baseline).all():
            return float(depths.mean())
    return float(_BASELINES * baseline)
