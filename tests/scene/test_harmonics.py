"""Spherical harmonics against quadrature, associated Legendre functions and the published constants."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import lpmv

from ipsm_jax.scene.harmonics import evaluate_harmonics, harmonic_basis, harmonics_to_color

BANDS = [(l, m) for l in range(4) for m in range(-l, l + 1)]


def random_directions(count: int) -> np.ndarray:
    directions = np.random.default_rng(0).normal(size=(count, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def legendre_basis(directions: np.ndarray) -> np.ndarray:
    """Textbook real harmonics with the Condon-Shortley sign, the convention that 3DGS coefficients are in."""
    azimuth = np.arctan2(directions[:, 1], directions[:, 0])
    columns = []
    for l, m in BANDS:
        k = abs(m)
        norm = math.sqrt((2 * l + 1) / (4 * math.pi) * math.factorial(l - k) / math.factorial(l + k))
        angular = np.ones_like(azimuth) if m == 0 else math.sqrt(2) * (np.cos if m > 0 else np.sin)(k * azimuth)
        columns.append(norm * lpmv(k, l, directions[:, 2]) * angular)
    return np.stack(columns, axis=1)


def test_basis_equals_legendre_functions_signs_included():
    directions = random_directions(50)
    with jax.enable_x64(True):
        basis = harmonic_basis(jnp.asarray(directions))
    np.testing.assert_allclose(basis, legendre_basis(directions), atol=1e-13)


def test_constants_are_the_published_ones():
    # Each entry isolates one constant of the original tables by the choice of direction.
    along = harmonic_basis(jnp.eye(3))
    np.testing.assert_allclose(along[:, 0], 0.28209479, rtol=1e-6)
    assert np.isclose(along[1, 1], -0.48860251) and np.isclose(along[2, 2], 0.48860251)
    assert np.isclose(along[0, 3], -0.48860251)
    assert np.isclose(along[2, 6], 2 * 0.31539157) and np.isclose(along[0, 8], 0.54627421)
    assert np.isclose(along[2, 12], 2 * 0.37317633) and np.isclose(along[0, 15], -0.59004359)


def test_basis_is_orthonormal_on_the_sphere():
    # Gauss-Legendre in z and equal steps in azimuth integrate products of degree 3 exactly.
    z, weight = np.polynomial.legendre.leggauss(8)
    azimuth = np.arange(16) * 2 * np.pi / 16
    zz, aa = np.meshgrid(z, azimuth, indexing="ij")
    ring = np.sqrt(1 - zz**2)
    directions = np.stack([ring * np.cos(aa), ring * np.sin(aa), zz], axis=-1).reshape(-1, 3)
    weights = np.repeat(weight * 2 * np.pi / 16, 16)
    with jax.enable_x64(True):
        basis = np.asarray(harmonic_basis(jnp.asarray(directions)))
    np.testing.assert_allclose(basis.T @ (basis * weights[:, None]), np.eye(16), atol=1e-13)


@pytest.mark.parametrize("degree", range(4))
def test_degree_cuts_the_sum_traced_or_not(degree):
    rng = np.random.default_rng(degree)
    directions = random_directions(20).astype(np.float32)
    coefficients = rng.normal(size=(20, 16, 3)).astype(np.float32)
    used = (degree + 1) ** 2
    expected = np.einsum("nk,nkc->nc", legendre_basis(directions)[:, :used], coefficients[:, :used])
    # Coefficients above the degree must not be looked at, not even multiplied by zero.
    coefficients[:, used:] = np.nan
    args = (jnp.asarray(coefficients[:, 0]), jnp.asarray(coefficients[:, 1:]), jnp.asarray(directions))
    np.testing.assert_allclose(evaluate_harmonics(*args, degree), expected, atol=2e-6)
    np.testing.assert_allclose(jax.jit(evaluate_harmonics)(*args, jnp.int32(degree)), expected, atol=2e-6)


@pytest.mark.parametrize("degree", [-1, 4])
def test_degree_out_of_range_is_refused(degree):
    with pytest.raises(ValueError, match=f"0, 1, 2 or 3, got {degree}"):
        evaluate_harmonics(jnp.zeros((1, 3)), jnp.zeros((1, 15, 3)), jnp.ones((1, 3)), degree)


def test_color_is_clamped_at_zero_without_gradient():
    values = jnp.array([[-1.0, -0.5, 0.25]])
    np.testing.assert_array_equal(harmonics_to_color(values), [[0, 0, 0.75]])
    np.testing.assert_array_equal(jax.grad(lambda v: harmonics_to_color(v).sum())(values), [[0, 0, 1]])
