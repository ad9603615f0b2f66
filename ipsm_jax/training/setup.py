"""From settings to what the loop needs: scene, training views and first state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ipsm_jax.config import ConfigError, TrainConfig
from ipsm_jax.data.load import load_scene
from ipsm_jax.data.points import initial_points
from ipsm_jax.data.scene import Scene
from ipsm_jax.losses.background import zero_background
from ipsm_jax.losses.photometric import photometric_target
from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.gaussians import gaussians_from_points
from ipsm_jax.training.state import TrainState, init_state
from ipsm_jax.training.step import TrainingViews

PIXELS_PER_GAUSSIAN = 10
LEAST_LIMIT = 50_000


def load_scene_from_config(config: TrainConfig) -> Scene:
    """The scene that the settings name; raises what `load_scene` raises."""
    data = config.data
    return load_scene(
        data.scene, data_root=data.data_root, views=data.views, downscale=data.downscale, split=data.split
    )


def training_views(config: TrainConfig, scene: Scene) -> TrainingViews:
    """The training views of a scene on the device, with what the loss precomputes from them.

    Raises:
      ConfigError: one training view only, or all at one place, so that the scene has no extent.
    """
    if not scene.extent > 0:
        raise ConfigError(
            f"scene {scene.name} has {len(scene.train)} training view(s) at one place: its extent, 1.1 x the largest "
            "distance of a training camera from their mean, is 0. Use --views 2 or more"
        )
    train = list(scene.train)
    cameras = Camera(
        jnp.asarray(scene.cameras.camera_from_world[train], jnp.float32),
        jnp.asarray(scene.cameras.intrinsics[train], jnp.float32),
        scene.width,
        scene.height,
    )
    photos = scene.images[train]
    images = jnp.asarray(photos, jnp.float32) / 255
    l1_images = images
    if config.optimization.zero_dark_background:
        l1_images = jnp.asarray(np.stack([zero_background(photo) for photo in photos]), jnp.float32) / 255
    targets = jax.lax.map(lambda pair: photometric_target(*pair), (images, l1_images))
    # Reuse the buffers that are there instead of the copies that the map made.
    return TrainingViews(cameras, targets._replace(image=images, l1_image=l1_images), jnp.float32(scene.extent))


def gaussian_limit(config: TrainConfig, scene: Scene) -> int:
    """How many Gaussians there may be: what the settings say, or one per ten pixels of the training photos."""
    if config.density.max_gaussians is not None:
        return config.density.max_gaussians
    return max(LEAST_LIMIT, len(scene.train) * scene.width * scene.height // PIXELS_PER_GAUSSIAN)


def first_state(config: TrainConfig, scene: Scene) -> tuple[TrainState, str]:
    """The state before the first iteration, and a sentence on where its points come from.

    The capacity is the smallest of `config.density.capacity` and its doubles with room for twice the points.

    Raises:
      ConfigError: more points than `max_gaussians`.
      DataError: no points to be had.
    """
    points, report = initial_points(scene, config.init.init, seed=config.seed)
    count, limit = len(points.positions), gaussian_limit(config, scene)
    if count > limit:
        raise ConfigError(f"there are {count} starting points, more than --max-gaussians {limit}")
    capacity = config.density.capacity
    while capacity < 2 * count:
        capacity *= 2
    gaussians, alive = gaussians_from_points(points.positions, points.colors, min(capacity, limit))
    return init_state(jax.random.key(config.seed), gaussians, alive), report
