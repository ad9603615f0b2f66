"""Cameras and points from verified matches: pycolmap's incremental mapper, and what it found in our own terms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ipsm_jax.data.colmap_write import SparsePoints
from ipsm_jax.data.lenses import Lens, from_colmap
from ipsm_jax.sfm.matches import FEW, LEAST_MATCHES, SEED
from ipsm_jax.sfm.photos import LEAST, Photo, work_file
from ipsm_jax.sfm.progress import Report

_UPRIGHT_FROM_TURNED = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # see `photos.Photo`


class Solution(NamedTuple):
    """R placed photos and the points they see, in world units of its own.

    Attributes:
      photos: (R,) indices of the placed photos, rising.
      camera_from_world: (R, 4, 4) float64, OpenCV axes.
      intrinsics: (R, 4) fx, fy, cx, cy in pixels of the full-size photos, corner of the photo at (0, 0).
      lenses: distortion of each.
      points: with errors in pixels of the small copies; its views are 0 to R - 1, its pixels those of the full-size
        photos.
    """

    photos: tuple[int, ...]
    camera_from_world: np.ndarray
    intrinsics: np.ndarray
    lenses: tuple[Lens, ...]
    points: SparsePoints

    @property
    def reprojection_error(self) -> float:
        """Mean over observations, in pixels of the small copies."""
        return float(self.points.errors[self.points.points].mean())


class Mapping(NamedTuple):
    """The largest solution (None if there is none) and the photos of each smaller, separate one."""

    solution: Solution | None
    separate: tuple[tuple[int, ...], ...]


def mapper_options(pycolmap: ModuleType, *, relaxed: bool) -> Any:
    """How careful the mapper is.

    Args:
      pycolmap: the module.
      relaxed: for few photos. COLMAP's thresholds are made for hundreds of photos, of which it may drop the difficult
        ones; of three photos none can be spared.
    """
    options = pycolmap.IncrementalPipelineOptions(num_threads=1, random_seed=SEED)  # threads change sums and so results
    options.mapper.num_threads, options.mapper.random_seed = 1, SEED
    options.triangulation.random_seed = SEED
    options.min_num_matches = LEAST_MATCHES
    options.min_model_size = LEAST  # 10 by default, fewer than people take
    if relaxed:
        # The first pair: 100 matches and 16 degrees between its rays by default. Few photos share fewer matches, and
        # those that face one way are closer together; 3 degrees still give depths to a few percent, and bundle
        # adjustment with the other photos improves on them. (COLMAP would halve both by itself only down to 4.)
        options.mapper.init_min_num_inliers = 30
        options.mapper.init_min_tri_angle = 3.0
        # Further photos: 30 known points by default. Half as many still determine six numbers several times over.
        options.mapper.abs_pose_min_num_inliers = 15
        # Points seen in no more than two photos are dropped by default, and are most of what three photos give.
        options.triangulation.ignore_two_view_tracks = False
        # Local adjustment leaves out photos whose rays meet at less than 6 degrees: here they are the only ones.
        options.mapper.ba_local_min_tri_angle = 1.5
        # Refined after each photo, not when the model has grown by a tenth: three photos cost nothing.
        options.ba_global_frames_freq = 1
    return options


def place_cameras(
    pycolmap: ModuleType, database: Path, work: Path, photos: Sequence[Photo], wanted: Sequence[int], report: Report
) -> Mapping:
    """Poses, intrinsics and points of as many of the `wanted` photos (indices) as fit together.

    Many photos are tried with COLMAP's own thresholds first, and where these place less than half of them, with relaxed
    ones too; few ones with relaxed ones at once.
    """
    models: list[Any] = []
    for relaxed in (True,) if len(wanted) <= FEW else (False, True):
        options = mapper_options(pycolmap, relaxed=relaxed)
        options.image_names = [work_file(work, i).name for i in wanted]
        models += _map(pycolmap, database, work, options, len(wanted), report)
        if 2 * max((model.num_reg_images() for model in models), default=0) >= len(wanted):
            break
    if not models:
        return Mapping(None, ())
    # The most photos; of equally many, the most points; then the first.
    models.sort(key=lambda model: (-model.num_reg_images(), -model.num_points3D()))
    members = [tuple(sorted(number - 1 for number in model.reg_image_ids())) for model in models]
    return Mapping(_solution(models[0], photos), tuple(group for group in members[1:] if set(group) - set(members[0])))


def _map(pycolmap: ModuleType, database: Path, work: Path, options: Any, count: int, report: Report) -> list[Any]:
    output = work / "models"
    output.mkdir(exist_ok=True)
    placed = 0

    def first_pair() -> None:
        nonlocal placed
        placed = 2
        report("placing cameras", placed, count)

    def next_photo() -> None:
        nonlocal placed
        placed = min(placed + 1, count)
        report("placing cameras", placed, count)

    report("placing cameras", 0, count)
    models = pycolmap.incremental_mapping(
        database,
        work,
        output,
        options=options,
        initial_image_pair_callback=first_pair,
        next_image_callback=next_photo,
    )
    return [model for model in models.values() if model.num_reg_images() >= LEAST and model.num_points3D() > 0]


def _solution(model: Any, photos: Sequence[Photo]) -> Solution:
    ids = sorted(model.reg_image_ids())
    numbers = sorted(model.point3D_ids())
    index = {number: i for i, number in enumerate(numbers)}
    matrices, intrinsics, lenses = [], [], []
    views, points, pixels = [], [], []
    for view, number in enumerate(ids):
        image, photo = model.image(number), photos[number - 1]
        camera = model.camera(image.camera_id)
        (fx, fy, cx, cy), lens = from_colmap(camera.model.name, tuple(float(p) for p in camera.params))
        matrix = np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]])
        width, height = photo.work_width, photo.work_height
        if photo.turned:  # the lens is round and its center in the middle, so only axes change
            matrix, width, height = _UPRIGHT_FROM_TURNED @ matrix, height, width
            fx, fy, cx, cy = fy, fx, width - cy, cx
        scale = np.array([photo.width / width, photo.height / height])
        matrices.append(matrix)
        intrinsics.append((fx * scale[0], fy * scale[1], cx * scale[0], cy * scale[1]))
        lenses.append(lens)
        for point in image.get_observation_points2D():
            x, y = point.xy
            views.append(view)
            points.append(index[point.point3D_id])
            pixels.append(np.array([width - y, x] if photo.turned else [x, y]) * scale)
    found = [model.point3D(number) for number in numbers]
    return Solution(
        tuple(number - 1 for number in ids),
        np.array(matrices),
        np.array(intrinsics),
        tuple(lenses),
        SparsePoints(
            np.array([point.xyz for point in found]).reshape(-1, 3),
            np.array([point.color for point in found], np.uint8).reshape(-1, 3),
            np.array([point.error for point in found]),
            np.array(views, int),
            np.array(points, int),
            np.array(pixels).reshape(-1, 2),
        ),
    )
