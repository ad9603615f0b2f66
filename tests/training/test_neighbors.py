"""Nearest neighbors against the definition and against scipy's k-d tree."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from ipsm_jax.training.neighbors import nearest_neighbors, nearest_with_scipy

search = jax.jit(nearest_neighbors)


def by_comparing_all(points, valid, wanted):
    """Straight from the definition, in float64."""
    points, n = np.asarray(points, np.float64), len(points)
    valid = valid & np.isfinite(points).all(1)
    means, neighbors = np.zeros(n), np.zeros((n, 3), int)
    for i in np.flatnonzero(valid & wanted):
        squared = np.where(valid, np.sum((points - points[i]) ** 2, axis=1), np.inf)
        squared[i] = np.inf
        neighbors[i] = np.argsort(squared, kind="stable")[:3]
        means[i] = squared[neighbors[i]].mean()
    return means, neighbors


@pytest.mark.parametrize("wanted_share", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("kind", ["spread", "lattice", "line"])
def test_neighbors_equal_comparing_all_with_all(kind, wanted_share):
    """A lattice is full of equal distances and equal coordinates, where the lower index must win."""
    rng = np.random.default_rng(2)
    n = 700
    points = rng.normal(size=(n, 3))
    if kind == "lattice":
        points = rng.integers(0, 6, (n, 3))
    if kind == "line":
        points = points * [1, 0, 0]
    points = points.astype(np.float32)
    valid = rng.uniform(size=n) < 0.7
    wanted = rng.uniform(size=n) < wanted_share
    points[~valid] = np.nan  # must not be looked at
    points[rng.integers(0, n, 5)] = np.inf
    means, neighbors = search(jnp.asarray(points), jnp.asarray(valid), jnp.asarray(wanted))
    with np.errstate(invalid="ignore"):
        expected_means, expected_neighbors = by_comparing_all(points, valid, wanted)
    np.testing.assert_allclose(means, expected_means, rtol=1e-6)
    np.testing.assert_array_equal(neighbors, expected_neighbors)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 300])
def test_the_hosts_version_for_gpus_computes_the_same(count):
    """Many points in one place: whose neighbors they are is open, the distances are not."""
    rng = np.random.default_rng(5)
    points = rng.normal(size=(count, 3)).astype(np.float32)
    points[count // 2 :: 7] = 0.25
    valid, wanted = rng.uniform(size=count) < 0.8, rng.uniform(size=count) < 0.6
    points[rng.uniform(size=count) < 0.05] = np.nan
    means, neighbors = nearest_with_scipy(points, valid, wanted)
    expected_means, expected_neighbors = (
        by_comparing_all(points, valid, wanted)
        if count > 3
        else search(jnp.asarray(points), jnp.asarray(valid), jnp.asarray(wanted))
    )
    np.testing.assert_allclose(means, expected_means, rtol=1e-5, atol=1e-12)
    assert means.dtype == np.float32 and neighbors.dtype == np.int32
    alone = np.isfinite(points).all(1) & ~(points == 0.25).all(1) & np.isfinite(np.asarray(expected_means))
    alone &= ~(points[neighbors] == 0.25).all(2).any(1)
    np.testing.assert_array_equal(neighbors[alone], np.asarray(expected_neighbors)[alone])


def test_neighbors_equal_scipys_tree():
    rng = np.random.default_rng(4)
    points = (rng.normal(size=(20_000, 3)) * np.exp(rng.uniform(-3, 3, (20_000, 1)))).astype(np.float32)
    means, neighbors = search(jnp.asarray(points), jnp.ones(20_000, bool), jnp.ones(20_000, bool))
    distances, found = cKDTree(points.astype(np.float64)).query(points, k=4)
    np.testing.assert_allclose(means, np.mean(distances[:, 1:] ** 2, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(neighbors, found[:, 1:])


def test_coincident_points_are_neighbors_of_each_other_in_index_order():
    points = jnp.zeros((40, 3))
    means, neighbors = search(points, jnp.ones(40, bool), jnp.ones(40, bool))
    assert not np.any(means)
    assert neighbors[:5].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]
    assert neighbors[39].tolist() == [0, 1, 2]


def test_fewer_than_three_others_is_infinitely_far():
    points = jnp.arange(12.0).reshape(4, 3)
    means, _ = search(points, jnp.array([True, True, True, False]), jnp.array([True, False, False, False]))
    assert np.isinf(means[0])
    for nothing in (np.zeros(0, bool), np.zeros(4, bool)):
        means, neighbors = search(points[: len(nothing)], jnp.asarray(nothing), jnp.ones(len(nothing), bool))
        assert not np.any(means)
        assert not np.any(neighbors)


def test_neighbors_map_over_a_batch():
    rng = np.random.default_rng(3)
    points = jnp.asarray(rng.normal(size=(2, 70, 3)), jnp.float32)
    wanted = jnp.asarray(rng.uniform(size=(2, 70)) < np.array([[0.1], [0.9]]))
    valid = jnp.ones((2, 70), bool)
    batch = jax.vmap(nearest_neighbors)(points, valid, wanted)
    for i in range(2):
        single = search(points[i], valid[i], wanted[i])
        np.testing.assert_allclose(batch[0][i], single[0], rtol=1e-6)
        np.testing.assert_array_equal(batch[1][i], single[1])


def test_one_core_is_enough():
    """A callback to Python deadlocks here; see the module."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot bind a process to a core")
    program = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, jax.numpy as jnp
from ipsm_jax.training.neighbors import nearest_neighbors, nearest_with_scipy
points, all_points = jax.random.normal(jax.random.key(0), (60_000, 3)), jnp.ones(60_000, bool)
means, _ = jax.jit(lambda p: nearest_neighbors(2 * p, all_points, all_points))(points)
assert float(means.min()) > 0
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
