"""Dropout and decay of opacities against their definitions."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.config import OptimizationConfig
from ipsm_jax.scene.gaussians import Gaussians
from ipsm_jax.training.opacity import decayed, dropout_rate, with_dropout
from ipsm_jax.training.step import run_steps, train_step

drop = jax.jit(with_dropout)
decay = jax.jit(decayed)
CONFIG = OptimizationConfig(iterations=100)


@hypothesis.given(rate=st.floats(0, 0.875, width=32), seed=st.integers(0, 10**6))
@hypothesis.settings(max_examples=20)
def test_dropout_keeps_the_right_share_and_raises_the_others(rate, seed):
    count = 20_000
    tiled = Gaussians(*[jnp.zeros((count, *shape)) for shape in ((3,), (3,), (4,), (), (3,), (15, 3))])
    tiled = tiled._replace(opacity_logits=jnp.linspace(-8, 8, count))
    alive = jnp.arange(count) % 5 != 0
    gaussians, kept = drop(jax.random.key(seed), tiled, alive, jnp.float32(rate))
    assert not np.any(np.asarray(kept) & ~np.asarray(alive))
    share = np.asarray(kept).sum() / np.asarray(alive).sum()
    assert abs(share - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / (0.8 * count)) + 1e-6
    before, after = (np.asarray(jax.nn.sigmoid(g.opacity_logits), np.float64) for g in (tiled, gaussians))
    np.testing.assert_allclose(after, before if rate == 0 else np.minimum(before / (1 - rate), 0.999), rtol=2e-4)
    assert np.array_equal(gaussians.means, tiled.means)


@hypothesis.given(logit=st.floats(-60, 60, width=32), factor=st.floats(0.0078125, 1, width=32))
def test_decay_multiplies_the_opacity(logit, factor):
    got = jax.nn.sigmoid(decay(jnp.float32(logit), jnp.float32(factor)))
    np.testing.assert_allclose(got, factor / (1 + np.exp(-np.float64(logit))), rtol=1e-5, atol=1e-30)


def test_decay_comes_at_its_interval_after_the_optimizer(toy):
    config = dataclasses.replace(CONFIG, opacity_decay=0.9, opacity_decay_interval=3)
    state = toy.states[0]
    for iteration in (1, 2, 3, 4):
        plain, _ = jax.jit(train_step, static_argnums=0)(CONFIG, toy.views, state)
        state, _ = jax.jit(train_step, static_argnums=0)(config, toy.views, state)
        ratio = jax.nn.sigmoid(state.gaussians.opacity_logits) / jax.nn.sigmoid(plain.gaussians.opacity_logits)
        np.testing.assert_allclose(ratio, 0.9 if iteration == 3 else 1.0, rtol=1e-5)


def test_dropped_gaussians_get_no_gradient_and_are_not_seen(toy):
    rates = [float(dropout_rate(0.2, jnp.int32(i), 100)) for i in (0, 50, 100)]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2], rtol=1e-6)
    config = dataclasses.replace(CONFIG, dropout=0.5, iterations=2)
    state = toy.states[0]._replace(step=jnp.int32(1))  # the last iteration: half of them
    plain, _ = jax.jit(train_step, static_argnums=0)(dataclasses.replace(config, dropout=0.0), toy.views, state)
    after, _ = jax.jit(train_step, static_argnums=0)(config, toy.views, state)
    seen, usually = (np.asarray(s.statistics.visible_count) > 0 for s in (after, plain))
    assert not np.any(seen & ~usually)
    assert 0.2 < seen.sum() / usually.sum() < 0.8
    gradient = np.abs(np.asarray(after.moments.mu.means)).max(1)
    assert not np.any(gradient[usually & ~seen]) and np.all(gradient[seen] > 0)


@pytest.mark.parametrize("logit", [-1e4, -90.0, -20.0, 20.0, 90.0, 1e4])
def test_dropout_has_finite_gradients_at_extreme_opacities(toy, logit):
    state = toy.states[0]
    logits = jnp.full_like(state.gaussians.opacity_logits, logit)

    def sum_of_raised(logits):
        gaussians = state.gaussians._replace(opacity_logits=logits)
        return jnp.sum(with_dropout(jax.random.key(0), gaussians, state.alive, jnp.float32(0.2))[0].opacity_logits)

    value, gradient = jax.value_and_grad(sum_of_raised)(logits)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_both_train_on_without_numbers_that_are_not(toy):
    config = dataclasses.replace(CONFIG, dropout=0.3, opacity_decay=0.95, opacity_decay_interval=1)
    state, info = jax.jit(run_steps, static_argnums=0)(config, toy.views, toy.states[0], 60)
    assert np.isfinite(float(info.loss))
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state.gaussians))
