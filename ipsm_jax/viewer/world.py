"""Where the first look is from, which way is up, what cameras to draw: from the scene, or else from the Gaussians."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from ipsm_jax.data.scene import Scene
from ipsm_jax.scene.projection import project_points
from ipsm_jax.scene.trajectories import upright_axes
from ipsm_jax.viewer.stage import Model
from ipsm_jax.viewer.viewpoint import Viewpoint, axes_of, looking_at, viewpoint_of

USUAL_FOV = np.deg2rad(50.0)
PHOTO_SIDE = 256
"""Longer side in pixels of the photos shown at the cameras."""


class PhotoCamera(NamedTuple):
    """A camera to draw.

    Attributes:
      name: the photo's file name.
      viewpoint: where it stands; its width and height are the photo's.
      thumbnail: (h, w, 3) uint8.
      trained: whether training saw it.
    """

    name: str
    viewpoint: Viewpoint
    thumbnail: np.ndarray
    trained: bool


class World(NamedTuple):
    """What the browser needs to know of the world.

    Attributes:
      up: (3,) unit vector.
      start: the first look.
      distance: from there to what is looked at, in world units; what orbiting goes around.
      size: a length to draw cameras with, in world units.
      cameras: to draw; none without a scene.
    """

    up: np.ndarray
    start: Viewpoint
    distance: float
    size: float
    cameras: tuple[PhotoCamera, ...]

    def target(self, viewpoint: Viewpoint) -> np.ndarray:
        """(3,) point to orbit around for somebody who looks from there."""
        return np.asarray(viewpoint.position) + self.distance * axes_of(viewpoint)[0]


def world_of(model: Model, scene: Scene | None) -> World:
    """Start at the first training camera, upright as these are; without a scene, look at the bulk of the Gaussians.

    PLY files of captures have y down, as the cameras of COLMAP usually are.
    """
    means = _solid_means(model)
    if scene is None:
        return _world_of_points(means)
    cameras = scene.train_cameras
    rotations = np.asarray(cameras.camera_from_world, np.float64)[:, :3, :3]
    depth = project_points(cameras[0], means)
    seen = depth.depth[depth.inside]
    distance = float(np.median(seen)) if len(seen) else max(scene.extent, 1e-3)
    centers = scene.centers
    gaps = np.linalg.norm(centers[:, None] - centers[None], axis=-1) + np.diag(np.full(len(centers), np.inf))
    nearest = float(np.median(gaps.min(axis=1))) if len(centers) > 1 else distance
    return World(
        up=upright_axes(rotations)[2],
        start=viewpoint_of(cameras[0]),
        distance=distance,
        size=float(np.clip(0.5 * nearest, 0.02 * distance, 0.1 * distance)),
        cameras=tuple(_photo_camera(scene, index) for index in sorted({*scene.train, *scene.test})),
    )


def _solid_means(model: Model) -> np.ndarray:
    """Centers of the Gaussians more opaque than not, or of all if there are none; finite ones."""
    alive = np.asarray(model.alive) & np.isfinite(np.asarray(model.gaussians.means)).all(axis=1)
    solid = alive & (np.asarray(model.gaussians.opacity_logits) > 0)
    return np.asarray(model.gaussians.means, np.float64)[solid if solid.any() else alive]


def _world_of_points(means: np.ndarray) -> World:
    center = np.median(means, axis=0) if len(means) else np.zeros(3)
    radius = float(np.percentile(np.linalg.norm(means - center, axis=1), 80)) if len(means) else 1.0
    distance = max(1.5 * radius / np.tan(USUAL_FOV / 2), 1e-3)
    up = np.array([0.0, -1.0, 0.0])
    start = looking_at(center - np.array([0.0, 0.0, distance]), center, up, USUAL_FOV)
    return World(up, start, distance, 0.05 * distance, ())


def _photo_camera(scene: Scene, index: int) -> PhotoCamera:
    photo = Image.fromarray(scene.images[index])
    photo.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    viewpoint = viewpoint_of(scene.cameras[index])
    return PhotoCamera(scene.names[index], viewpoint, np.asarray(photo), index in scene.train)
