"""A solution's world made convenient: structure from motion leaves its place, direction and unit of length open."""

from __future__ import annotations

import numpy as np

from ipsm_jax.scene.trajectories import upright_axes
from ipsm_jax.sfm.mapping import Solution

MEDIAN_DEPTH = 10.0
"""Of the points in the photos, in the units chosen: far behind the near plane at 0.2, before which nothing is drawn."""


def level(solution: Solution) -> Solution:
    """The solution in a world whose z axis is up for most photos, whose origin is in the middle of what they see, and
    whose unit makes the median depth of the observed points `MEDIAN_DEPTH`.
    """
    rotations = solution.camera_from_world[:, :3, :3]
    translations = solution.camera_from_world[:, :3, 3]
    depths = _depths(solution)
    scale = MEDIAN_DEPTH / float(np.median(depths[depths > 0]))
    new_from_old = upright_axes(rotations)
    middle = np.median(solution.points.positions, axis=0)
    matrices = np.tile(np.eye(4), (len(rotations), 1, 1))
    matrices[:, :3, :3] = rotations @ new_from_old.T
    matrices[:, :3, 3] = scale * (translations + rotations @ middle)
    points = solution.points._replace(positions=scale * (solution.points.positions - middle) @ new_from_old.T)
    return solution._replace(camera_from_world=matrices, points=points)


def _depths(solution: Solution) -> np.ndarray:
    """(T,) camera-space z of each observation."""
    points = solution.points
    matrices = solution.camera_from_world[points.views]
    return np.einsum("ti,ti->t", matrices[:, 2, :3], points.positions[points.points]) + matrices[:, 2, 3]
