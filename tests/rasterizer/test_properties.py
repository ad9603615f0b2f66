"""What must hold for any scene and any backend of `render`: symmetries, dead slots, batches, repeatability."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import make_view, relative_error
from scipy.spatial.transform import Rotation

from ipsm_jax.rasterizer import Rendering, render
from ipsm_jax.scene.camera import Camera, look_at

COUNT, WIDTH, HEIGHT = 24, 37, 21
VIEW = make_view(60, COUNT, WIDTH, HEIGHT)


def render_images(view, alive=None, sh_degree=3) -> Rendering:
    return render(
        view.gaussians,
        view.camera,
        alive=alive,
        background=view.background,
        sh_degree=sh_degree,
        mean2d_offset=view.mean2d_offset,
    )


def loss(view, alive=None, sh_degree=3):
    result = render_images(view, alive, sh_degree)
    return jnp.sum(jnp.sin(3 * result.color)) + jnp.sum(jnp.cos(result.depth)) + jnp.sum(result.alpha**2)


run = jax.jit(render_images)
run_gradient = jax.jit(jax.value_and_grad(loss))


def assert_equal(actual, expected):
    """The same pytree, bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_close(actual, expected, tolerance=1e-5):
    for (path, a), b in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        assert relative_error(a, b) < tolerance, jax.tree_util.keystr(path)


def reorder(view, order):
    return view._replace(
        gaussians=jax.tree.map(lambda a: a[order], view.gaussians), mean2d_offset=view.mean2d_offset[order]
    )


def moved(view, rotation_vector, translation):
    """Scene and camera moved together by world' = R world + t."""
    rotation = Rotation.from_rotvec(rotation_vector)
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = rotation.as_matrix(), translation
    g = view.gaussians
    turned = rotation * Rotation.from_quat(np.roll(np.asarray(g.quaternions, np.float64), -1, axis=1))
    gaussians = g._replace(
        means=jnp.asarray(np.asarray(g.means, np.float64) @ move[:3, :3].T + move[:3, 3], jnp.float32),
        quaternions=jnp.asarray(np.roll(turned.as_quat(), 1, axis=1), jnp.float32),
    )
    matrix = np.asarray(view.camera.camera_from_world, np.float64) @ np.linalg.inv(move)
    camera = dataclasses.replace(view.camera, camera_from_world=jnp.asarray(matrix, jnp.float32))
    return view._replace(gaussians=gaussians, camera=camera)


def camera_batch(count: int) -> Camera:
    matrices = np.stack([look_at([0.4 * k - 0.6, 0.1 * k, -0.3 * k], [0, 0, 4]) for k in range(count)])
    intrinsics = np.stack([[50 + 5 * k, 48 + 4 * k, 18, 11] for k in range(count)]).astype(np.float32)
    return Camera(jnp.asarray(matrices), jnp.asarray(intrinsics), WIDTH, HEIGHT)


def gaussian_batch(count: int):
    return jax.tree.map(
        lambda *a: jnp.stack(a), *(make_view(70 + k, COUNT, WIDTH, HEIGHT).gaussians for k in range(count))
    )


@given(st.permutations(range(COUNT)))
@settings(max_examples=20)
def test_order_of_slots_does_not_matter(order):
    order = np.array(order)
    expected, actual = run(VIEW), run(reorder(VIEW, order))
    assert_equal(actual._replace(radii=0), expected._replace(radii=0))
    assert_equal(actual.radii, expected.radii[order])
    gradient, permuted = run_gradient(VIEW)[1], run_gradient(reorder(VIEW, order))[1]
    assert_close(permuted, reorder(gradient, order))


coordinate = st.floats(-3, 3, width=32)


@given(st.tuples(coordinate, coordinate, coordinate), st.tuples(coordinate, coordinate, coordinate))
@settings(max_examples=20)
def test_camera_moved_with_the_scene_sees_the_same(rotation_vector, translation):
    # Degree 0: higher harmonics are fixed to the world's axes.
    expected, actual = run(VIEW, None, jnp.int32(0)), run(moved(VIEW, rotation_vector, translation), None, jnp.int32(0))
    assert_close(actual[:3], expected[:3], 1e-4)


def test_dead_slots_are_as_if_they_were_not_there():
    dead = np.zeros(COUNT, bool)
    dead[[0, 3, 4, 11, COUNT - 1]] = True
    nan_where_dead = jax.tree.map(
        lambda a: jnp.where(dead.reshape((-1,) + (1,) * (a.ndim - 1)), jnp.nan, a), VIEW.gaussians
    )
    poisoned = VIEW._replace(gaussians=nan_where_dead)
    expected = run(reorder(VIEW, np.flatnonzero(~dead)))
    actual = run(poisoned, ~dead)
    assert_equal(actual[:3], expected[:3])
    assert_equal(actual.radii[~dead], expected.radii)
    assert not actual.radii[dead].any()
    gradient = run_gradient(poisoned, ~dead)[1]
    assert_close(reorder(gradient, ~dead), run_gradient(reorder(VIEW, np.flatnonzero(~dead)))[1])
    for array in jax.tree.leaves((gradient.gaussians, gradient.mean2d_offset)):
        np.testing.assert_array_equal(array[dead], 0)


def test_same_input_same_bits_compiled_or_not():
    first = run_gradient(VIEW)
    assert_equal(run_gradient(VIEW), first)
    assert_equal(render_images(VIEW), run(VIEW))
    assert_equal(jax.jit(jax.grad(loss))(VIEW), first[1])


def test_batch_of_cameras_is_a_loop():
    cameras = camera_batch(3)
    batched = jax.vmap(lambda c: run(VIEW._replace(camera=c)))(cameras)
    gradients = jax.vmap(lambda c: jax.grad(loss)(VIEW._replace(camera=c)))(cameras)
    for k, camera in enumerate(cameras):
        assert_equal(jax.tree.map(lambda a, k=k: a[k], batched), run(VIEW._replace(camera=camera)))
        assert_close(jax.tree.map(lambda a, k=k: a[k], gradients), run_gradient(VIEW._replace(camera=camera))[1], 1e-6)


def test_batch_of_gaussian_sets_is_a_loop():
    sets = gaussian_batch(3)
    batched = jax.vmap(lambda g: run(VIEW._replace(gaussians=g)))(sets)
    values, gradients = jax.vmap(lambda g: run_gradient(VIEW._replace(gaussians=g)))(sets)
    for k in range(3):
        single = VIEW._replace(gaussians=jax.tree.map(lambda a, k=k: a[k], sets))
        assert_equal(jax.tree.map(lambda a, k=k: a[k], batched), run(single))
        value, gradient = run_gradient(single)
        np.testing.assert_allclose(values[k], value, rtol=1e-6)
        assert_close(jax.tree.map(lambda a, k=k: a[k], gradients), gradient, 1e-6)


def test_nested_batches_are_nested_loops():
    sets, cameras = gaussian_batch(2), camera_batch(3)

    def one(gaussians, camera):
        return render_images(VIEW._replace(gaussians=gaussians, camera=camera))

    batched = jax.jit(jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None)))(sets, cameras)
    assert batched.color.shape == (2, 3, HEIGHT, WIDTH, 3)
    for i in range(2):
        for k, camera in enumerate(cameras):
            single = VIEW._replace(gaussians=jax.tree.map(lambda a, i=i: a[i], sets), camera=camera)
            assert_equal(jax.tree.map(lambda a, i=i, k=k: a[i, k], batched), run(single))


def test_gradient_of_a_batch_is_the_sum_of_gradients():
    cameras = camera_batch(3)

    @jax.jit
    @jax.grad
    def gradient(view):
        return jnp.sum(jax.vmap(lambda c: loss(view._replace(camera=c)))(cameras))

    singles = [run_gradient(VIEW._replace(camera=c))[1] for c in cameras]
    total = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), singles)
    assert_close(gradient(VIEW)._replace(camera=0), total._replace(camera=0))


def test_batch_over_alive_background_degree_and_offset():
    alive = np.arange(COUNT)[None] % np.array([[2], [3]]) == 0
    degrees = jnp.array([1, 3])
    backgrounds = jnp.array([[0, 0, 0], [0.2, 0.4, 0.6]])
    offsets = jnp.stack([VIEW.mean2d_offset, 1 - VIEW.mean2d_offset])

    def one(alive, degree, background, offset):
        view = VIEW._replace(background=background, mean2d_offset=offset)
        return run(view, alive, degree), run_gradient(view, alive, degree)[1]

    images, gradients = jax.vmap(one)(jnp.asarray(alive), degrees, backgrounds, offsets)
    for k in range(2):
        image, gradient = one(alive[k], degrees[k], backgrounds[k], offsets[k])
        assert_equal(jax.tree.map(lambda a, k=k: a[k], images), image)
        assert_close(jax.tree.map(lambda a, k=k: a[k], gradients), gradient, 1e-6)


@pytest.mark.parametrize("degree", range(4))
def test_traced_degree_is_the_degree(degree):
    assert_equal(run(VIEW, None, jnp.int32(degree)), render_images(VIEW, None, degree))
    # Harmonics above the degree have no influence and no gradient.
    gradient = run_gradient(VIEW, None, jnp.int32(degree))[1].gaussians.sh_rest
    used = (degree + 1) ** 2 - 1
    np.testing.assert_array_equal(gradient[:, used:], 0)
    assert np.count_nonzero(gradient[:, :used]) > 0 or degree == 0


def test_offset_moves_the_picture():
    # A whole pixel to the right and down, everything else equal.
    shift = jnp.broadcast_to(jnp.array([[1.0, 1.0]]), VIEW.mean2d_offset.shape)
    expected = run(VIEW)
    actual = run(VIEW._replace(mean2d_offset=VIEW.mean2d_offset + shift))
    np.testing.assert_allclose(actual.color[1:, 1:], expected.color[:-1, :-1], atol=1e-4)
