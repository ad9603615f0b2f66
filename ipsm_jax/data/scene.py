"""The one type that every loader ends in."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ipsm_jax.scene.camera import Camera


class PointCloud(NamedTuple):
    """Colored points: positions (P, 3) float32 in world units, colors (P, 3) float32 RGB in [0, 1]."""

    positions: np.ndarray
    colors: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scene:
    """Posed photos of one place, undistorted, all of one size.

    Attributes:
      name: short name, for reports.
      path: folder it was read from.
      cameras: batch of V cameras; numpy float32 arrays inside.
      images: (V, H, W, 3) uint8.
      names: V image file names, sorted; the order of everything else.
      train, test: indices of the training and the test views (METHOD section 1).
      bounds: (V, 2) nearest and farthest depth per view in world units, or None where the source has none.
      depths: (V, H, W) float32 exact camera-space z (0 = unknown), or None; never used in training unless asked for.
      masks: (V, H, W) bool, True = object, used in evaluation (DTU), or None.
      notes: sentences for the person: what was skipped, undistorted, assumed.
    """

    name: str
    path: Path
    cameras: Camera
    images: np.ndarray
    names: tuple[str, ...]
    train: tuple[int, ...]
    test: tuple[int, ...]
    bounds: np.ndarray | None = None
    depths: np.ndarray | None = None
    masks: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Width of all images in pixels."""
        return self.cameras.width

    @property
    def height(self) -> int:
        """Height of all images in pixels."""
        return self.cameras.height

    @property
    def train_cameras(self) -> Camera:
        """Batch of the cameras of the training views; numpy float32 arrays inside."""
        return self.cameras[list(self.train)]

    @property
    def train_images(self) -> np.ndarray:
        """(T, H, W, 3) uint8 photos of the training views."""
        return self.images[list(self.train)]

    @property
    def train_bounds(self) -> np.ndarray | None:
        """(T, 2) depth bounds of the training views, or None."""
        return None if self.bounds is None else self.bounds[list(self.train)]

    @property
    def centers(self) -> np.ndarray:
        """(V, 3) float64 camera centers in world coordinates."""
        matrices = np.asarray(self.cameras.camera_from_world, np.float64)
        return -np.einsum("vji,vj->vi", matrices[:, :3, :3], matrices[:, :3, 3])

    @property
    def extent(self) -> float:
        """1.1 x the largest distance of a training camera from the mean training camera center (METHOD section 2)."""
        centers = self.centers[list(self.train)]
        return float(1.1 * np.linalg.norm(centers - centers.mean(0), axis=1).max())
