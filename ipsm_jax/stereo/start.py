"""Where training starts: depth maps of a scene's training views, and points fused from them.

Only the training views are looked at. What is computed is kept in the cache, under a name made from photos, cameras,
bounds and settings.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ipsm_jax.data.cache import cache_root, digest, read_arrays
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.scene import PointCloud, Scene
from ipsm_jax.data.triangulate import MissingPycolmapError, triangulated_points
from ipsm_jax.reporting.files import atomic_write
from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.projection import project_points
from ipsm_jax.stereo.bounds import scene_bounds
from ipsm_jax.stereo.depths import Report, StereoDepths
from ipsm_jax.stereo.exposure import relative_brightness
from ipsm_jax.stereo.fusion import VOXEL, fuse_points
from ipsm_jax.stereo.options import StereoError, StereoOptions
from ipsm_jax.stereo.strangers import stereo_depths

PIXELS_PER_POINT = 20
"""Training pixels for each starting point: half as many points as there may be Gaussians."""
LEAST = 1000
"""Fused points; with fewer there is no dense start to speak of."""
_BRIGHTER = 1.25
"""Ratio of brightness between two training views from which on there is a warning."""
_CACHE_VERSION = 2
_GROWTH = 1.15  # of voxels, until the points are few enough
_MOST_GROWTH = 40  # times, to 268 times the size; points on either side of the origin never share a voxel


def scene_depths(
    scene: Scene, options: StereoOptions | None = None, progress: Report | None = None, *, cache: bool = True
) -> StereoDepths:
    """Depth maps of the training views of a scene, in their order.

    Raises:
      StereoError: there are fewer than two training views, they do not overlap, or their depth bounds are not known.
      MissingPycolmapError: the scene has no depth bounds, and pycolmap, which could find them, is not installed.
    """
    if len(scene.train) < 2:
        raise StereoError(f"dense stereo needs two training views, the scene {scene.name} has {len(scene.train)}")
    options = StereoOptions() if options is None else options
    cameras, images = scene.train_cameras, scene.train_images
    bounds = np.asarray(scene_bounds(scene, cache=cache), np.float32)
    arrays = (images, np.asarray(cameras.camera_from_world), np.asarray(cameras.intrinsics), bounds)
    parts = [part for array in arrays for part in (array.tobytes(), repr(array.shape))]
    file = cache_root() / "stereo" / f"{digest([*parts, repr(dataclasses.asdict(options)), _CACHE_VERSION])}.npz"
    if cache and (stored := read_arrays(file, ("depth", "confident", "strangers"))) is not None:
        return StereoDepths(stored[0], stored[1], tuple(int(view) for view in stored[2]))
    depths = stereo_depths(cameras, images, bounds, options, progress)
    if cache:
        with atomic_write(file) as temporary:
            left_out = np.asarray(depths.strangers, np.int64)
            np.savez_compressed(temporary, depth=depths.depth, confident=depths.confident, strangers=left_out)
    return depths


def depth_warnings(scene: Scene, depths: StereoDepths) -> tuple[str, ...]:
    """Sentences on training views that do not belong, and on photos of different brightness; none if all is well.

    Args:
      scene: the scene.
      depths: of `scene_depths`.
    """
    names, sentences = [scene.names[view] for view in scene.train], []
    if depths.strangers:
        which = ", ".join(names[view] for view in depths.strangers)
        sentences.append(
            f"Warning: {which} agrees with the other training views hardly more than by chance: its pose is wrong, or "
            "it shows another place, or too little of this one. Dense stereo goes without it, training does not: "
            "correct the pose, or take the photo out of the scene."
        )
    brightness = relative_brightness(scene.train_cameras, scene.train_images, depths)
    if (ratio := brightness.max() / brightness.min()) > _BRIGHTER:
        sentences.append(
            f"Warning: {names[brightness.argmax()]} shows the same surfaces {ratio:.2f} times as bright as "
            f"{names[brightness.argmin()]}. Training takes no account of exposure, so views in between get patches of "
            "both: even out the photos' brightness first, or choose other training views."
        )
    return tuple(sentences)


def stereo_points(
    scene: Scene, progress: Report | None = None, *, most: int | None = None, cache: bool = True
) -> tuple[PointCloud, str]:
    """Points fused from the depth maps, with triangulated ones where these say nothing, and a sentence about them.

    Args:
      scene: its training views are used.
      progress: of `stereo_depths`.
      most: how many points there may be; of fused ones never more than one per 20 training pixels.
      cache: keep depth maps and triangulated points for the next time.

    Raises:
      StereoError: as `scene_depths`, or fewer than 1000 points come out.
      MissingPycolmapError: as `scene_depths`.
    """
    depths = scene_depths(scene, progress=progress, cache=cache)
    cameras, images = scene.train_cameras, scene.train_images
    usual = images[..., 0].size // PIXELS_PER_POINT
    limit = usual if most is None else min(most, usual)
    voxel, points = VOXEL, fuse_points(cameras, images, depths)
    found = len(points.positions)
    if found < LEAST:
        raise StereoError(
            f"dense stereo of the {len(images)} training views of {scene.name} gave only {found} points that two of "
            f"them agree on (needed: {LEAST}): too little texture or overlap"
        )
    for _ in range(_MOST_GROWTH):
        if len(points.positions) <= limit:
            break
        voxel *= _GROWTH
        points = fuse_points(cameras, images, depths, voxel=voxel)
    points = _at_most(points, limit)
    names = ", ".join(scene.names[view] for view in scene.train)
    warnings = "".join(f"\n{sentence}" for sentence in depth_warnings(scene, depths))
    report = (
        f"{len(points.positions)} points from dense stereo of the training views alone ({names}), which knows "
        f"the depth of {depths.confident.mean():.0%} of their pixels"
    )
    try:
        sparse = triangulated_points(scene, cache=cache)
    except (MissingPycolmapError, DataError) as error:
        return points, f"{report}; no triangulated points elsewhere: {error}.{warnings}"
    elsewhere = ~seen_by_stereo(cameras, depths, sparse.positions)
    joined = (np.concatenate([a, b[elsewhere]]).astype(np.float32) for a, b in zip(points, sparse, strict=True))
    cloud = PointCloud(*joined)
    return (
        cloud if most is None else _at_most(cloud, most),
        f"{report}, and {int(elsewhere.sum())} triangulated ones elsewhere.{warnings}",
    )


def _at_most(points: PointCloud, count: int) -> PointCloud:
    """The points, or so many of them, drawn in the same way each time."""
    if len(points.positions) <= count:
        return points
    kept = np.sort(np.random.default_rng(0).permutation(len(points.positions))[:count])
    return PointCloud(points.positions[kept], points.colors[kept])


def seen_by_stereo(cameras: Camera, depths: StereoDepths, positions: np.ndarray) -> np.ndarray:
    """(p,) whether a point falls on a pixel of known depth in any view."""
    seen = np.zeros(len(positions), bool)
    for camera, confident in zip(cameras, depths.confident, strict=True):
        found = project_points(camera, positions)
        seen[found.inside] |= confident[found.cells]
    return seen
