"""Which tiles each Gaussian is listed in, against a search through all pixels in float64.

The Gaussians lie on the axis of a camera at the origin and are moved to their place by `mean2d_offset`, so that the 2D
covariance is exactly R diag(sigma^2) R^T + 0.3 I and the 2D mean exactly the offset, in coordinates where pixel (i, j)
has its center at (i, j). Tiles are 16 x 16 pixels; pixels of a tile beyond the image do not count.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsm_jax.rasterizer import native
from ipsm_jax.rasterizer.native import _forward_call, _Spec

TILE, DEPTH, FOCAL = 16, 4.0, 100.0
COUNT = 24  # ellipses at once
CAPACITY = 1 << 15
SIZES = [(83, 50), (16, 16), (1, 1), (7, 130)]

# 255 alpha of the best pixel from which a tile has to be listed; 1 but for rounding.
SEEN = 1 + 1e-4


class Ellipses(NamedTuple):
    """All (n,) or (n, 2) float32: mean in pixels, two standard deviations before dilation, angle, logit, depth."""

    mean: np.ndarray
    sigma: np.ndarray
    angle: np.ndarray
    logit: np.ndarray
    depth: np.ndarray

    @classmethod
    def of(cls, rows):
        mean_x, mean_y, sigma_x, sigma_y, angle, logit = np.array(rows, np.float32).T
        depth = np.full(len(rows), DEPTH, np.float32)
        return cls(np.stack([mean_x, mean_y], 1), np.stack([sigma_x, sigma_y], 1), angle, logit, depth)


class Lists(NamedTuple):
    """What the native forward pass leaves: see csrc/rasterizer/types.h."""

    radii: np.ndarray  # (n,)
    splats: np.ndarray  # (n, 16)
    slot_start: np.ndarray  # (n + 1,)
    tile_start: np.ndarray  # (tiles + 1,)
    pairs: np.ndarray  # (all pairs, 2)

    def tiles_of(self) -> list[list[int]]:
        """Tiles of each Gaussian, ascending."""
        found: list[list[int]] = [[] for _ in self.radii]
        for tile in range(len(self.tile_start) - 1):
            for splat, _ in self.pairs[self.tile_start[tile] : self.tile_start[tile + 1]]:
                found[splat].append(tile)
        return found


@functools.partial(jax.jit, static_argnums=0)
def forward(spec, operands):
    return _forward_call(spec, operands)[4:]


def lists_of(ellipses: Ellipses, width: int, height: int, footprint: int = 0) -> Lists:
    n, z = len(ellipses.logit), ellipses.depth[:, None]
    half = ellipses.angle.astype(np.float64)[:, None] / 2
    # a depth of sigma across the image plane does not show: the camera looks along it
    scales = np.concatenate([ellipses.sigma, np.full((n, 1), 0.01)], 1) * z / FOCAL
    operands = {
        "means": np.concatenate([np.zeros((n, 2)), z], 1),
        "log_scales": np.log(scales),
        "quaternions": np.concatenate([np.cos(half), np.zeros((n, 2)), np.sin(half)], 1),
        "opacity_logits": ellipses.logit,
        "sh_dc": np.zeros((n, 3)),
        "sh_rest": np.zeros((n, 15, 3)),
        "alive": np.ones(n, bool),
        "mean2d_offset": ellipses.mean,
        "camera_from_world": np.eye(4),
        "intrinsics": np.array([FOCAL, FOCAL, 0.5, 0.5]),
        "background": np.zeros(3),
        "features": np.zeros((n, 0)),
        "mean2d_absolute": np.zeros((n, 2)),
    }
    arrays = [jnp.asarray(a, bool if name == "alive" else jnp.float32) for name, a in operands.items()]
    spec = _Spec(width, height, footprint, CAPACITY, False, False)
    results = forward(spec, (*arrays, jnp.int32(0)))
    radii, pair_count, splats, slot_start, tile_start, _, pairs = map(np.asarray, results)
    assert pair_count <= CAPACITY
    return Lists(radii, splats, slot_start, tile_start, pairs[:pair_count])


def quadratic_forms(ellipses: Ellipses) -> tuple[np.ndarray, np.ndarray]:
    """Inverse dilated covariances (n, 2, 2) and opacities (n,) in float64."""
    c, s = (f(ellipses.angle.astype(np.float64)) for f in (np.cos, np.sin))
    rotation = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
    variances = ellipses.sigma.astype(np.float64) ** 2
    covariance = rotation * variances[:, None, :] @ rotation.swapaxes(1, 2) + 0.3 * np.eye(2)
    # Eigenvalues are known: no cancellation, however thin.
    inverse = rotation * (1 / (variances + 0.3))[:, None, :] @ rotation.swapaxes(1, 2)
    np.testing.assert_allclose(inverse @ covariance, np.broadcast_to(np.eye(2), covariance.shape), atol=1e-3)
    return inverse, 1 / (1 + np.exp(-ellipses.logit.astype(np.float64)))


def tiles_across(size: int) -> int:
    return -(-size // TILE)


def best_alpha(ellipses: Ellipses, width: int, height: int) -> np.ndarray:
    """(n, tiles): 255 times the largest alpha at a pixel of each tile."""
    inverse, opacity = quadratic_forms(ellipses)
    dx = np.arange(width)[None, None, :] - ellipses.mean.astype(np.float64)[:, 0, None, None]
    dy = np.arange(height)[None, :, None] - ellipses.mean.astype(np.float64)[:, 1, None, None]
    a, b, c = (inverse[:, i, j, None, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    alpha = 255 * opacity[:, None, None] * np.exp(-0.5 * (a * dx * dx + 2 * b * dx * dy + c * dy * dy))
    across, down = tiles_across(width), tiles_across(height)
    padded = np.zeros((len(alpha), down * TILE, across * TILE))
    padded[:, :height, :width] = alpha
    return padded.reshape(-1, down, TILE, across, TILE).max(axis=(2, 4)).reshape(len(alpha), -1)


def least_exponent(ellipses: Ellipses, width: int, height: int) -> np.ndarray:
    """(n, tiles): the least d^T Sigma^-1 d over the rectangle of each tile's pixel centers, the gaps included."""
    inverse, _ = quadratic_forms(ellipses)
    across, down = tiles_across(width), tiles_across(height)
    result = np.empty((len(inverse), down, across))
    for ty in range(down):
        for tx in range(across):
            low = np.array([tx, ty]) * TILE - ellipses.mean.astype(np.float64)
            high = np.minimum(np.array([tx, ty]) * TILE + TILE - 1, [width - 1, height - 1]) - ellipses.mean
            inside = ((low <= 0) & (high >= 0)).all(axis=1)
            # otherwise on one of the four sides: a parabola along each
            candidates = []
            for axis in (0, 1):
                along, across_axis = inverse[:, 1 - axis, 1 - axis], inverse[:, axis, axis]
                for fixed in (low[:, axis], high[:, axis]):
                    free = np.clip(-inverse[:, 0, 1] * fixed / along, low[:, 1 - axis], high[:, 1 - axis])
                    candidates.append(across_axis * fixed**2 + 2 * inverse[:, 0, 1] * fixed * free + along * free**2)
            result[:, ty, tx] = np.where(inside, 0, np.min(candidates, axis=0))
    return result.reshape(len(inverse), -1)


def listed(lists: Lists, tiles: int) -> np.ndarray:
    table = np.zeros((len(lists.radii), tiles), bool)
    for splat, of_splat in enumerate(lists.tiles_of()):
        assert len(set(of_splat)) == len(of_splat), f"Gaussian {splat} is listed twice in a tile"
        table[splat, of_splat] = True
    return table


def check_against_pixels(ellipses: Ellipses, width: int, height: int) -> tuple[int, int]:
    """Every tile with a pixel to draw must be listed, and no tile that the ellipse does not reach.

    Returns the number of listed pairs, and of those that no pixel needs.
    """
    best = best_alpha(ellipses, width, height)
    table = listed(lists_of(ellipses, width, height), best.shape[1])
    missing = (best >= SEEN) & ~table
    assert not missing.any(), [(i, t, best[i, t], ellipses.mean[i]) for i, t in zip(*np.nonzero(missing), strict=True)]
    # The contour, grown by what the kernel adds against rounding: 1e-3 pixels and more far from the image.
    reach = np.sqrt(np.maximum(2 * np.log(255 * quadratic_forms(ellipses)[1]), 0) + 1e-3)
    grown = (reach + 4e-3 + 4e-6 * np.abs(ellipses.mean).max(axis=1)) ** 2
    beyond = table & (least_exponent(ellipses, width, height) > grown[:, None])
    assert not beyond.any(), [(i, t, best[i, t], ellipses.mean[i]) for i, t in zip(*np.nonzero(beyond), strict=True)]
    return int(table.sum()), int((table & (best < 1)).sum())


def between(low, high):
    return st.floats(float(np.float32(low)), float(np.float32(high)), width=32)


angles = between(0, 3.1415)
logits = between(-5.6, 8) | between(-5.54, -5.53)  # an opacity of 1/255 is -5.5373
anywhere = between(-40, 140)
# Tile edges lie between pixels 15 and 16, 31 and 32 ...; pixel centers are integers.
on_the_grid = st.builds(lambda tile, step: TILE * tile + step, st.integers(-1, 9), st.sampled_from([-1, -0.5, 0]))
on_pixels = st.integers(-20, 140).map(float)
log_uniform = between(-5, 4.5).map(np.exp)
sub_pixel = between(1e-6, 0.25)


def several(*fields):
    """Strategy for COUNT ellipses with the given mean x, mean y, and standard deviations."""
    return st.lists(st.tuples(*fields, angles, logits), min_size=COUNT, max_size=COUNT)


@pytest.mark.parametrize(("width", "height"), SIZES)
@given(several(*2 * [anywhere | on_the_grid | on_pixels], log_uniform, log_uniform))
@settings(max_examples=25)
def test_ellipses_of_any_size_anywhere(width, height, rows):
    check_against_pixels(Ellipses.of(rows), width, height)


@given(several(*2 * [on_the_grid | on_pixels], sub_pixel, sub_pixel))
@settings(max_examples=25)
def test_points_on_edges_and_pixels(rows):
    check_against_pixels(Ellipses.of(rows), 83, 50)


@given(
    several(*2 * [anywhere | on_the_grid], between(4, 11).map(np.exp), sub_pixel | between(2, 300)),
    st.lists(between(-2.8, 2.8), min_size=COUNT, max_size=COUNT),
)
@settings(max_examples=50)
def test_long_ones_whose_mean_is_far_away(rows, along):
    """Up to 60 000 pixels long; `along` standard deviations down their axis they cross the image."""
    ellipses = Ellipses.of(rows)
    away = np.array(along)[:, None] * ellipses.sigma[:, :1]
    direction = np.stack([np.cos(ellipses.angle), np.sin(ellipses.angle)], 1)
    ellipses = ellipses._replace(mean=np.asarray(ellipses.mean + away * direction, np.float32))
    check_against_pixels(ellipses, 83, 50)


@given(several(*2 * [between(-3000, 3000)], log_uniform, log_uniform))
@settings(max_examples=15)
def test_far_outside(rows):
    check_against_pixels(Ellipses.of(rows), 83, 50)


def random_ellipses(count: int, width: int, height: int, seed: int = 0) -> Ellipses:
    """Like those of a trained scene: a few pixels large, some long, of all opacities."""
    rng = np.random.default_rng(seed)
    mean = rng.uniform(-20, [width + 20, height + 20], (count, 2))
    sigma = np.exp(rng.normal(np.log(4), 1.0, (count, 2)))
    angle, logit = rng.uniform(0, np.pi, count), 2 * rng.normal(size=count)
    fields = (mean, sigma, angle, logit, rng.choice([2.0, 3.0, 3.5, 5.0], count))
    return Ellipses(*(np.asarray(a, np.float32) for a in fields))


def test_few_tiles_are_listed_in_vain():
    """At most 1 pair in 1000 is of no use: where the contour passes between the pixels of a tile."""
    width, height = 160, 120
    pairs, useless = check_against_pixels(random_ellipses(2000, width, height), width, height)
    assert pairs > 10_000
    assert useless <= 1e-3 * pairs


def test_square_of_three_sigma():
    """The original's cut, whole tiles around the radius, computed in float32 as it was."""
    width, height = 160, 120
    ellipses = random_ellipses(1500, width, height, seed=1)
    ellipses.mean[::3] = np.round(ellipses.mean[::3] / 8) * 8
    lists = lists_of(ellipses, width, height, native.FOOTPRINTS["3sigma"])
    grid = np.array([tiles_across(width), tiles_across(height)])
    table = listed(lists, grid.prod())
    radius = lists.radii[:, None].astype(np.float32)
    # In float32 like the kernel: means on multiples of half a tile put the quotient exactly on an integer.
    first = np.clip(((ellipses.mean - radius) / np.float32(TILE)).astype(int), 0, grid)
    end = np.clip(((ellipses.mean + radius + np.float32(TILE - 1)) / np.float32(TILE)).astype(int), 0, grid)
    seen = np.flatnonzero(lists.radii)
    assert len(seen) > 1000
    for i in seen:
        expected = np.zeros(grid[::-1], bool)
        expected[first[i, 1] : end[i, 1], first[i, 0] : end[i, 0]] = True
        np.testing.assert_array_equal(table[i], expected.ravel())
    variance = ellipses.sigma[seen].astype(np.float64).max(axis=1) ** 2 + 0.3
    assert np.abs(lists.radii[seen] - np.ceil(3 * np.sqrt(variance))).max() <= 1


@pytest.mark.parametrize("footprint", native.FOOTPRINTS.values())
@pytest.mark.parametrize("count", [1, 300, 6000])  # one piece of work, one slice of the sort, several
def test_lists_are_in_order_and_slots_used_once(count, footprint):
    width, height = 100, 90
    ellipses = random_ellipses(count, width, height, seed=2)
    if count == 6000:  # small ones, for the lists to have room
        ellipses.sigma[:] = 0.4
    lists = lists_of(ellipses, width, height, footprint)
    assert lists.tile_start[0] == 0 and lists.tile_start[-1] == len(lists.pairs) == lists.slot_start[-1]
    assert (np.diff(lists.tile_start) >= 0).all() and (np.diff(lists.slot_start) >= 0).all()
    for tile in range(len(lists.tile_start) - 1):
        splats = lists.pairs[lists.tile_start[tile] : lists.tile_start[tile + 1], 0]
        order = np.lexsort((splats, ellipses.depth[splats]))
        np.testing.assert_array_equal(order, np.arange(len(splats)))  # by depth, equal ones by index
    # Slots of Gaussian i are those from slot_start[i] to slot_start[i + 1], one for each tile.
    np.testing.assert_array_equal(np.sort(lists.pairs[:, 1]), np.arange(len(lists.pairs)))
    owner = np.searchsorted(lists.slot_start, lists.pairs[:, 1], side="right") - 1
    np.testing.assert_array_equal(owner, lists.pairs[:, 0])
    # A Gaussian whose box touches the image is visible, also when the rest of it passes by a corner.
    listed_at_all = np.diff(lists.slot_start) > 0
    assert listed_at_all.any() and (lists.radii[listed_at_all] > 0).all()
