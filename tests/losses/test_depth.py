"""Depth terms against scipy, their invariances, and cases in which there is no correlation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsm_jax.losses.depth import (
    DepthOptions,
    measured_depth_loss,
    metric_depth_loss,
    pearson,
    pseudo_depth_loss,
    seen_depth_loss,
)
from ipsm_jax.losses.schedule import GuidanceSchedule

SHAPE = (23, 31)
seen_and_gradient = jax.jit(jax.value_and_grad(seen_depth_loss, argnums=(0, 1)))
pseudo_and_gradient = jax.jit(jax.value_and_grad(pseudo_depth_loss, argnums=(0, 1)))
pearson_jit = jax.jit(pearson)
MASKED = {loss: jax.jit(jax.value_and_grad(loss)) for loss in (seen_depth_loss, measured_depth_loss)}


def pair(seed, mix=0.6):
    """A depth and a network's map (inverse depth, in [0, 30]) that have something to do with one another."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(2, 9, SHAPE)
    network = 40 / depth * mix + rng.uniform(0, 10, SHAPE) * (1 - mix)
    return depth.astype(np.float32), network.astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_losses_equal_scipy(seed):
    depth, network = pair(seed)
    by_negative = 1 - scipy.stats.pearsonr(-network.ravel(), depth.ravel()).statistic
    by_inverse = 1 - scipy.stats.pearsonr(1 / (network.ravel() + 200), depth.ravel()).statistic
    assert by_negative != by_inverse
    np.testing.assert_allclose(seen_and_gradient(depth, network)[0], min(by_negative, by_inverse), atol=1e-5)
    np.testing.assert_allclose(pseudo_and_gradient(depth, network)[0], by_negative, atol=1e-5)


def test_the_better_of_the_two_correlations_counts():
    _, network = pair(0)
    for depth in (10 - network / 10, 1000 / (network + 200)):
        assert seen_and_gradient(depth, network)[0] < 1e-5
    assert pseudo_and_gradient(1000 / (network + 200), network)[0] > 1e-4


@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100), shift=st.floats(-50, 50), second=st.floats(0.05, 20))
@settings(max_examples=30)
def test_correlation_knows_neither_scale_nor_offset_but_the_sign(seed, scale, shift, second):
    x, y = pair(seed)
    expected, _ = pearson_jit(x, y)
    moved = scale * x + np.float32(scale * shift)
    # float32 stores an offset of 50 in steps of 4e-6, against a spread of 2
    np.testing.assert_allclose(pearson_jit(moved, second * y)[0], expected, atol=2e-5)
    np.testing.assert_allclose(pearson_jit(-moved, y)[0], -expected, atol=2e-5)
    np.testing.assert_allclose(pearson_jit(y, x)[0], expected, atol=1e-6)
    np.testing.assert_allclose(pearson_jit(x, moved)[0], 1, atol=2e-5)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_gradients_are_blind_to_scale_and_offset(seed):
    """Invariance under x -> a x + b means that the gradient has no component along x or along 1."""
    depth, network = pair(seed)
    for gradient, at in zip(pseudo_and_gradient(depth, network)[1], (depth, network), strict=True):
        size = np.linalg.norm(gradient)
        assert abs(np.sum(gradient)) < 1e-4 * size * np.sqrt(depth.size)
        assert abs(np.sum(gradient * at)) < 1e-4 * size * np.linalg.norm(at)


@pytest.mark.parametrize("argument", [0, 1])
@pytest.mark.parametrize("loss", [seen_depth_loss, pseudo_depth_loss])
def test_gradients_agree_with_float64_differences(loss, argument):
    arrays = pair(5)
    gradient = jax.grad(loss, argnums=argument)(*arrays)

    def exact(depth, network):
        terms = [1 - scipy.stats.pearsonr(-network.ravel(), depth.ravel()).statistic]
        if loss is seen_depth_loss:
            terms.append(1 - scipy.stats.pearsonr(1 / (network.ravel() + 200), depth.ravel()).statistic)
        return min(terms)

    for pixel in ((0, 0), (7, 11), (22, 30)):
        values = []
        for step in (1e-4, -1e-4):
            moved = [np.asarray(a, np.float64) for a in arrays]
            moved[argument] = moved[argument].copy()
            moved[argument][pixel] += step
            values.append(exact(*moved))
        np.testing.assert_allclose(gradient[pixel], (values[0] - values[1]) / 2e-4, rtol=2e-3, atol=1e-8)


def hole(array, value):
    array = np.array(array)
    array[3, 4] = value
    return array


@pytest.mark.parametrize(
    "spoil",
    [
        lambda depth, network: (np.full_like(depth, 5.3), network),
        lambda depth, network: (np.zeros_like(depth), network),
        lambda depth, network: (depth, np.full_like(network, 17.7)),
        lambda depth, network: (np.full_like(depth, 5.3), np.full_like(network, 17.7)),
        lambda depth, network: (hole(depth, np.nan), network),
        lambda depth, network: (depth, hole(network, np.nan)),
        lambda depth, network: (hole(depth, np.inf), network),
    ],
    ids=["constant depth", "no depth", "constant map", "both constant", "NaN depth", "NaN map", "infinite depth"],
)
def test_no_correlation_contributes_nothing(spoil):
    spoilt = spoil(*pair(1))
    for function in (seen_and_gradient, pseudo_and_gradient):
        value, gradients = function(*spoilt)
        assert value == 0
        for gradient in gradients:
            np.testing.assert_array_equal(gradient, 0)


def test_a_pole_of_the_inverse_leaves_the_other_correlation():
    depth, network = pair(1)
    network = hole(network, -200.0)
    expected = 1 - scipy.stats.pearsonr(-network.ravel(), depth.ravel()).statistic
    value, gradients = seen_and_gradient(depth, network)
    np.testing.assert_allclose(value, expected, atol=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_small_relief_far_away_is_not_taken_for_constant():
    _, network = pair(2)
    depth = 1000 - 0.01 * network / network.std()
    expected = scipy.stats.pearsonr(depth.astype(np.float64).ravel(), -network.ravel()).statistic
    np.testing.assert_allclose(pearson_jit(jnp.asarray(depth), -network)[0], expected, atol=1e-4)


def test_many_views_at_once():
    pairs = [pair(seed) for seed in range(3)]
    depths, networks = (np.stack(column) for column in zip(*pairs, strict=True))
    together = jax.vmap(pseudo_depth_loss)(depths, networks)
    np.testing.assert_allclose(together, [pseudo_depth_loss(*p) for p in pairs], atol=1e-6)


def test_weights_and_ramps_at_their_corners():
    weight = jax.jit(DepthOptions().weight_of_seen)
    np.testing.assert_allclose([weight(i) for i in (1, 9500, 9501, 10_000)], [0.05, 0.05, 0.001, 0.001], rtol=1e-6)
    schedule = GuidanceSchedule()
    iterations = (1, 2000, 2001, 2250, 2500, 9499, 9500)
    active, ramped = jax.jit(schedule.active), jax.jit(schedule.ramped)
    assert [bool(active(i)) for i in iterations] == [False, False, True, True, True, True, False]
    np.testing.assert_allclose([ramped(i) for i in iterations], [0, 0, 1 / 500, 0.5, 1, 1, 1], rtol=1e-6)
    pseudo = jax.jit(lambda i: DepthOptions().weight_of_pseudo(i, schedule))
    np.testing.assert_allclose([pseudo(i) for i in iterations], [0, 0, 0.5 / 500, 0.25, 0.5, 0.5, 0], rtol=1e-6)
    with pytest.raises(ValueError, match="ramp >= 1, got -1 and 500"):
        GuidanceSchedule(start=-1)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_unknown_pixels_play_no_part(seed):
    """The losses over the known pixels are those of the picture that has only these; the others get no gradient."""
    depth, network = pair(seed)
    known = np.random.default_rng(seed).uniform(size=SHAPE) < 0.4
    for loss, first, second in (
        (seen_depth_loss, depth, network),
        (measured_depth_loss, depth, 3 * depth + network / 10),
    ):
        spoiled = np.where(known, second, np.nan).astype(np.float32)
        value, gradient = MASKED[loss](first, spoiled, known)
        pairs = [(-second, first), (1 / (second + 200), first)] if loss is seen_depth_loss else [(second, first)]
        expected = min(1 - scipy.stats.pearsonr(a[known], b[known]).statistic for a, b in pairs)
        np.testing.assert_allclose(value, expected, atol=1e-5)
        assert float(value) > 1e-4
        assert not np.any(np.asarray(gradient)[~known]) and np.all(np.isfinite(gradient))
        assert np.any(np.asarray(gradient)[known])
        nothing, gradient = MASKED[loss](first, spoiled, np.zeros(SHAPE, bool))
        assert float(nothing) == 0 and not np.any(gradient)


def test_metric_depth_is_the_mean_relative_difference_of_what_is_covered():
    rng = np.random.default_rng(1)
    measured, alpha = rng.uniform(2, 9, SHAPE), rng.uniform(0.2, 1, SHAPE)
    factor = rng.uniform(0.8, 1.3, SHAPE)
    known = rng.uniform(size=SHAPE) < 0.5
    spoiled = np.where(known, measured, 0)
    value, gradient = jax.value_and_grad(metric_depth_loss)(factor * alpha * measured, alpha, spoiled, known)
    np.testing.assert_allclose(value, np.mean((alpha * np.abs(factor - 1))[known]), rtol=1e-5)
    np.testing.assert_allclose(
        gradient, np.where(known, np.sign(factor - 1) / np.where(known, measured, 1) / known.sum(), 0), rtol=1e-4
    )
    nothing = metric_depth_loss(measured, alpha, spoiled, np.zeros(SHAPE, bool))
    assert float(nothing) == 0
