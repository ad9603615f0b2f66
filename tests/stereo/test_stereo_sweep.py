"""The costs of a sweep against windows compared one by one in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from textured_planes import LENSES, MATRICES, Plane, camera_batch, in_a_row, render, reprojected

from ipsm_jax.stereo import sweep
from ipsm_jax.stereo.geometry import pair, rays

SURFACE_COSTS = jax.jit(sweep.surface_costs)
PLANE_COSTS = jax.jit(sweep.plane_costs, static_argnames="penalty")


def sources_of(cameras, images, used=None):
    others = jnp.arange(1, len(images))
    used = jnp.ones(len(images) - 1, bool) if used is None else jnp.asarray(used)
    return sweep.Sources(jax.vmap(sweep.pack)(images[1:]), pair(cameras[0], cameras[others]), used)


def zncc(a, b):
    a, b = a - a.mean(), b - b.mean()
    return np.mean(a * b) / np.sqrt((np.mean(a * a) + 4e-5) * (np.mean(b * b) + 4e-5))


def test_interpolation_is_bilinear_between_pixel_centers():
    image = np.random.default_rng(0).integers(0, 256, (9, 12)) / 255
    x, y = np.random.default_rng(1).uniform(-2, 14, (2, 7, 8))
    values = sweep.interpolate(sweep.pack(jnp.asarray(image, jnp.float32)), jnp.asarray(x), jnp.asarray(y))
    expected = map_coordinates(image, [y - 0.5, x - 0.5], order=1, mode="nearest")
    np.testing.assert_allclose(values, expected, atol=1e-5)


def test_costs_are_those_of_windows_compared_one_by_one():
    cameras = camera_batch(MATRICES, LENSES)
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (2, 72, 96)) / 255
    base, slope = rng.uniform(0.1, 0.2, (2, 72, 96))
    steps = np.array([0.0, 0.4, 1.0])
    arrays = [jnp.asarray(a, jnp.float32) for a in (images[0], base, slope, steps)]
    costs = SURFACE_COSTS(arrays[0], sources_of(cameras, jnp.asarray(images, jnp.float32)), *arrays[1:], falloff=0.0)
    v, u = np.mgrid[:72, :96] + 0.5
    checked = 0
    for d, step in enumerate(steps):
        x, y, _ = reprojected(cameras, u, v, 1 / (base + step * slope))
        warped = map_coordinates(images[1], [y - 0.5, x - 0.5], order=1, mode="nearest")
        for row, column in rng.integers((3, 3), (69, 93), (60, 2)):
            if not (1 < x[row, column] < 95 and 1 < y[row, column] < 71):
                continue
            windows = [(slice(row - r, row + r + 1), slice(column - r, column + r + 1)) for r in (1, 3)]
            expected = np.clip(1 - np.mean([zncc(images[0][w], warped[w]) for w in windows]), 0, 1)
            assert costs[d, row, column] == pytest.approx(255 * expected, abs=1.5)
            checked += 1
    assert checked > 50


def test_costs_do_not_change_with_exposure_and_are_smallest_at_the_true_depth():
    cameras = camera_batch(in_a_row(2))
    photos, depth = render(cameras, Plane())
    images = np.asarray(sweep.gray(jnp.asarray(photos)))
    steps = jnp.linspace(0.15, 0.4, 26)  # the plane's own, 0.25, is number 10
    zero, one = jnp.zeros((72, 96)), jnp.ones((72, 96))
    volumes = []
    for gain, offset in ((1.0, 0.0), (0.7, 0.2)):
        changed = jnp.stack([images[0], gain * images[1] + offset])
        volumes.append(
            np.asarray(SURFACE_COSTS(changed[0], sources_of(cameras, changed), zero, one, steps, falloff=0.0))
        )
    assert np.percentile(np.abs(volumes[0].astype(int) - volumes[1]), 99) < 20
    np.testing.assert_allclose(depth[0], 4.0, rtol=0.02)
    for volume in volumes:
        assert np.median(volume[10, 10:-10, 30:-30]) < 13  # 0.05
        inner = np.argmin(volume, axis=0)[10:-10, 30:-30]
        assert np.mean(np.abs(inner - 10) <= 1) > 0.97


def test_cheaper_sources_that_see_a_pixel_weigh_more():
    costs = np.random.default_rng(0).uniform(0, 1, (4, 6, 7)).astype(np.float32)
    costs[np.random.default_rng(1).uniform(size=costs.shape) < 0.5] = 2.0  # does not see it
    for falloff in (0.0, 0.4, 1.0):
        found = sweep.robust_mean([jnp.asarray(c) for c in costs], falloff)
        for row, column in np.ndindex(6, 7):
            seen = sorted(c for c in costs[:, row, column] if c <= 1)
            weights = [falloff**i for i in range(len(seen))]
            expected = np.average(seen, weights=weights) if seen else sweep.UNSEEN
            assert found[row, column] == pytest.approx(expected, abs=1e-6)


def test_a_source_that_is_not_used_does_not_count():
    cameras = camera_batch(in_a_row(3))
    images = sweep.gray(jnp.asarray(render(cameras, Plane())[0]))
    images = images.at[2].set(0.3)
    zero, one, steps = jnp.zeros((72, 96)), jnp.ones((72, 96)), jnp.linspace(0.2, 0.3, 4)
    both = SURFACE_COSTS(images[0], sources_of(cameras, images, [True, False]), zero, one, steps, falloff=0.5)
    alone = SURFACE_COSTS(images[0], sources_of(cameras[:2], images[:2]), zero, one, steps, falloff=0.5)
    np.testing.assert_array_equal(both, alone)


def test_slanted_planes_match_a_slanted_surface_seen_from_far_apart():
    """Two views 60 degrees apart; the surface's normal is 50 degrees beside the axis of the reference."""
    plane = Plane(normal=(np.tan(np.radians(30 - 50)), 0, 1.0))
    cameras = camera_batch(in_a_row(2, baseline=8 * np.tan(np.radians(30)), target=(0, 0, 4)))
    photos, depth = render(cameras, plane)
    images = sweep.gray(jnp.asarray(photos))
    inverse_depths = jnp.linspace(1 / 9, 1 / 2.5, 320)
    v, u = np.mgrid[:72, :96] + 0.5
    x, y, _ = reprojected(cameras, u, v, depth[0])
    seen = (x > 4) & (x < 92) & (y > 4) & (y < 68) & (depth[0] > 2.5)
    assert seen.mean() > 0.5
    nearest = np.argmin(np.abs(np.asarray(inverse_depths)[:, None, None] - 1 / depth[0]), axis=0)
    costs = {}
    for angles in ((0,), (-50,), (50,), (-50, 50)):
        slants = jnp.asarray([[np.tan(np.radians(a)), 0.0] for a in angles], jnp.float32)
        others = sources_of(cameras, images)
        volume = PLANE_COSTS(images[0], others, *rays(cameras[0]), inverse_depths, slants, penalty=0.02, falloff=0.0)
        costs[angles] = np.take_along_axis(np.asarray(volume), nearest[None], axis=0)[0][seen]
    assert costs[(-50,)].mean() < 0.4 * costs[(0,)].mean()
    assert costs[(50,)].mean() > 0.8 * costs[(0,)].mean()
    np.testing.assert_array_equal(costs[(-50, 50)], np.minimum(costs[(-50,)], costs[(50,)]))


def test_halving_means_two_by_two_pixels():
    image = np.random.default_rng(0).uniform(size=(5, 6)).astype(np.float32)
    half = sweep.halved_image(jnp.asarray(image))
    assert half.shape == (3, 3)
    np.testing.assert_allclose(half[1, 2], image[2:4, 4:6].mean(), rtol=1e-6)
    np.testing.assert_allclose(half[2, 0], image[4, :2].mean(), rtol=1e-6)


def test_gray_of_colors():
    colors = jnp.asarray([[[255, 255, 255], [0, 0, 0], [0, 255, 0]]], jnp.uint8)
    np.testing.assert_allclose(sweep.gray(colors), [[1.0, 0.0, 0.587]], atol=1e-6)
