"""Depth maps of several views as one colored point cloud."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from ipsm_jax.data.scene import PointCloud
from ipsm_jax.scene.camera import Camera
from ipsm_jax.stereo.depths import StereoDepths

VOXEL = 2.0  # side of a voxel in pixel footprints


def fuse_points(
    cameras: Camera,
    images: UInt8[np.ndarray, "v h w 3"],
    depths: StereoDepths,
    *,
    voxel: float = VOXEL,
) -> PointCloud:
    """One point per voxel that confident pixels fall into: their mean position and mean color.

    A voxel's side is a power of two of world units, about `voxel` pixel footprints z / f, so that near things get finer
    points than far ones and the number of points suits the image size.
    """
    matrices, lenses = np.asarray(cameras.camera_from_world, np.float64), np.asarray(cameras.intrinsics, np.float64)
    positions, colors, levels = [], [], []
    for matrix, (fx, fy, cx, cy), image, depth, mask in zip(
        matrices, lenses, np.asarray(images), depths.depth, depths.confident, strict=True
    ):
        row, column = np.nonzero(mask & (depth > 0))
        z = depth[row, column].astype(np.float64)
        local = np.stack([(column + 0.5 - cx) / fx * z, (row + 0.5 - cy) / fy * z, z], axis=-1)
        positions.append((local - matrix[:3, 3]) @ matrix[:3, :3])
        colors.append(image[row, column].astype(np.float64) / 255)
        levels.append(np.round(np.log2(voxel * z / np.sqrt(fx * fy))))
    position, color, level = (np.concatenate(parts) for parts in (positions, colors, levels))
    if not len(position):
        return PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    keys = np.column_stack([level, np.floor(position / np.exp2(level)[:, None])]).astype(np.int64)
    order = np.lexsort(keys.T)
    first = np.flatnonzero(np.r_[True, np.any(np.diff(keys[order], axis=0) != 0, axis=1)])
    count = np.diff(np.r_[first, len(order)])[:, None]
    mean = [np.add.reduceat(values[order], first, axis=0) / count for values in (position, color)]
    return PointCloud(mean[0].astype(np.float32), mean[1].astype(np.float32))
