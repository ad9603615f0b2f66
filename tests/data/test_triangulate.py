"""Known-pose triangulation on photos of a textured plane, whose points must lie on that plane."""

import numpy as np
import pytest
from captures import poses_bounds
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from ipsm_jax.data.load import load_scene
from ipsm_jax.data.points import initial_points
from ipsm_jax.data.triangulate import training_photos, triangulate_scene, triangulated_points
from ipsm_jax.scene.camera import look_at

pytest.importorskip("pycolmap", reason="triangulation needs pycolmap (extra sfm)")

WIDTH, HEIGHT, FOCAL = 200, 150, 180.0
DEPTH = 4.0  # the plane z = 4


def photo(matrix, texture):
    """Picture of the plane z = DEPTH, textured over [-3, 3]^2, seen from `matrix`."""
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    rays = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, np.ones_like(u)], axis=-1)
    directions = rays @ matrix[:3, :3]
    center = -matrix[:3, :3].T @ matrix[:3, 3]
    hit = center + directions * ((DEPTH - center[2]) / directions[..., 2])[..., None]
    rows, columns = (hit[..., 1] + 3) / 6 * len(texture), (hit[..., 0] + 3) / 6 * len(texture)
    channels = [map_coordinates(texture[..., c], [rows, columns], order=1, mode="nearest") for c in range(3)]
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


@pytest.fixture
def plane(tmp_path):
    root = tmp_path / "plane"
    rng = np.random.default_rng(0)
    texture = np.stack([gaussian_filter(rng.normal(size=(700, 700)), 2.5) for _ in range(3)], axis=-1)
    texture = 127 + 60 * texture / texture.std()
    matrices = np.stack(
        [look_at((x, 0.1 * i, 0.05 * i), (0, 0, DEPTH)) for i, x in enumerate(np.linspace(-0.6, 0.6, 6))]
    )
    (root / "images").mkdir(parents=True)
    for i, matrix in enumerate(matrices.astype(np.float64)):
        Image.fromarray(photo(matrix, texture)).save(root / "images" / f"{i}.png")
    np.save(root / "poses_bounds.npy", poses_bounds(matrices, width=WIDTH, height=HEIGHT, focal=FOCAL))
    return root


@pytest.fixture
def scene(plane, tmp_path, monkeypatch):
    monkeypatch.setenv("IPSM_JAX_CACHE", str(tmp_path / "cache"))
    return load_scene(str(plane), downscale=1)


def test_points_lie_on_the_plane_and_have_its_colors(scene, tmp_path, plane):
    cloud, counts = triangulate_scene(scene)
    assert len(cloud.positions) >= 50
    assert (counts <= len(cloud.positions)).all() and (counts > 20).all() and counts.sum() >= 2 * len(cloud.positions)
    error = np.abs(cloud.positions[:, 2] - DEPTH)
    assert np.median(error) < 0.01 * DEPTH
    assert np.mean(error < 0.05 * DEPTH) > 0.9
    view = scene.train[0]
    matrix, (fx, fy, cx, cy) = scene.cameras.camera_from_world[view], scene.cameras.intrinsics[view]
    x, y, z = (cloud.positions @ matrix[:3, :3].T + matrix[:3, 3]).T
    u, v = (fx * x / z + cx).astype(int), (fy * y / z + cy).astype(int)
    seen = (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)
    pixels = scene.images[view, v[seen], u[seen]] / 255
    assert np.mean(np.abs(pixels - cloud.colors[seen])) < 0.05

    # The same again: from the cache, then computed anew because the cached file is damaged, and with every photo that
    # is not a training view made unreadable.
    kept = list((tmp_path / "cache" / "triangulated").iterdir())
    assert len(kept) == 1
    np.testing.assert_array_equal(triangulated_points(scene).positions, cloud.positions)
    np.testing.assert_array_equal(triangulate_scene(scene).seen, counts)
    for view in set(range(6)) - set(scene.train):
        (plane / "images" / f"{view}.png").write_bytes(b"unreadable")
    kept[0].write_bytes(b"damaged")
    again, report = initial_points(scene, "triangulated", seed=7)
    np.testing.assert_array_equal(again.positions, cloud.positions)
    np.testing.assert_array_equal(again.colors, cloud.colors)
    assert f"{len(cloud.positions)} points triangulated from the training views alone" in report


def test_a_photo_of_another_place_shares_no_points(plane, tmp_path, monkeypatch):
    monkeypatch.setenv("IPSM_JAX_CACHE", str(tmp_path / "cache"))
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(noise).save(plane / "images" / "3.png")
    scene = load_scene(str(plane), downscale=1)
    assert scene.names[scene.train[1]] == "3.png"
    assert triangulate_scene(scene).seen[1] == 0
    assert "Warning: 3.png shares next to none" in initial_points(scene, "triangulated", seed=0)[1]


def test_photos_are_the_training_views_at_most_1008_pixels_long(scene):
    images, cameras = training_photos(scene)
    np.testing.assert_array_equal(images, scene.images[list(scene.train)])
    np.testing.assert_array_equal(cameras.intrinsics, scene.cameras.intrinsics[list(scene.train)])
    np.testing.assert_array_equal(cameras.camera_from_world, scene.cameras.camera_from_world[list(scene.train)])
