"""Where the Gaussians start: colored points for a scene, and a sentence that says where they come from.

Only training views may shape the result, by their photos, poses and depth bounds, except with the method
"sfm-all-views", which has to be asked for by name (METHOD section 2).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ipsm_jax.data import colmap, transforms
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.locate import detect_layout
from ipsm_jax.data.ply import read_points_ply
from ipsm_jax.data.random_points import box_points, default_count, frustum_points
from ipsm_jax.data.scene import PointCloud, Scene
from ipsm_jax.data.triangulate import MissingPycolmapError, Triangulation, triangulate_scene
from ipsm_jax.scene.projection import project_points

METHODS = ("auto", "triangulated", "random", "sfm-all-views")
ENOUGH = 100  # triangulated points; with fewer, "auto" starts from random ones
_STRANGE = 0.05  # a photo with less than this share of the points that another one has is warned about
_LEAST = 4  # a Gaussian's size comes from its three nearest neighbors
_BOX_LEAST = 10  # sparse points that a bounding box is drawn around


def initial_points(
    scene: Scene, method: str, *, seed: int, cache: bool = True, count: int | None = None
) -> tuple[PointCloud, str]:
    """Colored points to start from.

    Args:
      scene: the scene.
      method: "auto" (triangulated if pycolmap is there and finds at least 100 points, else random), "triangulated"
        (from the training views alone), "random", "sfm-all-views" (the capture's own reconstruction, which was made
        with the test views too), or the path of a .ply file in the scene's world coordinates.
      seed: for random points.
      cache: keep triangulated points for the next time.
      count: number of random points; by default one per 10 pixels of a photo, 5 000 to 100 000.

    Returns:
      At least 4 points and a sentence for the report.

    Raises:
      DataError: for an unknown method, a file that cannot be read, or a method that gives too few points.
    """
    if method.lower().endswith(".ply"):
        points = read_points_ply(Path(method).expanduser())
        return _enough(points, method), f"{len(points.positions)} points from the file {method}."
    match method:
        case "auto":
            return _auto(scene, seed, cache, count)
        case "triangulated":
            found = triangulate_scene(scene, cache=cache)
            points = _enough(found.points, "triangulation of the training views")
            return points, _triangulated_report(scene, found)
        case "random":
            return _random(scene, seed, count, "as asked for")
        case "sfm-all-views":
            return _own_points(scene)
    raise DataError(
        f"unknown starting points {method!r}; choose one of {', '.join(METHODS)} or the path of a .ply file"
    )


def _auto(scene: Scene, seed: int, cache: bool, count: int | None) -> tuple[PointCloud, str]:
    if len(scene.train) < 2:
        return _random(scene, seed, count, "because one training view cannot be triangulated")
    try:
        triangulation = triangulate_scene(scene, cache=cache)
    except MissingPycolmapError as error:
        return _random(scene, seed, count, f"because {error}")
    points = triangulation.points
    found = len(points.positions)
    if found >= ENOUGH:
        return points, _triangulated_report(scene, triangulation)
    reason = f"because triangulating the {len(scene.train)} training views gave only {found} points (needed: {ENOUGH})"
    if found < _BOX_LEAST:
        return _random(scene, seed, count, reason)
    count = default_count(scene) if count is None else count
    sentence = f"{count} random near-gray points in 1.3 times the bounding box of those triangulated, {reason}."
    return box_points(points.positions, count, seed), sentence


def _triangulated_report(scene: Scene, found: Triangulation) -> str:
    names = [scene.names[view] for view in scene.train]
    count = len(found.points.positions)
    report = f"{count} points triangulated from the training views alone ({', '.join(names)}) with their known poses."
    # A photo with a wrong pose or of another place has none or very few: matches have to fit the poses.
    lost = [name for name, seen in zip(names, found.seen, strict=True) if seen < _STRANGE * found.seen.max()]
    if lost:
        report += (
            f"\nWarning: {', '.join(lost)} shares next to none of these points with the other training views: its pose "
            "is wrong, or it shows another place, or too little of this one. Training uses it all the same: correct "
            "the pose, or take the photo out of the scene."
        )
    return report


def _random(scene: Scene, seed: int, count: int | None, reason: str) -> tuple[PointCloud, str]:
    count = default_count(scene) if count is None else count
    points, where = frustum_points(scene, count, seed)
    return points, f"{count} random points {where}, {reason}."


def _own_points(scene: Scene) -> tuple[PointCloud, str]:
    # A COLMAP model beside a transforms.json is in other world coordinates: nerfstudio turns them.
    source = transforms if detect_layout(scene.path) == "transforms" else colmap
    points = source.sparse_points(scene.path)
    if points is None:
        raise DataError(
            f"{scene.path} has no points of its own (points3D of a COLMAP model, or ply_file_path in transforms.json); "
            "use triangulated or random starting points"
        )
    depth_share = _share_in_front(scene, points.positions)
    if depth_share < 0.9:
        raise DataError(
            f"{scene.path}: only {depth_share:.0%} of the capture's own points lie in front of a camera and "
            "about inside its picture: they are not in the world coordinates of the poses. "
            "Use triangulated or random starting points"
        )
    sentence = (
        f"{len(points.positions)} points of the capture's own reconstruction: they were found with ALL views, "
        "test views included, so figures are not comparable with sparse-view results."
    )
    return _enough(points, f"the reconstruction in {scene.path}"), sentence


def _share_in_front(scene: Scene, positions: np.ndarray) -> float:
    """Share of the points that at least one view has inside its picture, with a margin of half the picture's size."""
    seen = np.zeros(len(positions), bool)
    for camera in scene.cameras:
        shares = project_points(camera, positions).pixels / (scene.width, scene.height)
        seen |= (np.abs(shares - 0.5) < 1).all(axis=-1)
    return float(seen.mean()) if len(seen) else 0.0


def _enough(points: PointCloud, source: str) -> PointCloud:
    if len(points.positions) < _LEAST:
        raise DataError(
            f"{source} gives {len(points.positions)} points, at least {_LEAST} are needed; use --init random instead"
        )
    return points
