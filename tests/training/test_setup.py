"""From settings to training views and first state."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.config import ConfigError, DensityConfig, InitConfig, OptimizationConfig, TrainConfig
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.ply import write_gaussians_ply
from ipsm_jax.data.scene import PointCloud, Scene
from ipsm_jax.losses.background import zero_background
from ipsm_jax.scene.camera import Camera, look_at
from ipsm_jax.scene.gaussians import Gaussians
from ipsm_jax.training.setup import check_depths, first_state, gaussian_limit, training_views


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    matrices = np.stack([look_at([x, 0, -4], [0, 0, 0]) for x in (-1.0, 0.0, 1.0, 2.0)])
    cameras = Camera(matrices, np.tile(np.float32([40, 40, 20, 16]), (4, 1)), 40, 32)
    images = rng.integers(0, 60, (4, 32, 40, 3), dtype=np.uint8)
    return Scene("made up", Path("nowhere"), cameras, images, ("a", "b", "c", "d"), train=(0, 2, 3), test=(1,))


def test_training_views_are_the_training_photos_only(scene):
    views = training_views(TrainConfig(), scene)
    np.testing.assert_allclose(views.targets.image, scene.images[[0, 2, 3]] / 255, atol=1e-7)
    assert views.targets.l1_image is views.targets.image
    np.testing.assert_array_equal(views.cameras.camera_from_world, scene.cameras.camera_from_world[[0, 2, 3]])
    assert float(views.extent) == pytest.approx(scene.extent)


def test_zeroed_background_is_in_the_target_of_l1_only(scene):
    config = TrainConfig(optimization=OptimizationConfig(zero_dark_background=True))
    views = training_views(config, scene)
    np.testing.assert_allclose(views.targets.image, scene.images[[0, 2, 3]] / 255, atol=1e-7)
    expected = np.stack([zero_background(scene.images[i]) for i in (0, 2, 3)]) / 255
    np.testing.assert_allclose(views.targets.l1_image, expected, atol=1e-7)
    assert not np.array_equal(views.targets.l1_image, views.targets.image)


def test_one_training_view_has_no_extent(scene):
    with pytest.raises(ConfigError, match=r"made up has 1 training view.*Use --views 2 or more"):
        training_views(TrainConfig(), dataclasses.replace(scene, train=(2,)))


@pytest.mark.parametrize(
    ("capacity", "limit", "expected"), [(16_384, 10**6, 16_384), (512, 10**6, None), (512, 7000, 7000)]
)
def test_capacity_leaves_room_for_twice_the_points(scene, capacity, limit, expected):
    config = TrainConfig(
        init=InitConfig(init="random"), density=DensityConfig(capacity=capacity, max_gaussians=limit), seed=5
    )
    resolved, state, report = first_state(config, scene)
    assert resolved == config
    points = int(state.alive.sum())
    assert "random" in report
    assert int(state.step) == 0
    if expected is None:  # the smallest doubling with room for twice the points
        assert state.gaussians.capacity // 2 < 2 * points <= state.gaussians.capacity
        assert state.gaussians.capacity % 512 == 0
    else:
        assert state.gaussians.capacity == expected


def test_more_points_than_allowed_are_refused(scene):
    config = TrainConfig(init=InitConfig(init="random"), density=DensityConfig(max_gaussians=100))
    with pytest.raises(ConfigError, match=r"starting points, more than --max-gaussians 100"):
        first_state(config, scene)


def test_the_default_limit_follows_the_training_pixels(scene):
    assert gaussian_limit(TrainConfig(), scene, 100) == 50_000  # tiny photos
    assert gaussian_limit(TrainConfig(), scene, 60_000) == 120_000
    large = dataclasses.replace(
        scene, train=tuple(range(200)), cameras=dataclasses.replace(scene.cameras, width=1000, height=800)
    )
    assert gaussian_limit(TrainConfig(), large, 100) == 200 * 1000 * 800 // 10
    assert gaussian_limit(TrainConfig(density=DensityConfig(max_gaussians=77)), large, 100) == 77


def test_a_limit_that_nobody_asked_for_takes_dense_points(scene, monkeypatch):
    rng = np.random.default_rng(1)
    dense = PointCloud(*rng.random((2, 60_000, 3), dtype=np.float32))
    monkeypatch.setattr("ipsm_jax.training.setup.initial_points", lambda *_, **__: (dense, "dense"))
    start = InitConfig(init="triangulated")
    config, state, _ = first_state(TrainConfig(init=start), scene)
    assert config == TrainConfig(init=start, density=DensityConfig(max_gaussians=120_000))
    assert int(state.alive.sum()) == 60_000
    assert state.gaussians.capacity == 120_000
    with pytest.raises(ConfigError, match="60000 starting points, more than --max-gaussians 59999"):
        first_state(TrainConfig(init=start, density=DensityConfig(max_gaussians=59_999)), scene)


def test_a_scene_before_the_near_plane_is_refused(scene):
    # The cameras stand at z = -4 and look at the origin; the first training view has its center at x = -1.
    center = scene.centers[0]
    forward = scene.cameras.camera_from_world[0, 2, :3]
    near = (center + np.linspace(0.02, 0.19, 11)[:, None] * forward).astype(np.float32)
    far = (center + np.linspace(1, 3, 10)[:, None] * forward).astype(np.float32)
    behind = (center - np.linspace(1, 3, 50)[:, None] * forward).astype(np.float32)
    one = dataclasses.replace(scene, train=(0,))
    with pytest.raises(DataError, match=r"52% of the starting points.*median depth 0.19\).*by 100$"):
        check_depths(one, np.concatenate([near, far, behind]))
    check_depths(one, np.concatenate([near[1:], far]))
    check_depths(one, behind)  # nothing is seen: another matter


def test_a_ply_of_gaussians_is_taken_as_it_is(scene, tmp_path):
    rng = np.random.default_rng(1)
    given = Gaussians(
        *(
            jnp.asarray(rng.normal(size=shape), jnp.float32)
            for shape in ((9, 3), (9, 3), (9, 4), (9,), (9, 3), (9, 15, 3))
        )
    )
    write_gaussians_ply(tmp_path / "start.ply", given, jnp.ones(9, bool))
    config = TrainConfig(init=InitConfig(init=str(tmp_path / "start.ply")), density=DensityConfig(capacity=32))
    _, state, report = first_state(config, scene)
    assert "9 Gaussians" in report
    assert np.flatnonzero(state.alive).tolist() == list(range(9))
    for ours, theirs in zip(state.gaussians, given, strict=True):
        np.testing.assert_array_equal(ours[:9], theirs)
