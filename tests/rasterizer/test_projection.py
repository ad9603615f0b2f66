"""Projection against closed forms, numerical Jacobians, brute-force pixel boxes and float64 finite differences."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes import (
    check_gradient,
    concatenate,
    identity_camera,
    make_camera,
    make_gaussians,
    make_view,
    quick_jit,
    single_gaussian,
)
from scipy.spatial.transform import Rotation

from ipsm_jax.rasterizer.projection import project, rotation_matrices

FOOTPRINTS = ("exact", "3sigma")


compiled_project = quick_jit(project, static_argnames="footprint")


def project_all(gaussians, camera, *, alive=None, footprint="exact", sh_degree=3, offset=None):
    count = gaussians.capacity
    alive = jnp.ones(count, bool) if alive is None else jnp.asarray(alive)
    offset = jnp.zeros((count, 2), gaussians.means.dtype) if offset is None else jnp.asarray(offset)
    return compiled_project(gaussians, camera, alive, jnp.int32(sh_degree), offset, footprint=footprint)


def covariances(projected) -> np.ndarray:
    a, b, c = np.asarray(projected.conics, np.float64).T
    return np.linalg.inv(np.stack([np.stack([a, b], -1), np.stack([b, c], -1)], -2))


def test_gaussian_on_the_axis_has_a_diagonal_covariance():
    camera = identity_camera(40, 40, focal=50.0)
    projected = project_all(single_gaussian([0, 0, 5], scale=[0.2, 0.1, 0.7], logit=0.4, dc=(1.0, 0, -3)), camera)
    variances = np.array([(50 * 0.2 / 5) ** 2 + 0.3, (50 * 0.1 / 5) ** 2 + 0.3])
    np.testing.assert_allclose(projected.means2d, [[20, 20]])
    np.testing.assert_allclose(projected.conics, [[1 / variances[0], 0, 1 / variances[1]]], rtol=1e-6)
    np.testing.assert_allclose(projected.depths, [5])
    np.testing.assert_allclose(projected.opacities, [1 / (1 + math.exp(-0.4))], rtol=1e-6)
    np.testing.assert_allclose(projected.colors, [[0.5 + 0.28209479, 0.5, 0]], rtol=1e-6)
    assert projected.radii.tolist() == [math.ceil(3 * math.sqrt(variances[0]))]


def test_quarter_turn_swaps_the_axes_and_quaternion_length_is_free():
    camera = identity_camera(40, 40, focal=50.0)
    turn = np.array([1, 0, 0, 1])  # 90 degrees about z
    straight = project_all(single_gaussian([0, 0, 5], scale=[0.2, 0.1, 0.3]), camera)
    turned = project_all(single_gaussian([0, 0, 5], scale=[0.1, 0.2, 0.3], quaternion=7.5 * turn), camera)
    np.testing.assert_allclose(turned.conics, straight.conics, atol=1e-6)


def test_rotation_matrices_are_those_of_scipy():
    quaternions = np.random.default_rng(0).normal(size=(20, 4))
    expected = Rotation.from_quat(np.roll(quaternions, -1, axis=1)).as_matrix()
    np.testing.assert_allclose(rotation_matrices(jnp.asarray(quaternions, jnp.float32)), expected, atol=1e-6)


def test_covariance_uses_the_jacobian_of_the_projection():
    with jax.enable_x64(True):
        gaussians, camera = make_gaussians(0, 12, dtype=jnp.float64), make_camera(40, 40, 40.0, jnp.float64)
        projected = project_all(gaussians, camera)
        matrix, (fx, fy, cx, cy) = np.asarray(camera.camera_from_world), np.asarray(camera.intrinsics)

        def pixel(point):
            x, y, z = matrix[:3, :3] @ point + matrix[:3, 3]
            return np.array([fx * x / z + cx, fy * y / z + cy])

        seen = 0
        for i in np.flatnonzero(projected.radii):
            mean = np.asarray(gaussians.means[i])
            if np.any(np.abs(pixel(mean) - [cx, cy]) > 1.3 * 20):
                continue  # here the Jacobian is not the projection's; see the next test
            steps = 1e-5 * np.eye(3)
            jacobian = np.stack([(pixel(mean + e) - pixel(mean - e)) / 2e-5 for e in steps], axis=1)
            axes = Rotation.from_quat(np.roll(gaussians.quaternions[i], -1)).as_matrix() * np.exp(
                gaussians.log_scales[i]
            )
            expected = jacobian @ axes @ axes.T @ jacobian.T + 0.3 * np.eye(2)
            np.testing.assert_allclose(covariances(projected)[i], expected, rtol=1e-6)
            np.testing.assert_allclose(projected.means2d[i], pixel(mean), rtol=1e-12)
            seen += 1
        assert seen >= 8


def test_jacobian_is_evaluated_at_the_clamped_ratio():
    # x/z = 1 is beyond 1.3 * tan(fov/2) = 1.3 * 20/40 = 0.65, so the spread seen is the one at ratio 0.65.
    camera = identity_camera(40, 40, focal=40.0)
    projected = project_all(single_gaussian([4.0, 0, 4.0], scale=1.0, logit=3), camera)
    expected_xx = (40 / 4) ** 2 * (1 + 0.65**2) + 0.3
    np.testing.assert_allclose(covariances(projected)[0], np.diag([expected_xx, 100.3]), rtol=1e-5)
    np.testing.assert_allclose(projected.means2d, [[60, 20]])


def weigh(projected):
    """A number that depends on all that is differentiable."""
    rng = np.random.default_rng(0)
    return sum(jnp.sum(a * jnp.asarray(rng.normal(size=a.shape), a.dtype)) for a in projected[:5])


def test_gradients_of_every_input_are_those_of_finite_differences():
    with jax.enable_x64(True):
        view = make_view(1, 6, 40, 40, dtype=jnp.float64)
        alive = jnp.ones(6, bool)
        assert np.all(project_all(view.gaussians, view.camera, offset=view.mean2d_offset).radii > 0)

        def loss(inputs):
            gaussians, camera, offset = inputs
            return weigh(project(gaussians, camera, alive, 3, offset, "exact"))

        gradient = check_gradient(loss, (view.gaussians, view.camera, view.mean2d_offset))
        assert np.count_nonzero(gradient) > 0.8 * gradient.size


def test_gradients_in_the_clamped_region():
    with jax.enable_x64(True):
        gaussians = single_gaussian(
            [3.0, -2.9, 4.0], scale=[0.9, 0.6, 0.4], logit=3, quaternion=[0.3, 0.5, -0.2, 0.9], dtype=jnp.float64
        )
        camera = identity_camera(40, 40, 40.0, jnp.float64)
        offset, alive = jnp.zeros((1, 2), jnp.float64), jnp.ones(1, bool)

        # The limit is constant, so means and extrinsics still agree with finite differences ...
        def loss(inputs):
            gaussians, matrix = inputs
            moved = dataclasses.replace(camera, camera_from_world=matrix)
            return weigh(project(gaussians, moved, alive, 3, offset, "exact"))

        check_gradient(loss, (gaussians, camera.camera_from_world))

        # ... and the covariance is quadratic in the focal length, as if the limit did not depend on it.
        @quick_jit
        @jax.value_and_grad
        def covariance_xx(focal):
            zoomed = dataclasses.replace(camera, intrinsics=camera.intrinsics.at[0].set(focal))
            a, b, c = project(gaussians, zoomed, alive, 3, offset, "exact").conics[0]
            return c / (a * c - b * b)

        value, slope = covariance_xx(camera.intrinsics[0])
        np.testing.assert_allclose(slope, 2 * (value - 0.3) / camera.intrinsics[0], rtol=1e-10)


INVISIBLE = {
    "behind": single_gaussian([0, 0, -3.0]),
    "on the near plane": single_gaussian([0, 0, 0.2]),
    "at the camera center": single_gaussian([0, 0, 0]),
    "left of the image": single_gaussian([-30, 0, 4.0]),
    "below the image": single_gaussian([0, 30, 4.0]),
    "too transparent": single_gaussian([0, 0, 4.0], logit=-5.6),
    "NaN mean": single_gaussian([np.nan, 0, 4.0]),
    "infinite mean": single_gaussian([np.inf, 0, 4.0]),
    "infinite scale": single_gaussian([0, 0, 4.0], scale=np.inf),
    "zero quaternion": single_gaussian([0, 0, 4.0], quaternion=[0, 0, 0, 0]),
    "NaN opacity": single_gaussian([0, 0, 4.0], logit=np.nan),
}


@pytest.mark.parametrize("footprint", FOOTPRINTS)
def test_invisible_gaussians_have_zeros_and_zero_gradients(footprint):
    camera = identity_camera(40, 40, 40.0)
    poison = single_gaussian([np.nan, np.inf, -np.inf], scale=np.nan, logit=np.nan, dc=(np.nan, np.inf, 0))
    poison = poison._replace(sh_rest=poison.sh_rest + jnp.nan, quaternions=poison.quaternions * jnp.inf)
    gaussians = concatenate(*INVISIBLE.values(), poison, single_gaussian([0, 0, 4.0]))
    alive = jnp.arange(gaussians.capacity) != len(INVISIBLE)
    projected = project_all(gaussians, camera, alive=alive, footprint=footprint)
    unseen = dict(zip(INVISIBLE, projected.radii.tolist(), strict=False))
    assert unseen == dict.fromkeys(INVISIBLE, 0)
    assert projected.radii[-2] == 0 and projected.radii[-1] > 0
    for array in projected:
        np.testing.assert_array_equal(array[:-1], 0)

    @quick_jit
    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def gradient(gaussians, camera, offset, alive):
        return weigh(jax.tree.map(jnp.cos, project(gaussians, camera, alive, 3, offset, footprint)))

    offset = jnp.zeros((gaussians.capacity, 2))
    gradients, camera_gradient, offset_gradient = gradient(gaussians, camera, offset, alive)
    for array in (*gradients, offset_gradient):
        np.testing.assert_array_equal(array[:-1], 0)
        assert np.isfinite(array).all()
    # The camera gets what the one visible Gaussian gives it, among slots that are dead and harmless.
    harmless = jax.tree.map(lambda a: jnp.broadcast_to(a[-1:], a.shape), gaussians)
    expected = gradient(harmless, camera, offset, jnp.arange(alive.size) == alive.size - 1)[1]
    assert jnp.any(expected.camera_from_world != 0)
    np.testing.assert_allclose(camera_gradient.camera_from_world, expected.camera_from_world, rtol=1e-6)
    np.testing.assert_allclose(camera_gradient.intrinsics, expected.intrinsics, rtol=1e-6)


def test_thin_gaussians_keep_a_positive_determinant():
    # Needles seen at 45 degrees: xx yy - xy^2 cancels completely in float32.
    needle = single_gaussian([0, 0, 4.0], scale=[300.0, 1e-6, 1e-6], quaternion=[math.cos(0.4), 0, 0, math.sin(0.4)])
    camera = identity_camera(40, 40, 40.0)
    single = project_all(needle, camera)
    with jax.enable_x64(True):
        double = project_all(jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), needle), camera)
    assert single.radii[0] > 0
    np.testing.assert_allclose(single.conics, double.conics, rtol=1e-3)


def test_exact_boxes_are_the_tightest_rectangles_of_pixels_that_can_reach_the_threshold():
    gaussians = make_gaussians(5, 60, size=0.15)
    camera = make_camera(45, 37, 50.0)
    # Put some means exactly on pixel centers and on tile edges.
    offset = np.zeros((60, 2), np.float32)
    means2d = np.asarray(project_all(gaussians, camera).means2d)
    offset[:10] = np.round(means2d[:10] / 16) * 16 - means2d[:10]
    offset[10:20] = np.floor(means2d[10:20]) + 0.5 - means2d[10:20]
    projected = project_all(gaussians, camera, offset=offset)
    covariance = covariances(projected)
    checked = 0
    for i in np.flatnonzero(projected.radii):
        reach = math.sqrt(2 * math.log(255 * float(projected.opacities[i])))
        for axis, size in enumerate((45, 37)):
            extent = reach * math.sqrt(covariance[i, axis, axis])
            mean = float(projected.means2d[i, axis])
            inside = np.flatnonzero(np.abs(np.arange(size) + 0.5 - mean) <= extent)
            low, high = projected.boxes[i, axis], projected.boxes[i, axis + 2]
            assert (low, high) == (inside[0], inside[-1] + 1)
            checked += 1
    assert checked >= 60


def test_original_boxes_are_whole_tiles_around_three_sigma():
    gaussians, camera = make_gaussians(6, 60, size=0.15), make_camera(45, 37, 50.0)
    projected = project_all(gaussians, camera, footprint="3sigma")
    exact = project_all(gaussians, camera, footprint="exact")
    seen = np.flatnonzero(projected.radii)
    assert len(seen) >= 30
    for i in seen:
        for axis, size in enumerate((45, 37)):
            center, radius, grid = float(projected.means2d[i, axis]) - 0.5, int(projected.radii[i]), -(-size // 16)
            first = min(grid, max(0, int((center - radius) / 16)))
            end = min(grid, max(0, int((center + radius + 15) / 16)))
            assert (projected.boxes[i, axis], projected.boxes[i, axis + 2]) == (16 * first, min(16 * end, size))
    both = np.asarray((projected.radii > 0) & (exact.radii > 0))
    np.testing.assert_array_equal(np.asarray(projected.radii)[both], np.asarray(exact.radii)[both])


def test_colors_follow_the_direction_from_the_camera_center():
    gaussians = single_gaussian([0, 0, 4.0])._replace(sh_rest=jnp.zeros((1, 15, 3)).at[0, 1].set(1.0))  # C1 z
    camera = identity_camera(40, 40, 40.0)
    np.testing.assert_allclose(project_all(gaussians, camera).colors, 0.5 + 0.48860251, rtol=1e-6)
    np.testing.assert_allclose(project_all(gaussians, camera, sh_degree=0).colors, 0.5, rtol=1e-6)


def test_wrong_arguments_are_refused():
    camera = identity_camera(8, 8, 10.0)
    with pytest.raises(ValueError, match="exact, 3sigma, got 'square'"):
        project_all(single_gaussian([0, 0, 4.0]), camera, footprint="square")
    batch = dataclasses.replace(camera, camera_from_world=jnp.eye(4)[None], intrinsics=camera.intrinsics[None])
    with pytest.raises(ValueError, match=r"use jax.vmap"):
        project_all(single_gaussian([0, 0, 4.0]), batch)
