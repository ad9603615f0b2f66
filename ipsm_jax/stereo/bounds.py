"""Nearest and farthest depth of the training views, for scenes that do not come with them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ipsm_jax.data.scene import Scene
from ipsm_jax.data.triangulate import triangulated_points
from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.projection import project_points
from ipsm_jax.stereo.options import StereoError

_PERCENTILES = (1.0, 99.0)  # of the depths of the points in a view; the outermost ones are mostly wrong matches
_LEAST = 10  # points that a view's own bounds are made from
_DOUBT = 10.0
"""Bounds of n points are widened by w = 1 + 10 / sqrt(n): nearest depth / w, farthest depth x w^2, since what is far is
seen least. Few points miss what has no texture, and that is often what stands in front: of the 60 views of 20 triples
of fern, fountain and fox, 229 to 962 points each, the plain percentiles cut off the nearest depth in 16 and the
farthest in 27; widened ones in 0 and 7."""


def scene_bounds(scene: Scene, *, cache: bool = True) -> Float[np.ndarray, "v 2"]:
    """Nearest and farthest depth of each training view: the scene's, else from points triangulated from these views.

    Raises:
      StereoError: if the scene has none and too few points can be triangulated.
      MissingPycolmapError: if the scene has none and pycolmap is not installed.
    """
    if scene.train_bounds is not None:
        return scene.train_bounds
    points = triangulated_points(scene, cache=cache).positions
    try:
        return point_bounds(scene.train_cameras, points)
    except StereoError as error:
        raise StereoError(
            f"the scene {scene.name} has no depth bounds, and those of its triangulated points are not known: {error}"
        ) from error


def point_bounds(cameras: Camera, points: Float[np.ndarray, "p 3"]) -> Float[np.ndarray, "v 2"]:
    """(V, 2) float32 bounds from the 1st and 99th percentile of the depths of the points inside each picture.

    They are wider the fewer these points are (`_DOUBT`). A view with fewer than 10 points gets the widest bounds of all
    others.

    Raises:
      StereoError: if no view has as many.
    """
    bounds = np.full((len(cameras.camera_from_world), 2), np.nan)
    counts = []
    for i, camera in enumerate(cameras):
        _, depth, inside = project_points(camera, points)
        counts.append(int(inside.sum()))
        if counts[-1] >= _LEAST:
            near, far = np.percentile(depth[inside], _PERCENTILES)
            wider = 1 + _DOUBT / np.sqrt(counts[-1])
            bounds[i] = near / wider, max(far, near * (1 + 1e-3)) * wider**2
    known = np.isfinite(bounds[:, 0])
    if not known.any():
        raise StereoError(
            f"the views see {counts} of {len(points)} points, and at least {_LEAST} in one view are needed; "
            "add poses_bounds.npy or a COLMAP model with points, or start from random points"
        )
    bounds[~known] = bounds[known, 0].min(), bounds[known, 1].max()
    return bounds.astype(np.float32)
