"""How differently bright the photos are, from surface points that two views see at the same place.

The stereo itself does not mind: ZNCC ignores brightness and contrast. Training does not model exposure, so what is
found here is for the person to know.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.projection import project_points
from ipsm_jax.stereo.depths import StereoDepths

_STEP = 3  # every third pixel of every third row stands for all
_SAME = 0.01  # relative difference of depths that are one point
_LEAST = 50  # points that a pair of views is compared by
_RANGE = (12, 243)  # gray levels; beyond, photos are clipped
_LUMA = (0.299, 0.587, 0.114)


def relative_brightness(
    cameras: Camera, images: UInt8[np.ndarray, "v h w 3"], depths: StereoDepths
) -> Float[np.ndarray, " v"]:
    """(V,) how bright each view shows surfaces, as a multiple of the geometric mean of the views; 1 where not known.

    In pixel values as they are stored, not in light. A pair of views is compared by the median of the ratios at the
    points that both know; the views' factors are the least-squares solution of all pairs, in logarithms.
    """
    matrices, lenses = (np.asarray(a, np.float64) for a in (cameras.camera_from_world, cameras.intrinsics))
    gray = images.astype(np.float64) @ _LUMA
    views = len(images)
    rows, values = [], []
    for i in range(views):
        row, column = np.nonzero(depths.confident[i, ::_STEP, ::_STEP])
        row, column = row * _STEP, column * _STEP
        fx, fy, cx, cy = lenses[i]
        z = depths.depth[i, row, column].astype(np.float64)
        local = np.stack([(column + 0.5 - cx) / fx * z, (row + 0.5 - cy) / fy * z, z], axis=-1)
        world = (local - matrices[i, :3, 3]) @ matrices[i, :3, :3]
        for j in range(views):
            if i == j:
                continue
            found = project_points(cameras[j], world)
            inside, (v, u) = found.inside, found.cells
            same = depths.confident[j, v, u] & (np.abs(depths.depth[j, v, u] / found.depth[inside] - 1) < _SAME)
            here, there = gray[i, row[inside], column[inside]][same], gray[j, v, u][same]
            fair = (np.minimum(here, there) > _RANGE[0]) & (np.maximum(here, there) < _RANGE[1])
            if fair.sum() >= _LEAST:
                rows.append(np.eye(views)[j] - np.eye(views)[i])
                values.append(np.median(np.log(there[fair] / here[fair])))
    if not rows:
        return np.ones(views)
    # The solution of smallest norm: views that no pair connects keep 1.
    return np.exp(np.linalg.lstsq(np.stack(rows), np.asarray(values), rcond=None)[0])
