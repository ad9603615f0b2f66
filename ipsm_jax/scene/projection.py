"""Where points fall in a camera's picture, in numpy and float64: for preparing and checking, nothing differentiable."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ipsm_jax.scene.camera import Camera


class Projection(NamedTuple):
    """P points in one picture.

    Attributes:
      pixels: (P, 2) column and row, the corner of the picture at (0, 0); NaN where depth is not positive.
      depth: (P,) camera z in world units.
      inside: (P,) before the camera and inside the picture.
    """

    pixels: Float[np.ndarray, "p 2"]
    depth: Float[np.ndarray, " p"]
    inside: Bool[np.ndarray, " p"]

    @property
    def cells(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Row and column of the pixel that each of the n points inside falls on."""
        column, row = np.floor(self.pixels[self.inside]).astype(int).T
        return row, column


def project_points(camera: Camera, positions: Float[np.ndarray, "p 3"]) -> Projection:
    """Project world positions through a single camera."""
    matrix = np.asarray(camera.camera_from_world, np.float64)
    fx, fy, cx, cy = np.asarray(camera.intrinsics, np.float64)
    x, y, depth = (np.asarray(positions, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]).T
    safe = np.where(depth > 0, depth, np.nan)
    u, v = fx * x / safe + cx, fy * y / safe + cy
    inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    return Projection(np.stack([u, v], axis=-1), depth, inside)
