"""Starting points: where random ones lie, that only training views shape them, and what the report says."""

import dataclasses
import sys

import numpy as np
import pytest
from captures import colmap_points, poses, write_colmap, write_llff, write_pictures, write_transforms

from ipsm_jax.data import points as points_module
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.load import load_scene
from ipsm_jax.data.ply import write_gaussians_ply
from ipsm_jax.data.points import initial_points
from ipsm_jax.data.random_points import box_points, default_count, depth_bounds
from ipsm_jax.data.scene import PointCloud
from ipsm_jax.data.triangulate import Triangulation
from ipsm_jax.scene.gaussians import gaussians_from_points

NAMES = [f"{i:04d}.png" for i in range(9)]


@pytest.fixture
def llff(tmp_path):
    write_llff(tmp_path, 9)
    return load_scene(str(tmp_path), downscale=1)


def in_view(scene, view, positions):
    """(P, 3): pixel x, y and depth of points in a view."""
    matrix = np.asarray(scene.cameras.camera_from_world[view], np.float64)
    fx, fy, cx, cy = scene.cameras.intrinsics[view]
    x, y, z = (positions @ matrix[:3, :3].T + matrix[:3, 3]).T
    return np.stack([fx * x / z + cx, fy * y / z + cy, z], axis=-1)


def test_random_points_fill_the_training_frusta_with_the_photos_colors(llff):
    cloud, report = initial_points(llff, "random", seed=0, count=3000)
    assert cloud.positions.shape == cloud.colors.shape == (3000, 3)
    assert cloud.positions.dtype == cloud.colors.dtype == np.float32
    for part, view in enumerate(llff.train):
        u, v, z = in_view(llff, view, cloud.positions[part::3]).T
        assert ((u > -1e-2) & (u < llff.width + 1e-2) & (v > -1e-2) & (v < llff.height + 1e-2)).all()
        assert ((z > 2 - 1e-3) & (z < 9 + 1e-2)).all()
        # Uniform in inverse depth: half of the points are nearer than the harmonic mean of the bounds.
        assert np.mean(z < 2 / (1 / 2 + 1 / 9)) == pytest.approx(0.5, abs=0.06)
        inside = (u > 0.1) & (v > 0.1) & (u % 1 > 0.01) & (v % 1 > 0.01) & (u < llff.width) & (v < llff.height)
        pixels = llff.images[view, v[inside].astype(int), u[inside].astype(int)] / 255
        # float32 positions may cross a pixel's edge, which the filter above keeps rare
        assert np.mean(np.abs(pixels - cloud.colors[part::3][inside]).max(-1) < 1e-6) > 0.97
    assert "3000 random points in the frusta of the 3 training views" in report
    assert "as asked for" in report


def test_seeds(llff):
    first, again, other = (initial_points(llff, "random", seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.positions, again.positions)
    assert (first.positions != other.positions).any()
    assert len(first.positions) == default_count(llff) == 5000


def test_test_views_do_not_shape_random_points(llff):
    """Everything that belongs to other views may change without any effect."""
    train = list(llff.train)
    images, bounds = 255 - llff.images, 3 * llff.bounds
    matrices = llff.cameras.camera_from_world.copy()
    matrices[:, :3, 3] += 5
    images[train], bounds[train], matrices[train] = (
        llff.images[train],
        llff.bounds[train],
        llff.cameras.camera_from_world[train],
    )
    cameras = dataclasses.replace(llff.cameras, camera_from_world=matrices)
    changed = dataclasses.replace(llff, images=images, bounds=bounds, cameras=cameras)
    for scene, other in ((llff, changed), tuple(dataclasses.replace(s, bounds=None) for s in (llff, changed))):
        a, b = (initial_points(s, "random", seed=3)[0] for s in (scene, other))
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.colors, b.colors)


def test_depths_guessed_from_the_cameras_contain_what_they_look_at(tmp_path):
    """The cameras turn around a point about 5 units away; nothing else is known of the scene."""
    write_pictures(tmp_path / "images", NAMES)
    write_transforms(tmp_path, poses(9), [f"images/{name}" for name in NAMES])
    scene = load_scene(str(tmp_path), downscale=1)
    bounds, words = depth_bounds(scene)
    assert (bounds[:, 0] < 4.5).all()
    assert (bounds[:, 1] > 5.5).all()
    assert "a guess" in words
    parallel = np.tile(np.eye(4, dtype=np.float32), (9, 1, 1))
    parallel[:, 0, 3] = np.arange(9)
    scene = dataclasses.replace(scene, cameras=dataclasses.replace(scene.cameras, camera_from_world=parallel))
    bounds, _ = depth_bounds(scene)
    baseline = scene.train[-1] - scene.train[0]
    np.testing.assert_allclose(bounds, np.tile([1.6 * baseline, 16 * baseline], (3, 1)))


def test_box_is_1_3_times_that_of_the_points():
    rng = np.random.default_rng(0)
    sparse = rng.uniform((-1, -2, 3), (1, 2, 4), (5000, 3))
    cloud = box_points(sparse, 20000, 0)
    np.testing.assert_allclose(cloud.positions.min(0), [-1.3, -2.6, 2.85], atol=0.08)
    np.testing.assert_allclose(cloud.positions.max(0), [1.3, 2.6, 4.15], atol=0.08)
    assert np.abs(cloud.colors - 0.5).max() <= 0.1 + 1e-6
    flat = box_points(sparse * (1, 1, 0), 10, 0).positions
    assert len(np.unique(flat[:, 2])) == 10


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (0, "gave only 0 points (needed: 100)"),
        (50, "near-gray points in 1.3 times the bounding box of those triangulated"),
        (100, "100 points triangulated from the training views alone (IMG_01.png, IMG_04.png, IMG_07.png)"),
    ],
)
def test_auto_says_what_it_did_and_why(llff, monkeypatch, found, words):
    cloud = PointCloud(*(np.random.default_rng(0).uniform(size=(2, found, 3)).astype(np.float32)))
    triangulation = Triangulation(cloud, np.array([found, found // 2, found]))
    monkeypatch.setattr(points_module, "triangulate_scene", lambda scene, cache: triangulation)
    points, report = initial_points(llff, "auto", seed=0)
    assert words in report and "Warning" not in report
    assert len(points.positions) == (100 if found == 100 else default_count(llff))


def test_a_photo_that_shares_no_points_is_warned_about(llff, monkeypatch):
    cloud = PointCloud(*(np.random.default_rng(0).uniform(size=(2, 200, 3)).astype(np.float32)))
    triangulation = Triangulation(cloud, np.array([200, 9, 195]))
    monkeypatch.setattr(points_module, "triangulate_scene", lambda scene, cache: triangulation)
    for method in ("auto", "triangulated"):
        _, report = initial_points(llff, method, seed=0)
        assert "\nWarning: IMG_04.png shares next to none of these points with the other training views" in report


def test_auto_without_pycolmap_is_random_and_says_so(llff, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    _, report = initial_points(llff, "auto", seed=0)
    assert "random points" in report
    assert 'pip install "ipsm_jax[sfm]"' in report
    with pytest.raises(DataError, match=r'pip install "ipsm_jax\[sfm\]"'):
        initial_points(llff, "triangulated", seed=0)


def test_one_view_cannot_be_triangulated(llff):
    single = dataclasses.replace(llff, train=(3,))
    assert "one training view cannot be triangulated" in initial_points(single, "auto", seed=0)[1]
    with pytest.raises(DataError, match="needs two training views"):
        initial_points(single, "triangulated", seed=0)


def test_points_of_all_views_only_by_name_and_the_report_says_so(tmp_path):
    positions, colors = colmap_points(40)
    write_colmap(tmp_path, poses(9), NAMES, points=(positions, colors))
    write_pictures(tmp_path / "images", NAMES)
    scene = load_scene(str(tmp_path), downscale=1)
    cloud, report = initial_points(scene, "sfm-all-views", seed=0)
    np.testing.assert_allclose(cloud.positions, positions, rtol=1e-6)
    assert "ALL views, test views included" in report


def test_points_in_other_coordinates_are_refused(tmp_path):
    positions, colors = colmap_points(40)
    write_colmap(tmp_path, poses(9), NAMES, points=(-positions, colors))
    write_pictures(tmp_path / "images", NAMES)
    scene = load_scene(str(tmp_path), downscale=1)
    with pytest.raises(DataError, match=r"only 0% .*not in the world coordinates of the poses"):
        initial_points(scene, "sfm-all-views", seed=0)


def test_capture_without_points_of_its_own(llff):
    with pytest.raises(DataError, match="no points of its own"):
        initial_points(llff, "sfm-all-views", seed=0)


def test_points_from_a_file(llff, tmp_path):
    rng = np.random.default_rng(0)
    positions, colors = rng.normal(size=(6, 3)).astype(np.float32), rng.uniform(size=(6, 3)).astype(np.float32)
    write_gaussians_ply(tmp_path / "start.ply", *gaussians_from_points(positions, colors))
    cloud, report = initial_points(llff, str(tmp_path / "start.ply"), seed=0)
    np.testing.assert_array_equal(cloud.positions, positions)
    np.testing.assert_allclose(cloud.colors, colors, atol=1e-6)
    assert "6 points from the file" in report
    with pytest.raises(DataError, match="there is no such file"):
        initial_points(llff, str(tmp_path / "none.ply"), seed=0)
    write_gaussians_ply(tmp_path / "few.ply", *gaussians_from_points(positions, colors)[:1], np.arange(6) < 3)
    with pytest.raises(DataError, match="gives 3 points, at least 4"):
        initial_points(llff, str(tmp_path / "few.ply"), seed=0)


def test_unknown_method(llff):
    with pytest.raises(DataError, match="unknown starting points 'magic'; choose one of auto, triangulated"):
        initial_points(llff, "magic", seed=0)
    with pytest.raises(DataError, match="at least 4 random points"):
        initial_points(llff, "random", seed=0, count=3)
