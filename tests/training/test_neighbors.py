"""Nearest neighbors against scipy's k-d tree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from ipsm_jax.training.neighbors import nearest_neighbors

search = jax.jit(nearest_neighbors)


@pytest.mark.parametrize("wanted_share", [0.0, 0.05, 1.0])
def test_neighbors_equal_tree_search(wanted_share):
    rng = np.random.default_rng(2)
    points = rng.normal(size=(150, 3)).astype(np.float32)
    valid = rng.uniform(size=150) < 0.7
    wanted = valid & (rng.uniform(size=150) < wanted_share)
    points[~valid] = np.nan  # must not be looked at
    means, neighbors = search(jnp.asarray(points), jnp.asarray(valid), jnp.asarray(wanted))
    slots = np.flatnonzero(valid)
    distances, found = cKDTree(points[slots].astype(np.float64)).query(points[slots], k=4)
    for row, slot in enumerate(slots):
        if wanted[slot]:
            np.testing.assert_allclose(means[slot], np.mean(distances[row, 1:] ** 2), rtol=1e-5)
            assert neighbors[slot].tolist() == slots[found[row, 1:]].tolist()
    assert not np.any(means[~wanted])
    assert not np.any(neighbors[~wanted])


def test_coincident_points_are_neighbors_of_each_other_and_never_of_themselves():
    for count in (4, 5, 9):
        means, neighbors = search(jnp.zeros((count, 3)), jnp.ones(count, bool), jnp.ones(count, bool))
        assert means.tolist() == [0] * count
        for own, found in enumerate(np.asarray(neighbors).tolist()):
            assert own not in found
            assert len(set(found)) == 3


def test_fewer_than_three_others_is_infinitely_far():
    points = jnp.arange(12.0).reshape(4, 3)
    means, _ = search(points, jnp.array([True, True, True, False]), jnp.array([True, False, False, False]))
    assert np.isinf(means[0])


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
