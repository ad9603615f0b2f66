"""From the numbers that other libraries render to ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.rasterizer import render
from ipsm_jax.scene import Camera, camera_from_matrices, gaussians_from_activated
from ipsm_jax.scene.camera import look_at

COUNT = 12


def activated(harmonics: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "means": rng.normal(size=(COUNT, 3)),
        "quaternions": rng.normal(size=(COUNT, 4)),
        "scales": rng.uniform(0.01, 2, size=(COUNT, 3)),
        "opacities": rng.uniform(size=COUNT),
        "colors": rng.normal(size=(COUNT, harmonics, 3)),
    }


@pytest.mark.parametrize("harmonics", [1, 4, 9, 16])
def test_activations_undo_the_conversion(harmonics):
    given = activated(harmonics)
    gaussians = gaussians_from_activated(**given)
    assert all(a.dtype == jnp.float32 for a in gaussians)
    np.testing.assert_allclose(gaussians.means, given["means"], rtol=1e-6)
    np.testing.assert_allclose(gaussians.quaternions, given["quaternions"], rtol=1e-6)
    np.testing.assert_allclose(np.exp(gaussians.log_scales), given["scales"], rtol=1e-5)
    np.testing.assert_allclose(jax.nn.sigmoid(gaussians.opacity_logits), given["opacities"], rtol=1e-5)
    np.testing.assert_allclose(gaussians.sh_dc, given["colors"][:, 0], rtol=1e-6)
    np.testing.assert_allclose(gaussians.sh_rest[:, : harmonics - 1], given["colors"][:, 1:], rtol=1e-6)
    np.testing.assert_array_equal(gaussians.sh_rest[:, harmonics - 1 :], 0)


def test_plain_colors_are_the_colors_drawn():
    given = activated() | {"colors": np.tile([0.1, 0.5, 0.9], (COUNT, 1)), "opacities": np.full((COUNT, 1), 1.0)}
    pose = look_at((0, 0, -6), (0, 0, 0))
    k = np.array([[40.0, 0, 16], [0, 40.0, 12], [0, 0, 1]])
    rendering = render(gaussians_from_activated(**given), camera_from_matrices(pose, k, 32, 24))
    assert rendering.alpha.max() > 0.98
    np.testing.assert_allclose(rendering.color, rendering.alpha[..., None] * np.array([[[0.1, 0.5, 0.9]]]), atol=1e-5)


def test_opacities_at_the_ends_stay_finite():
    gaussians = gaussians_from_activated(**activated() | {"opacities": np.arange(COUNT) % 2})
    assert np.isfinite(gaussians.opacity_logits).all()
    np.testing.assert_allclose(jax.nn.sigmoid(gaussians.opacity_logits), np.arange(COUNT) % 2, atol=2e-6)


def test_none_at_all():
    empty = {name: array[:0] for name, array in activated().items()}
    assert gaussians_from_activated(**empty).capacity == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scales": np.zeros((COUNT, 3))}, "greater than 0, found 0.0; logarithms"),
        ({"opacities": np.full(COUNT, -3.0)}, r"in \[0, 1\], found -3.0 to -3.0; logits"),
        ({"quaternions": np.zeros((COUNT, 4))}, "quaternion is zero"),
        ({"means": np.full((COUNT, 3), np.nan)}, "36 numbers in means are NaN or infinite"),
        ({"scales": np.ones(COUNT)}, r"scales has shape \(12,\), want \(12, 3\)"),
        ({"colors": np.ones((COUNT, 5, 3))}, r"colors has shape \(12, 5, 3\).*features"),
        ({"colors": np.ones((COUNT, 8))}, r"colors has shape \(12, 8\).*features"),
        ({"means": np.ones(3)}, r"means has shape \(3,\), want \(3, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        gaussians_from_activated(**activated() | wrong)


def test_camera_matrices():
    pose = np.stack([look_at((0, 0, -4), (0, 0, 0)), look_at((1, 0, -4), (0, 0, 0))])
    k = np.array([[50.0, 0, 31], [0, 52.0, 24], [0, 0, 1]])
    cameras = camera_from_matrices(pose, np.stack([k, 2 * k - np.diag([0, 0, 1])]), 64, 48)
    assert isinstance(cameras, Camera) and (cameras.width, cameras.height) == (64, 48)
    np.testing.assert_array_equal(cameras.intrinsics, [[50, 52, 31, 24], [100, 104, 62, 48]])
    np.testing.assert_array_equal(cameras.camera_from_world, pose)
    # A point projects as K [R t] says.
    point = np.array([0.3, -0.2, 0.5, 1.0])
    x, y, z = k @ (pose[1] @ point)[:3]
    fx, fy, cx, cy = cameras.intrinsics[0]
    cam = pose[1] @ point
    np.testing.assert_allclose([fx * cam[0] / cam[2] + cx, fy * cam[1] / cam[2] + cy], [x / z, y / z], rtol=1e-5)


@pytest.mark.parametrize(
    ("pose", "k", "message"),
    [
        (np.eye(3), np.eye(3), r"got \(3, 3\) and \(3, 3\)"),
        (np.eye(4)[None], np.eye(3), r"got \(1, 4, 4\) and \(3, 3\)"),
        (np.eye(4), np.array([[50, 1, 30], [0, 50, 20], [0, 0, 1.0]]), "no skew"),
        (np.eye(4), np.array([[50, 0, 30], [0, 50, 20], [0, 0, 1.0]]).T, "not transposed"),
    ],
)
def test_wrong_camera_matrices_are_refused(pose, k, message):
    with pytest.raises(ValueError, match=message):
        camera_from_matrices(pose, k, 64, 48)
