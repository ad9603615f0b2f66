"""Semi-global matching against its recurrence written as loops; the choice of planes against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import median_filter

from ipsm_jax.stereo import matching

DIRECTIONS = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]


def path_cost(costs, image, direction, small, large, contrast):
    """(D, H, W) of the recurrence along one direction."""
    planes, height, width = costs.shape
    paths = np.zeros(costs.shape, int)
    for row in range(height)[:: -1 if direction[0] < 0 else 1]:
        for column in range(width)[:: -1 if direction[1] < 0 else 1]:
            before = row - direction[0], column - direction[1]
            if not (0 <= before[0] < height and 0 <= before[1] < width):
                paths[:, row, column] = costs[:, row, column]
                continue
            jump = np.float32(large) / (1 + np.float32(contrast) * abs(image[row, column] - image[before]))
            known = paths[:, before[0], before[1]]
            for d in range(planes):
                steps = [known[d], known.min() + int(jump)]
                steps += [known[d + i] + small for i in (-1, 1) if 0 <= d + i < planes]
                paths[d, row, column] = costs[d, row, column] + min(steps) - known.min()
    return paths


@pytest.mark.parametrize("seed", range(3))
def test_path_costs_are_those_of_the_recurrence(seed):
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 256, (5, 6, 7)).astype(np.uint8)
    image = rng.uniform(size=(6, 7)).astype(np.float32)
    total = jax.jit(matching.aggregate)(jnp.asarray(costs), jnp.asarray(image), 15, 120, 10.0)
    expected = sum(path_cost(costs.astype(int), image, direction, 15, 120, 10) for direction in DIRECTIONS)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(total), 1, 0), expected)


def test_no_sum_overflows_at_the_largest_costs():
    costs = jnp.full((4, 9, 9), 255, jnp.uint8).at[2].set(0)
    total = matching.aggregate(costs, jnp.zeros((9, 9)), 300, 3000, 0.0)
    assert int(total.min()) >= 0 and int(total.max()) <= 8 * (255 + 3000)
    assert np.all(np.argmin(total, axis=1) == 2)


def test_matching_fills_what_says_nothing_from_around_it():
    costs = np.full((8, 20, 20), 255, np.uint8)
    costs[3] = 0
    costs[:, 8:12, 8:12] = 100
    total = matching.aggregate(jnp.asarray(costs), jnp.zeros((20, 20)), 15, 255, 10.0)
    np.testing.assert_array_equal(matching.best_plane(total, jnp.asarray(costs)), 3.0)


@given(st.floats(1.1, 6.9))
@settings(max_examples=30)
def test_between_planes_the_best_is_a_parabolas_lowest_point(position):
    costs = jnp.asarray(np.minimum(np.round(60 * (np.arange(9) - position) ** 2), 255), jnp.uint8)
    volume = jnp.broadcast_to(costs[:, None, None], (9, 2, 3))
    total = jnp.moveaxis(volume, 1, 0).astype(jnp.int16)
    np.testing.assert_allclose(matching.best_plane(total, volume), position, atol=0.02)  # costs are rounded


@pytest.mark.parametrize("best", [0, 8])
def test_at_the_first_and_last_plane_there_is_no_parabola(best):
    volume = jnp.asarray(10 * np.abs(np.arange(9) - best)[:, None, None], jnp.uint8)
    assert float(matching.best_plane(jnp.moveaxis(volume, 1, 0).astype(jnp.int16), volume)[0, 0]) == best


def test_equal_costs_give_a_plane_and_no_nan():
    volume = jnp.zeros((5, 2, 2), jnp.uint8)
    assert np.all(np.isfinite(matching.best_plane(jnp.zeros((2, 5, 2), jnp.int16), volume)))


def test_smoothing_leaves_slants_and_edges():
    row, column = np.mgrid[:9, :12].astype(np.float32)
    slanted = 0.3 * column + 0.2 * row
    stepped = slanted + 5 * (column >= 6)
    found = matching.smoothed(jnp.asarray(stepped))[1:-1, 1:-1]
    # Beside the edge half the pixels are missing: there the mean is off by part of the slope, elsewhere it is exact.
    beside = np.abs(column[1:-1, 1:-1] - 5.5) < 1
    np.testing.assert_allclose(np.asarray(found)[~beside], stepped[1:-1, 1:-1][~beside], atol=1e-5)
    assert np.max(np.abs(found - stepped[1:-1, 1:-1])) < 0.3
    noise = np.random.default_rng(0).uniform(-0.4, 0.4, (30, 30)).astype(np.float32)
    assert np.std(matching.smoothed(jnp.asarray(noise))) < 0.5 * np.std(noise)


def test_median_of_nine():
    values = np.random.default_rng(0).normal(size=(13, 17)).astype(np.float32)
    np.testing.assert_array_equal(matching.median3(jnp.asarray(values)), median_filter(values, 3, mode="nearest"))
