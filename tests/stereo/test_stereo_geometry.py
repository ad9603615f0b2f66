"""Where pixels land in another view, against projecting points one camera after the other in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from textured_planes import LENSES, MATRICES, camera_batch, reprojected

from ipsm_jax.scene.camera import look_at
from ipsm_jax.stereo.geometry import halved, pair, pixel_centers, project, rays


def test_pixels_land_where_their_points_do_with_any_lens_and_roll():
    cameras = camera_batch(MATRICES, LENSES)
    u, v = (np.asarray(a, np.float64) for a in pixel_centers(cameras.width, cameras.height))
    depth = np.random.default_rng(0).uniform(2, 9, u.shape)
    x, y, z = reprojected(cameras, u, v, depth)
    inverse = jnp.asarray(1 / depth, jnp.float32)
    at = project(pair(cameras[0], cameras[1]), jnp.asarray(u), jnp.asarray(v), inverse, cameras.height, cameras.width)
    np.testing.assert_allclose(at.x, x, atol=2e-3)
    np.testing.assert_allclose(at.y, y, atol=2e-3)
    np.testing.assert_allclose(at.depth * depth, z, rtol=1e-4)
    expected = (x >= 0) & (x <= cameras.width) & (y >= 0) & (y <= cameras.height)
    assert 0.1 < expected.mean() < 0.95
    assert np.mean(np.asarray(at.visible) == expected) > 0.999  # float32 at the border


def test_on_a_plane_the_mapping_is_a_homography():
    """H = K_s (R + t n^T / d) K_r^-1 for the plane n . X = d of the reference, inverse depth n . ray / d."""
    cameras = camera_batch(MATRICES, LENSES)
    normal, offset = np.array([0.3, -0.2, 1.0]), 5.0
    first, second = np.asarray(cameras.camera_from_world, np.float64)
    relative = second @ np.linalg.inv(first)
    k = [np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]) for fx, fy, cx, cy in LENSES]
    matrix = k[1] @ (relative[:3, :3] + np.outer(relative[:3, 3], normal) / offset) @ np.linalg.inv(k[0])
    u, v = pixel_centers(cameras.width, cameras.height)
    expected = np.stack([u, v, np.ones_like(u)], axis=-1) @ matrix.T
    ray_x, ray_y = rays(cameras[0])
    inverse_depth = (normal[0] * ray_x + normal[1] * ray_y + normal[2]) / offset
    at = project(pair(cameras[0], cameras[1]), u, v, inverse_depth, cameras.height, cameras.width)
    np.testing.assert_allclose(at.x, expected[..., 0] / expected[..., 2], atol=2e-3)
    np.testing.assert_allclose(at.y, expected[..., 1] / expected[..., 2], atol=2e-3)


def test_what_lies_behind_a_camera_is_not_visible():
    cameras = camera_batch(np.stack([look_at((0, 0, 0), (0, 0, 1)), look_at((0, 0, 3), (0, 0, 4))]))
    u, v = pixel_centers(cameras.width, cameras.height)
    for depth, visible in ((2.0, False), (8.0, True)):
        inverse = jnp.full_like(u, 1 / depth)
        at = project(pair(cameras[0], cameras[1]), u, v, inverse, cameras.height, cameras.width)
        assert bool(at.visible[36, 48]) is visible
        assert np.all(np.isfinite(at.x))


def test_pairs_come_in_batches_and_differentiate():
    cameras = camera_batch(MATRICES, LENSES)
    batch = jax.jit(pair)(cameras[0], cameras)
    for i in range(2):
        single = pair(cameras[0], cameras[i])
        np.testing.assert_allclose(batch.infinite[i], single.infinite, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(batch.epipole[i], single.epipole, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(batch.infinite[0], np.eye(3), atol=1e-4)  # a view and itself
    relation = pair(cameras[0], cameras[1])

    def x_of(inverse_depth):
        one = jnp.full((1, 1), 20.5)
        return project(relation, one, one, jnp.full((1, 1), inverse_depth), 72, 96).x[0, 0]

    difference = (x_of(0.2 + 1e-3) - x_of(0.2 - 1e-3)) / 2e-3
    assert jax.grad(x_of)(0.2) == pytest.approx(float(difference), rel=1e-2)


def test_halving_halves_pixel_coordinates():
    camera = camera_batch(MATRICES, LENSES, width=95, height=71)[0]
    half = halved(camera)
    assert (half.width, half.height) == (48, 36)
    np.testing.assert_array_equal(half.intrinsics, camera.intrinsics / 2)
