"""Pinhole cameras as a pytree.

OpenCV axes: x right, y down, z forward. A point with camera coordinates (x, y, z) lands on the image at
(fx x/z + cx, fy y/z + cy) in pixels, where pixel (u, v) covers [u, u+1) x [v, v+1) and has its center at +0.5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["camera_from_world", "intrinsics"],
    meta_fields=["width", "height"],
)
@dataclasses.dataclass(frozen=True)
class Camera:
    """One pinhole camera, or a batch of equal size: the arrays may carry leading batch axes.

    Attributes:
      camera_from_world: (..., 4, 4) float32 rigid transform, last row 0 0 0 1.
      intrinsics: (..., 4) float32 (fx, fy, cx, cy) in pixels.
      width: image width in pixels (static).
      height: image height in pixels (static).
    """

    camera_from_world: Any
    intrinsics: Any
    width: int
    height: int

    def __getitem__(self, index: Any) -> Camera:
        """Index the leading batch axes: ``cameras[3]`` or ``cameras[jnp.array([0, 2])]``.

        Raises:
          TypeError: if this is a single camera.
        """
        self._require_batch()
        return dataclasses.replace(
            self, camera_from_world=self.camera_from_world[index], intrinsics=self.intrinsics[index]
        )

    def __iter__(self) -> Iterator[Camera]:
        """The cameras along the first batch axis; TypeError if this is a single camera."""
        # Written out because Python would otherwise index until IndexError, which jax arrays never raise.
        self._require_batch()
        return (self[i] for i in range(self.camera_from_world.shape[0]))

    def _require_batch(self) -> None:
        if self.camera_from_world.ndim < 3:
            raise TypeError("this is a single camera, without a batch axis to index or iterate over")

    @property
    def world_from_camera(self) -> jax.Array:
        """(..., 4, 4) camera-to-world transform."""
        return invert_rigid(self.camera_from_world)

    @property
    def center(self) -> jax.Array:
        """(..., 3) camera center in world coordinates."""
        return self.world_from_camera[..., :3, 3]


def invert_rigid(transform: Any) -> jax.Array:
    """Inverse of (..., 4, 4) rigid transforms, by transposing the rotation."""
    transform = jnp.asarray(transform)
    rotation_t = jnp.swapaxes(transform[..., :3, :3], -1, -2)
    translation = -jnp.einsum("...ij,...j->...i", rotation_t, transform[..., :3, 3], precision="highest")
    top = jnp.concatenate([rotation_t, translation[..., None]], axis=-1)
    return jnp.concatenate([top, transform[..., 3:, :]], axis=-2)


def camera_from_matrices(camera_from_world: Any, matrix: Any, width: int, height: int) -> Camera:
    """A camera from the usual pair of matrices (gsplat's `viewmats` and `Ks`, OpenCV's [R t] and K), on the host.

    Args:
      camera_from_world: (..., 4, 4) rigid transform, OpenCV axes.
      matrix: (..., 3, 3) of rows (fx, 0, cx), (0, fy, cy), (0, 0, 1), in pixels whose center is at +0.5.
      width, height: image size in pixels.

    Raises:
      ValueError: other shapes, different batch axes, or a matrix with skew or another last row.
    """
    pose, k = np.asarray(camera_from_world, np.float32), np.asarray(matrix, np.float32)
    if pose.shape[-2:] != (4, 4) or k.shape[-2:] != (3, 3) or pose.shape[:-2] != k.shape[:-2]:
        raise ValueError(f"need matrices (..., 4, 4) and (..., 3, 3), got {pose.shape} and {k.shape}")
    if np.any(k[..., [0, 1, 2, 2], [1, 0, 0, 1]] != 0) or np.any(k[..., 2, 2] != 1):
        raise ValueError("the camera matrix must be (fx, 0, cx), (0, fy, cy), (0, 0, 1): no skew, not transposed")
    intrinsics = np.stack([k[..., 0, 0], k[..., 1, 1], k[..., 0, 2], k[..., 1, 2]], axis=-1)
    return Camera(jnp.asarray(pose), jnp.asarray(intrinsics), width, height)


def look_at(position: Any, target: Any, up: Any = (0.0, -1.0, 0.0)) -> np.ndarray:
    """(4, 4) float32 ``camera_from_world`` of a camera at `position` that looks at `target`.

    Args:
      position, target: (3,) world coordinates, not equal.
      up: (3,) world direction that points up in the image (-y of the camera); not parallel to the view direction.

    Raises:
      ValueError: if position equals target or up is parallel to the view direction.
    """
    position, target, up = (np.asarray(v, np.float64) for v in (position, target, up))
    forward = target - position
    if not np.linalg.norm(forward) > 0:
        raise ValueError(f"camera position and target are the same point {position.tolist()}")
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    if not np.linalg.norm(right) > 1e-9 * np.linalg.norm(up):
        raise ValueError(f"up vector {up.tolist()} is parallel to the view direction {forward.tolist()}")
    right = right / np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = -rotation @ position
    return matrix.astype(np.float32)
