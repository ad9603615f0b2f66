"""Depth maps on their way from files into training: units, unknown pixels, and depths that cannot be meant."""

import dataclasses

import numpy as np
import pytest

from ipsm_jax.config import ConfigError, DepthConfig, TrainConfig
from ipsm_jax.data.scene import Scene
from ipsm_jax.scene.camera import Camera
from ipsm_jax.training.prepare_regularization import prepare_regularization

WIDTH, HEIGHT = 8, 6


@pytest.fixture
def scene(tmp_path):
    cameras = Camera(
        np.tile(np.eye(4, dtype=np.float32), (2, 1, 1)), np.tile(np.float32([8, 8, 4, 3]), (2, 1)), WIDTH, HEIGHT
    )
    return Scene(
        "flat", tmp_path, cameras, np.zeros((2, HEIGHT, WIDTH, 3), np.uint8), ("a.png", "b.png"), (0, 1), (),
        bounds=np.float32([[2, 8], [2, 8]]),
    )  # fmt: skip


def maps_of(scene, values, **options):
    """The depth maps that training gets from two files with these values."""
    folder = scene.path / "maps"
    folder.mkdir(exist_ok=True)
    for name in ("a", "b"):
        np.save(folder / f"{name}.npy", values)
    config = dataclasses.replace(TrainConfig(), depth=DepthConfig(depth="maps", depth_path=folder, **options))
    return prepare_regularization(config, scene, lambda _: None).depth_maps


def test_depths_that_are_not_positive_are_not_known(scene):
    values = np.full((HEIGHT, WIDTH), 4.0, np.float32)
    values[0, :3] = -1, 0, np.nan
    for loss in ("correlation", "direct"):
        maps = maps_of(scene, values, depth_loss=loss)
        np.testing.assert_array_equal(maps.known, np.stack([values > 0] * 2))
    inverse = maps_of(scene, values, maps_hold="inverse")  # a network's may be anything
    np.testing.assert_array_equal(inverse.known[1], (values != 0) & np.isfinite(values))


def test_measured_depths_are_brought_to_the_scenes_unit_or_refused(scene):
    millimeters = np.full((HEIGHT, WIDTH), 4000, np.float32)
    np.testing.assert_allclose(maps_of(scene, millimeters, depth_loss="direct", maps_unit=0.001).values, 4)
    with pytest.raises(ConfigError, match=r"median depth of 4e\+03, the scene flat depths from 2 to 8: .*--maps-unit"):
        maps_of(scene, millimeters, depth_loss="direct")
    maps_of(scene, millimeters)  # correlation does not ask for the unit
    maps_of(dataclasses.replace(scene, bounds=None), millimeters, depth_loss="direct")  # nothing to compare with
