"""Photos of textured planes with depths in closed form, by tracing rays in float64."""

import dataclasses

import numpy as np

from ipsm_jax.scene.camera import Camera, look_at

FOCAL, WIDTH, HEIGHT = 90.0, 96, 72
# Two views with lenses of their own, the second rolled by nearly 90 degrees.
MATRICES = np.stack([look_at((0, 0, 0), (0.2, 0.1, 5)), look_at((1, -0.4, 0.5), (0, 0.3, 4), up=(1.0, 0.2, 0))])
LENSES = [(80.0, 95.0, 40.0, 31.0), (70.0, 66.0, 55.0, 20.0)]


@dataclasses.dataclass(frozen=True)
class Plane:
    """Points X of the world with normal . X = offset; `bare` (center, radius) is without texture."""

    normal: tuple = (0.0, 0.0, 1.0)
    offset: float = 4.0
    bare: tuple | None = None


def camera_batch(matrices, lenses=None, width=WIDTH, height=HEIGHT):
    """Cameras with (fx, fy, cx, cy) the same for all, or one for each."""
    lenses = (FOCAL, FOCAL, width / 2, height / 2) if lenses is None else lenses
    lenses = np.broadcast_to(np.asarray(lenses, np.float32), (len(matrices), 4)).copy()
    return Camera(np.asarray(matrices, np.float32), lenses, width, height)


def in_a_row(count=3, baseline=0.35, target=(0.0, 0.0, 40.0)):
    """(V, 4, 4) poses on a line along x that look at nearly the same far point, not quite at one height."""
    return np.stack(
        [look_at((baseline * (i - (count - 1) / 2), 0.1 * (i % 2), 0.02 * i), target) for i in range(count)]
    )


def texture(points, bare):
    """(..., 3) colors in [0, 1] of (..., 3) points: waves of several lengths and directions, gray where bare."""
    rng = np.random.default_rng(3)
    color = np.full(points.shape, 0.5)
    for length in np.geomspace(0.18, 1.5, 12):
        for channel in range(3):
            way = rng.normal(size=3)
            phase = points @ (way / np.linalg.norm(way)) * 2 * np.pi / length
            color[..., channel] += 0.06 * np.sin(phase + rng.uniform(0, 6))
    if bare is not None:
        color[np.linalg.norm(points - np.asarray(bare[0]), axis=-1) < bare[1]] = 0.5
    return color


def render(cameras, plane):
    """(V, H, W, 3) uint8 photos and (V, H, W) exact depths."""
    images, depths = [], []
    v, u = np.mgrid[: cameras.height, : cameras.width] + 0.5
    for matrix, (fx, fy, cx, cy) in zip(
        np.asarray(cameras.camera_from_world, np.float64), np.asarray(cameras.intrinsics, np.float64), strict=True
    ):
        directions = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], axis=-1) @ matrix[:3, :3]
        center = -matrix[:3, :3].T @ matrix[:3, 3]
        normal = np.asarray(plane.normal, np.float64)
        depth = (plane.offset - normal @ center) / (directions @ normal)
        images.append(texture(center + directions * depth[..., None], plane.bare))
        depths.append(depth)
    return np.round(np.clip(np.stack(images), 0, 1) * 255).astype(np.uint8), np.stack(depths)


def reprojected(cameras, u, v, depth):
    """Columns, rows and depths in camera 1 of pixels of camera 0."""
    first, second = np.asarray(cameras.camera_from_world, np.float64)
    (fx, fy, cx, cy), (gx, gy, dx, dy) = np.asarray(cameras.intrinsics, np.float64)
    local = np.stack([(u - cx) / fx * depth, (v - cy) / fy * depth, depth], axis=-1)
    world = (local - first[:3, 3]) @ first[:3, :3]
    x, y, z = np.moveaxis(world @ second[:3, :3].T + second[:3, 3], -1, 0)
    return gx * x / z + dx, gy * y / z + dy, z
