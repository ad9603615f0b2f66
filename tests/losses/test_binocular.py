"""Binocular consistency on planes whose disparity is known, and its gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.losses.binocular import BinocularOptions, binocular_loss, moved_back, shifted_camera
from ipsm_jax.scene.camera import Camera, look_at

WIDTH, HEIGHT, FOCAL = 40, 12, 30.0
loss_and_gradient = jax.jit(jax.value_and_grad(binocular_loss, argnums=(1, 2)))


def texture(x, y):
    """A smooth picture painted on the plane, three channels."""
    return np.stack([np.sin(1.5 * x + y), np.cos(1.5 * x), np.sin(x - 2 * y)], -1) * 0.4 + 0.5


def plane(shift=0.0, depth=3.0, slant=0.0):
    """Picture and camera z of the plane z = depth + slant x seen by a camera that is `shift` to the right of 0."""
    u, v = np.meshgrid((np.arange(WIDTH) + 0.5 - WIDTH / 2) / FOCAL, (np.arange(HEIGHT) + 0.5 - HEIGHT / 2) / FOCAL)
    z = (depth + slant * shift) / (1 - slant * u)
    return texture(u * z + shift, v * z).astype(np.float32), z.astype(np.float32)


@pytest.mark.parametrize("slant", [0.0, 0.5])
@pytest.mark.parametrize("shift", [-0.35, 0.2, 0.4])
def test_a_plane_seen_from_aside_comes_back_where_it_is_inside(shift, slant):
    photo, depth = plane(slant=slant)
    aside, _ = plane(shift, slant=slant)
    back, inside = moved_back(aside, depth, shift, FOCAL)
    inside = np.asarray(inside)
    columns = np.arange(WIDTH)[None] - FOCAL * shift / depth
    assert np.array_equal(inside, (columns >= 0) & (columns <= WIDTH - 1))
    assert 0.7 < inside.mean() < 1
    np.testing.assert_allclose(np.asarray(back)[inside], photo[inside], atol=6e-3)  # linear interpolation's error
    alpha = np.full(depth.shape, 0.8, np.float32)
    right, _ = loss_and_gradient(photo, aside, depth * alpha, alpha, shift, FOCAL)
    wrong, _ = loss_and_gradient(photo, aside, 1.3 * depth * alpha, alpha, shift, FOCAL)
    assert right < 4e-3 < 0.01 < wrong


def test_a_shift_moves_the_camera_along_its_own_axis():
    camera = Camera(jnp.asarray(look_at((1, 2, -4), (0, 0, 0))), jnp.array([FOCAL, FOCAL, 20.0, 6.0]), WIDTH, HEIGHT)
    moved = shifted_camera(camera, jnp.float32(0.3))
    rotation = np.asarray(camera.camera_from_world)[:3, :3]
    assert np.array_equal(rotation, np.asarray(moved.camera_from_world)[:3, :3])
    before, after = (-rotation.T @ np.asarray(c.camera_from_world)[:3, 3] for c in (camera, moved))
    np.testing.assert_allclose(after - before, 0.3 * rotation[0], atol=1e-6)


def test_gradients_equal_finite_differences_in_float64():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        photo, depth = plane()
        aside = jnp.asarray(plane(0.3)[0] + rng.uniform(0.05, 0.1, photo.shape))
        photo, depth, alpha = jnp.asarray(photo, jnp.float64), jnp.asarray(depth, jnp.float64), jnp.ones(depth.shape)

        def loss(scale, brightness):
            return binocular_loss(photo, brightness * aside, scale * depth, alpha, jnp.float64(0.3), jnp.float64(FOCAL))

        got = jax.grad(loss, argnums=(0, 1))(1.003, 1.0)
        step = 1e-6
        expected = [
            (loss(1.003 + step, 1.0) - loss(1.003 - step, 1.0)) / (2 * step),
            (loss(1.003, 1.0 + step) - loss(1.003, 1.0 - step)) / (2 * step),
        ]
        np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_what_is_transparent_or_outside_does_not_count():
    photo, depth = plane()
    alpha = np.full(depth.shape, 0.4, np.float32)
    value, (image_gradient, depth_gradient) = loss_and_gradient(photo, 0 * photo, depth, alpha, 0.1, FOCAL)
    assert float(value) == 0 and not np.any(image_gradient) and not np.any(depth_gradient)
    value, gradients = loss_and_gradient(photo, 0 * photo, 0 * depth, np.ones_like(alpha), 0.1, FOCAL)
    assert float(value) == 0 and all(np.isfinite(g).all() for g in gradients)


def test_it_begins_after_its_start():
    options = BinocularOptions(start=10)
    assert [bool(options.active(i)) for i in (10, 11)] == [False, True]
