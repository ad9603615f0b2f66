"""Starting Gaussians from points, growing the capacity, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsm_jax.scene.gaussians import (
    SH_C0,
    Gaussians,
    gaussians_from_points,
    mean_squared_neighbor_distance,
    with_capacity,
    zeros,
)


def points(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 3)).astype(np.float32), rng.uniform(size=(count, 3)).astype(np.float32)


@given(st.integers(4, 30), st.integers(0, 5))
def test_neighbor_distance_is_that_of_a_full_distance_matrix(count, seed):
    positions, _ = points(count, seed)
    squared = np.sum((positions[:, None].astype(np.float64) - positions[None]) ** 2, axis=-1)
    expected = np.sort(squared, axis=1)[:, 1:4].mean(axis=1)
    np.testing.assert_allclose(mean_squared_neighbor_distance(positions), expected, rtol=1e-6)


def test_initial_values_follow_the_method():
    positions, colors = points(9)
    gaussians, alive = gaussians_from_points(positions, colors, capacity=12)
    assert gaussians.capacity == 12 and alive.tolist() == [True] * 9 + [False] * 3
    assert all(a.dtype == jnp.float32 for a in gaussians)
    np.testing.assert_array_equal(gaussians.means[:9], positions)
    np.testing.assert_allclose(SH_C0 * gaussians.sh_dc[:9] + 0.5, colors, atol=1e-6)
    np.testing.assert_allclose(jax.nn.sigmoid(gaussians.opacity_logits[:9]), 0.1, rtol=1e-6)
    np.testing.assert_array_equal(gaussians.quaternions, np.tile([1, 0, 0, 0], (12, 1)))
    np.testing.assert_array_equal(gaussians.sh_rest, 0)
    variances = np.exp(2 * np.asarray(gaussians.log_scales[:9]))
    np.testing.assert_allclose(variances, np.tile(mean_squared_neighbor_distance(positions)[:, None], 3), rtol=1e-5)


def test_points_on_top_of_each_other_get_the_smallest_scale():
    gaussians, _ = gaussians_from_points(np.ones((5, 3)), np.zeros((5, 3)))
    np.testing.assert_allclose(np.exp(gaussians.log_scales), np.sqrt(1e-7), rtol=1e-5)


@pytest.mark.parametrize(
    ("positions", "colors", "capacity", "message"),
    [
        (np.zeros((3, 3)), np.zeros((3, 3)), None, "more than 3 points .* got 3"),
        (np.zeros((5, 2)), np.zeros((5, 2)), None, r"positions \(P, 3\)"),
        (np.zeros((5, 3)), np.zeros((4, 3)), None, r"got \(5, 3\) and \(4, 3\)"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), None, "5 of 5 points have positions that are not finite"),
        (np.eye(5, 3), np.where(np.eye(5, 3) > 0, np.inf, 0), None, "3 of 5 points have colors that are not finite"),
        (np.eye(5, 3), np.full((5, 3), 200.0), None, "divide 8-bit ones by 255"),
        (np.eye(5, 3), np.zeros((5, 3)), 4, "5 points do not fit into 4 slots"),
    ],
)
def test_bad_points_are_refused_with_a_reason(positions, colors, capacity, message):
    with pytest.raises(ValueError, match=message):
        gaussians_from_points(positions, colors, capacity)


def test_growing_keeps_what_was_there_and_adds_dead_slots():
    old = jax.tree.map(lambda a: a + 3, zeros(2))
    grown, alive = with_capacity(old, jnp.array([True, False]), 5)
    assert alive.tolist() == [True, False, False, False, False]
    for before, after in zip(old, grown, strict=True):
        np.testing.assert_array_equal(after[:2], before)
        assert after.dtype == before.dtype
    with pytest.raises(ValueError, match="5 -> 4"):
        with_capacity(grown, alive, 4)


def test_growing_keeps_double_precision():
    with jax.enable_x64(True):
        grown, _ = with_capacity(zeros(2, jnp.float64), jnp.ones(2, bool), 3)
        assert all(a.dtype == jnp.float64 for a in grown)


def test_gaussians_batch_along_leading_axes():
    stacked = jax.tree.map(lambda a: jnp.stack([a, a]), zeros(7))
    assert isinstance(stacked, Gaussians) and stacked.capacity == 7
