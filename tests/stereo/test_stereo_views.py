"""Which views are matched and at which depths; bounds from points."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from textured_planes import FOCAL, Plane, camera_batch, in_a_row, render

from ipsm_jax.data.scene import PointCloud, Scene
from ipsm_jax.scene.camera import look_at
from ipsm_jax.stereo import StereoError, StereoOptions, bounds, scene_bounds
from ipsm_jax.stereo.views import plan

OPTIONS = StereoOptions()


def limits(count, near=2.0, far=8.0):
    return np.tile([near, far], (count, 1))


def test_sources_are_the_nearest_views_and_none_that_looks_elsewhere():
    row = in_a_row(7, baseline=0.3)
    away = look_at((0.1, 0, 0), (0.1, 0, -5))
    made = plan(camera_batch([*row, away]), limits(8), OPTIONS)
    for view in range(7):
        chosen = made.sources[view, made.used[view]]
        assert len(chosen) == 4 and view not in chosen and 7 not in chosen
        left = [j for j in range(7) if j != view and j not in chosen]
        assert max(abs(chosen - view)) <= min(abs(j - view) for j in left) + 1  # heights and depths differ a little
    assert not made.used[7].any()
    assert not made.wide


def test_a_view_with_only_far_turned_neighbors_gets_the_nearest():
    around = [look_at((4 * np.sin(a), 0, 4 - 4 * np.cos(a)), (0, 0, 4)) for a in np.radians([0, 85, 160])]
    made = plan(camera_batch(around), limits(3, 2.0, 6.0), OPTIONS)
    assert made.used.sum(axis=1).tolist() == [1, 1, 1]
    assert made.sources[0, 0] == 1 and made.sources[2, 0] == 1
    assert made.wide


def test_there_is_a_plane_for_every_half_pixel():
    """Views side by side: the disparity of inverse depth w is f b w."""
    matrices = np.stack([np.eye(4)] * 2)
    matrices[1, 0, 3] = -0.5
    cameras = camera_batch(matrices)
    near, far = 2.0, 8.0
    disparity = FOCAL * 0.5 * (1 / (0.9 * near) - 1 / (1.15 * far))
    made = plan(cameras, limits(2, near, far), dataclasses.replace(OPTIONS, most_planes=1000))
    np.testing.assert_allclose(made.inverse_depths, [[1 / (1.15 * far), 1 / (0.9 * near)]] * 2, rtol=1e-6)
    np.testing.assert_allclose(made.half_pixel, 0.5 / (FOCAL * 0.5), rtol=1e-3)
    assert made.planes == max(64, 32 * int(np.ceil(2 * disparity / 32)))
    closer = plan(cameras, limits(2, 0.2, 8), OPTIONS)
    assert closer.planes == OPTIONS.most_planes
    assert plan(cameras, limits(2, 0.6, 8), OPTIONS, shrink=2).planes < plan(cameras, limits(2, 0.6, 8), OPTIONS).planes


@pytest.mark.parametrize(
    ("matrices", "given", "message"),
    [
        (in_a_row(1), limits(1), "at least two views, got 1"),
        (in_a_row(3), limits(2), "each of the 3 views"),
        (in_a_row(3), np.array([[1, 2], [3, 2], [1, 2]]), r"view 1 are \[3.0, 2.0\]; need 0 < nearest < farthest"),
        (in_a_row(3), np.array([[1, 2], [1, np.nan], [1, 2]]), "view 1"),
        (np.stack([np.eye(4)] * 2), limits(2), "no two of the 2 views see the same part"),
        ([look_at((0, 0, 0), (0, 0, 1)), look_at((0, 0, -1), (0, 0, -2))], limits(2), "no two of the 2 views"),
    ],
)
def test_what_cannot_be_matched_is_refused_with_a_reason(matrices, given, message):
    with pytest.raises(StereoError, match=message):
        plan(camera_batch(matrices), given, OPTIONS)


def points_of(cameras, seed=0):
    """Points on a plane that the cameras see, between depths of about 3 and 6."""
    depths = render(cameras, Plane(normal=(0.4, 0, 1.0)))[1]
    rng = np.random.default_rng(seed)
    row, column = rng.integers(0, 72, 300), rng.integers(0, 96, 300)
    fx, fy, cx, cy = cameras.intrinsics[0].astype(np.float64)
    depth = depths[0, row, column]
    local = np.stack([(column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, np.ones(300)], axis=-1) * depth[:, None]
    matrix = np.asarray(cameras.camera_from_world[0], np.float64)
    return (local - matrix[:3, 3]) @ matrix[:3, :3], depth


def test_bounds_are_those_of_the_points_inside_a_view():
    cameras = camera_batch([*in_a_row(2), look_at((0, 0, 0), (0, 0, -1))])
    points, depth = points_of(cameras)
    found = bounds.point_bounds(cameras, np.concatenate([points, [[0, 0, -50.0], [1000, 0, 4]]]))
    wider = 1 + 10 / np.sqrt(300)
    near, far = np.percentile(depth, (1, 99))
    np.testing.assert_allclose(found[0], (near / wider, far * wider**2), rtol=1e-5)
    np.testing.assert_allclose(found[2], [found[:2, 0].min(), found[:2, 1].max()])
    with pytest.raises(StereoError, match=r"see \[5, \d, 0\] of 5 points, and at least 10 in one view"):
        bounds.point_bounds(cameras, points[:5])


def test_bounds_from_few_points_leave_out_little():
    """Of a plane that runs from depth 3 to 6, whichever 12 points are known."""
    cameras = camera_batch(in_a_row(2))
    depths = render(cameras, Plane(normal=(0.4, 0, 1.0)))[1][0]
    for seed in range(30):
        points, _ = points_of(cameras, seed)
        near, far = bounds.point_bounds(cameras, points[:12])[0]
        assert np.mean((depths < 0.9 * near) | (depths > 1.15 * far)) < 0.01


def test_a_scene_without_bounds_takes_those_of_its_triangulated_points(monkeypatch):
    cameras = camera_batch(in_a_row(3))
    points, _ = points_of(cameras)
    images = np.zeros((3, 72, 96, 3), np.uint8)
    scene = Scene("place", Path("place"), cameras, images, ("a", "b", "c"), (0, 2), (1,))
    asked = []
    cloud = PointCloud(points.astype(np.float32), np.zeros((300, 3), np.float32))
    monkeypatch.setattr(bounds, "triangulated_points", lambda scene, cache: asked.append(scene) or cloud)
    found = scene_bounds(scene)
    assert found.shape == (2, 2) and len(asked) == 1
    np.testing.assert_array_equal(found[0], bounds.point_bounds(cameras, points)[0])
    own = dataclasses.replace(scene, bounds=np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    np.testing.assert_array_equal(scene_bounds(own), [[1, 2], [5, 6]])
    assert len(asked) == 1
    cloud = PointCloud(cloud.positions[:3], cloud.colors[:3])
    with pytest.raises(StereoError, match="the scene place has no depth bounds"):
        scene_bounds(scene)
