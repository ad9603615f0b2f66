"""Camera conventions, rigid inverses and batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from ipsm_jax.scene.camera import Camera, invert_rigid, look_at

vectors = arrays(np.float64, 3, elements=st.floats(-10, 10, width=32))


def rigid(rotation_vector, translation) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rotation_vector).as_matrix()
    matrix[:3, 3] = translation
    return matrix


@given(vectors, vectors)
def test_rigid_transform_composed_with_its_inverse_is_identity(rotation_vector, translation):
    matrix = rigid(rotation_vector, translation).astype(np.float32)
    np.testing.assert_allclose(invert_rigid(matrix) @ matrix, np.eye(4), atol=2e-5)


@given(vectors, vectors)
def test_center_is_the_point_that_the_camera_maps_to_zero(rotation_vector, translation):
    matrix = rigid(rotation_vector, translation).astype(np.float32)
    center = Camera(matrix, np.ones(4, np.float32), 4, 3).center
    np.testing.assert_allclose(matrix[:3, :3] @ center + matrix[:3, 3], np.zeros(3), atol=5e-5)


@given(vectors, vectors, vectors)
def test_look_at_puts_the_target_on_the_optical_axis_with_up_upwards(position, target, up):
    forward = target - position
    assume(np.linalg.norm(forward) > 1e-2)
    assume(np.linalg.norm(np.cross(forward, up)) > 1e-2 * np.linalg.norm(forward))
    matrix = look_at(position, target, up)
    rotation = matrix[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(rotation @ target + matrix[:3, 3], [0, 0, np.linalg.norm(forward)], atol=1e-4)
    assert (rotation @ up)[1] < 0  # y points down in the image
    assert abs((rotation @ up)[0]) < 1e-4 * np.linalg.norm(up)


def test_default_look_at_is_the_identity():
    np.testing.assert_allclose(look_at([0, 0, 0], [0, 0, 1]), np.eye(4), atol=1e-7)


def test_look_at_refuses_what_has_no_answer():
    with pytest.raises(ValueError, match="same point"):
        look_at([1, 2, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="parallel"):
        look_at([0, 0, 0], [0, 5, 0], [0, -1, 0])


@pytest.mark.parametrize("module", [np, jnp])
def test_batch_indexing_and_iteration(module):
    matrices = module.stack([module.asarray(rigid([0, 0, k], [k, 0, 0]), module.float32) for k in range(3)])
    cameras = Camera(matrices, module.ones((3, 4), module.float32), 6, 5)
    assert cameras.center.shape == (3, 3)
    single = cameras[1]
    assert single.camera_from_world.shape == (4, 4) and (single.width, single.height) == (6, 5)
    listed = list(cameras)
    assert len(listed) == 3
    np.testing.assert_array_equal(listed[2].camera_from_world, matrices[2])
    assert cameras[module.asarray([0, 2])].intrinsics.shape == (2, 4)
    with pytest.raises(TypeError, match="single camera"):
        single[0]
    with pytest.raises(TypeError, match="single camera"):
        iter(single)


def test_camera_is_a_pytree_with_static_size():
    camera = Camera(jnp.eye(4), jnp.ones(4), 6, 5)
    leaves, structure = jax.tree.flatten(camera)
    assert len(leaves) == 2
    assert structure != jax.tree.structure(Camera(jnp.eye(4), jnp.ones(4), 6, 4))
    assert jax.jit(lambda c: c.center * c.width)(camera).shape == (3,)
