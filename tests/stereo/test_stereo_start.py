"""The dense start of a scene: points on the surface, not too many, kept in the cache; and what happens without."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from textured_planes import Plane, camera_batch, in_a_row, render

from ipsm_jax.config import DensityConfig, InitConfig, TrainConfig
from ipsm_jax.data.scene import PointCloud, Scene
from ipsm_jax.scene.camera import look_at
from ipsm_jax.stereo import StereoDepths, StereoError, scene_depths, start, stereo_points
from ipsm_jax.training import setup

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture(scope="module")
def scene():
    cameras = camera_batch(in_a_row(4))
    images, depths = render(cameras, Plane())
    return Scene(
        "plane",
        Path("nowhere"),
        cameras,
        images,
        ("a.png", "b.png", "c.png", "d.png"),
        train=(0, 2, 3),
        test=(1,),
        bounds=np.tile(np.float32([[2.0, 9.0]]), (4, 1)),
        depths=depths.astype(np.float32),
    )


@pytest.fixture
def sparse(monkeypatch):
    """Triangulated points: one on the plane in the middle of the pictures, one far outside of them."""
    points = PointCloud(np.float32([[0, 0, 4], [30, 0, 4]]), np.float32([[1, 0, 0], [0, 1, 0]]))
    monkeypatch.setattr(start, "triangulated_points", lambda scene, cache: points)
    return points


def test_depths_of_the_training_views_come_from_them_alone_and_only_once(scene, monkeypatch):
    first = scene_depths(scene)
    assert first.depth.shape == (3, 72, 96)
    exact = scene.depths[list(scene.train)]
    assert np.median(np.abs(first.depth - exact)[first.confident] / exact[first.confident]) < 0.003

    def fail(*_):
        pytest.fail("computed again")

    monkeypatch.setattr(start, "stereo_depths", fail)
    spoiled = scene.images.copy()
    spoiled[1] = 0  # the test view
    again = scene_depths(dataclasses.replace(scene, images=spoiled))
    assert np.array_equal(first.depth, again.depth) and np.array_equal(first.confident, again.confident)
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        scene_depths(dataclasses.replace(scene, train=(0, 1, 3)))


def test_points_lie_on_the_surface_and_are_not_too_many(scene, sparse):
    points, report = stereo_points(scene)
    dense = points.positions[:-1]
    assert len(dense) <= 3 * 72 * 96 // 20
    assert np.median(np.abs(dense[:, 2] - 4)) < 0.02
    assert np.array_equal(points.positions[-1], sparse.positions[1])  # what stereo has not seen
    assert np.array_equal(points.colors[-1], sparse.colors[1])
    assert report.startswith(f"{len(dense)} points from dense stereo of the training views alone (a.png, c.png, d.png)")
    assert report.endswith("and 1 triangulated ones elsewhere.")
    few, _ = stereo_points(scene, most=300)
    assert 100 < len(few.positions) - 1 <= 300


def test_a_photo_that_does_not_belong_is_named_every_time(scene, sparse, monkeypatch):
    images = scene.images.copy()
    away = camera_batch([look_at((31, -17, 0), (31.2, -17, 40))])
    images[2] = render(away, Plane())[0][0]
    strange = dataclasses.replace(scene, images=images)
    for _ in range(2):  # computed, and from the cache
        points, report = stereo_points(strange)
        assert np.median(np.abs(points.positions[:-1, 2] - 4)) < 0.02
        said = report.splitlines()
        assert len(said) == 2 and said[1].startswith("Warning: c.png agrees with the other training views hardly more")
        assert scene_depths(strange).strangers == (1,)  # the second of the training views
        monkeypatch.setattr(start, "stereo_depths", lambda *_: pytest.fail("computed again"))


def test_the_usual_start_is_dense_and_leaves_room(scene, sparse):
    config = TrainConfig(density=DensityConfig(max_gaussians=900))
    _, state, report = setup.first_state(config, scene)
    assert "dense stereo" in report
    assert 200 < int(state.alive.sum()) <= 451


def test_without_texture_or_a_second_view_there_is_another_start_and_it_says_why(scene, sparse):
    bare = dataclasses.replace(scene, images=np.full_like(scene.images, 128))
    alone = dataclasses.replace(scene, train=(0,))
    for broken, reason in ((bare, "by chance: .* too little texture"), (alone, "needs two training views")):
        with pytest.raises(StereoError, match=reason):
            setup.first_gaussians(TrainConfig(init=InitConfig(init="stereo")), broken)
    gaussians, report = setup.first_gaussians(TrainConfig(), alone)
    assert gaussians.capacity >= 4
    assert "random points" in report and "(No dense start: dense stereo needs two training views" in report


def test_what_stereo_has_seen_equals_looking_at_each_point(scene):
    rng = np.random.default_rng(0)
    depths = StereoDepths(scene.depths[:2], rng.uniform(size=(2, 72, 96)) < 0.3)
    cameras = scene.cameras[np.array([0, 1])]
    points = rng.uniform((-5, -4, -6), (5, 4, 9), (400, 3))
    expected = []
    for point in points:
        seen = False
        for matrix, (fx, fy, cx, cy), mask in zip(
            cameras.camera_from_world, cameras.intrinsics, depths.confident, strict=True
        ):
            x, y, z = matrix[:3, :3].astype(np.float64) @ point + matrix[:3, 3]
            if z > 0 and 0 <= (u := fx * x / z + cx) < 96 and 0 <= (v := fy * y / z + cy) < 72:
                seen |= bool(mask[int(v), int(u)])
        expected.append(seen)
    assert np.array_equal(start.seen_by_stereo(cameras, depths, points), expected)
    assert 10 < sum(expected) < 390


def test_a_limit_is_kept_however_small_it_is(scene, sparse):
    for most in (4, 40):
        points, _ = stereo_points(scene, most=most)
        again, _ = stereo_points(scene, most=most)
        assert len(points.positions) == len(points.colors) == most
        assert np.array_equal(points.positions, again.positions)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"PK\x03\x04" + data[4:60], bytes]
)
def test_a_damaged_file_of_the_cache_is_made_anew(scene, damage, monkeypatch, tmp_path):
    monkeypatch.setenv("IPSM_JAX_CACHE", str(tmp_path))
    first = scene_depths(scene)
    (file,) = (tmp_path / "stereo").glob("*.npz")
    file.write_bytes(damage(file.read_bytes()))
    assert np.array_equal(scene_depths(scene).depth, first.depth)
