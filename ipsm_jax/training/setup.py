"""From settings to what the loop needs: scene, training views and first state."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ipsm_jax.config import ConfigError, TrainConfig
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.load import load_scene
from ipsm_jax.data.ply import ply_kind, read_gaussians_ply
from ipsm_jax.data.points import initial_points
from ipsm_jax.data.scene import PointCloud, Scene
from ipsm_jax.data.triangulate import MissingPycolmapError
from ipsm_jax.losses.background import zero_background
from ipsm_jax.losses.photometric import photometric_target
from ipsm_jax.rasterizer.projection import NEAR_PLANE
from ipsm_jax.scene.gaussians import Gaussians, gaussians_from_points, with_capacity
from ipsm_jax.scene.projection import project_points
from ipsm_jax.stereo import StereoError, stereo_points, stereo_progress
from ipsm_jax.training.state import TrainState, init_state
from ipsm_jax.training.step import TrainingViews

PIXELS_PER_GAUSSIAN = 10
LEAST_LIMIT = 50_000
USUAL_DEPTH = 2.0
"""Depth in world units that a capture with too small ones is told to be scaled to; ten times the near plane."""


def load_scene_from_config(config: TrainConfig) -> Scene:
    """The scene that the settings name; raises what `load_scene` raises."""
    data = config.data
    return load_scene(
        data.scene,
        data_root=data.data_root,
        views=data.views,
        downscale=data.downscale,
        split=data.split,
        background=config.optimization.background,
    )


def training_views(config: TrainConfig, scene: Scene) -> TrainingViews:
    """The training views of a scene on the device, with what the loss precomputes from them.

    Raises:
      ConfigError: one training view only, or all at one place, so that the scene has no extent.
    """
    if not scene.extent > 0:
        raise ConfigError(
            f"scene {scene.name} has {len(scene.train)} training view(s) at one place: its extent, 1.1 x the largest "
            "distance of a training camera from their mean, is 0. Use --views 2 or more, photos from different places"
        )
    cameras, photos = jax.tree.map(jnp.asarray, scene.train_cameras), scene.train_images
    images = jnp.asarray(photos, jnp.float32) / 255
    l1_images = images
    if config.optimization.zero_dark_background:
        l1_images = jnp.asarray(np.stack([zero_background(photo) for photo in photos]), jnp.float32) / 255
    targets = jax.lax.map(lambda pair: photometric_target(*pair), (images, l1_images))
    # Reuse the buffers that are there instead of the copies that the map made.
    return TrainingViews(cameras, targets._replace(image=images, l1_image=l1_images), jnp.float32(scene.extent))


def gaussian_limit(config: TrainConfig, scene: Scene, points: int) -> int:
    """How many Gaussians there may be, for a start from so many points.

    What the settings say; else one per ten pixels of the training photos, at least 50 000 and at least twice the
    points: a limit that nobody asked for refuses nobody's points.
    """
    if config.density.max_gaussians is not None:
        return config.density.max_gaussians
    pixels = len(scene.train) * scene.width * scene.height
    return max(LEAST_LIMIT, pixels // PIXELS_PER_GAUSSIAN, 2 * points)


def check_depths(scene: Scene, positions: Float[np.ndarray, "p 3"]) -> None:
    """Refuse a scene that lies before the near plane, where the rasterizer draws nothing.

    Args:
      scene: its training views count.
      positions: starting points in world units.

    Raises:
      DataError: of the points inside the pictures of the training views, most are nearer than 0.2 to the camera.
    """
    found = [project_points(camera, positions) for camera in scene.train_cameras]
    seen = np.concatenate([view.depth[view.inside] for view in found])
    if len(seen) and np.mean(seen <= NEAR_PLANE) > 0.5:
        middle = float(np.median(seen))
        raise DataError(
            f"scene {scene.name}: {np.mean(seen <= NEAR_PLANE):.0%} of the starting points that the training views see "
            f"are nearer to the camera than {NEAR_PLANE} units (median depth {middle:.3g}), where nothing is drawn: "
            f"the scene's unit of length is too large. Multiply all positions (of cameras, points and depth bounds) by "
            f"{10 ** int(np.ceil(np.log10(USUAL_DEPTH / middle)))}"
        )


def first_gaussians(config: TrainConfig, scene: Scene) -> tuple[Gaussians, str]:
    """The Gaussians that training starts from, all alive, and a sentence on where they come from.

    A .ply of Gaussians is taken as it is; anything else gives points, which become Gaussians as METHOD section 2 says.

    Raises:
      DataError: no points to be had.
      StereoError, MissingPycolmapError: dense stereo was asked for, and cannot be done.
    """
    method = config.init.init
    if method.lower().endswith(".ply") and ply_kind(path := Path(method).expanduser()) == "gaussians":
        gaussians = read_gaussians_ply(path)
        return gaussians, f"{gaussians.capacity} Gaussians from the file {method}, as they are."
    points, report = _points(scene, method, config.seed, config.density.max_gaussians)
    return gaussians_from_points(points.positions, points.colors)[0], report


def _points(scene: Scene, method: str, seed: int, most: int | None) -> tuple[PointCloud, str]:
    """Starting points: dense stereo where asked for or, for "auto", where it can be done; else what `initial_points`
    gives. Dense stereo leaves half of the Gaussians that there may be at `most` to density control.
    """
    if method not in ("auto", "stereo"):
        return initial_points(scene, method, seed=seed)
    try:
        with stereo_progress() as progress:
            return stereo_points(scene, progress, most=None if most is None else most // 2)
    except (StereoError, MissingPycolmapError) as error:
        if method == "stereo":
            raise
        points, report = initial_points(scene, method, seed=seed)
        return points, f"{report} (No dense start: {error}.)"


def first_state(config: TrainConfig, scene: Scene) -> tuple[TrainConfig, TrainState, str]:
    """The settings with the limit of Gaussians filled in, the state before the first iteration, and a sentence on
    where its points come from.

    The capacity is the smallest of `config.density.capacity` and its doubles with room for twice the points.

    Raises:
      ConfigError: more points than the `max_gaussians` that was asked for.
      DataError: no points to be had, or most of them too near to be drawn.
    """
    gaussians, report = first_gaussians(config, scene)
    check_depths(scene, np.asarray(gaussians.means))
    count = gaussians.capacity
    limit = gaussian_limit(config, scene, count)
    if count > limit:
        raise ConfigError(
            f"there are {count} starting points, more than --max-gaussians {limit}: allow more, or leave it away"
        )
    capacity = config.density.capacity
    while capacity < 2 * count:
        capacity *= 2
    gaussians, alive = with_capacity(gaussians, jnp.ones(count, bool), min(capacity, limit))
    state = init_state(jax.random.key(config.seed), gaussians, alive)
    return dataclasses.replace(config, density=dataclasses.replace(config.density, max_gaussians=limit)), state, report
