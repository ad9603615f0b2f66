"""Learning rates against their closed form, Adam against torch-style formulas in float64, dead slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.config import OptimizationConfig
from ipsm_jax.scene.gaussians import Gaussians, zeros
from ipsm_jax.training.optimizer import (
    adam,
    apply_gradient,
    clear_moments,
    clear_opacity_moments,
    learning_rates,
)

CONFIG = OptimizationConfig(iterations=10_000)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1.6e-4), (5000, 1.6e-5), (10_000, 1.6e-6), (2500, 1.6e-4 * 10**-0.5), (20_000, 1.6e-6)]
)
def test_learning_rate_of_means_decays_log_linearly(step, expected):
    rates = learning_rates(CONFIG, jnp.float32(3.0), jnp.int32(step))
    np.testing.assert_allclose(rates.means, 3 * expected, rtol=1e-5)


def test_other_learning_rates_are_the_published_ones_at_all_times():
    rates = learning_rates(CONFIG, jnp.float32(3.0), jnp.int32(7777))
    found = {name: float(rate) for name, rate in rates._asdict().items() if name != "means"}
    expected = {"log_scales": 5e-3, "quaternions": 1e-3, "opacity_logits": 0.05, "sh_dc": 2.5e-3, "sh_rest": 1.25e-4}
    assert found == pytest.approx(expected)


def random_like(rng, gaussians: Gaussians) -> Gaussians:
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), gaussians)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_steps_equal_adam_written_out_and_dead_slots_stay(backend):
    rng = np.random.default_rng(0)
    gaussians = random_like(rng, zeros(6))
    alive = np.array([1, 1, 0, 1, 0, 1], bool)
    rates = learning_rates(CONFIG, jnp.float32(1.0), jnp.int32(0))
    moments = adam().init(gaussians)
    expected = {k: np.asarray(v, np.float64) for k, v in gaussians._asdict().items()}
    first = {k: np.zeros_like(v) for k, v in expected.items()}
    second = {k: np.zeros_like(v) for k, v in expected.items()}
    start = gaussians
    for count in range(1, 6):
        gradient = random_like(rng, gaussians)
        gradient = jax.tree.map(lambda a: a * alive.reshape((6,) + (1,) * (a.ndim - 1)), gradient)
        gaussians, moments = apply_gradient(gaussians, gradient, moments, rates, backend=backend)
        for k in expected:
            g = np.asarray(getattr(gradient, k), np.float64)
            first[k] = 0.9 * first[k] + 0.1 * g
            second[k] = 0.999 * second[k] + 0.001 * g * g
            direction = (first[k] / (1 - 0.9**count)) / (np.sqrt(second[k] / (1 - 0.999**count)) + 1e-15)
            expected[k] -= float(getattr(rates, k)) * direction
    for k in expected:
        np.testing.assert_allclose(getattr(gaussians, k), expected[k], rtol=2e-5, atol=2e-6)
        np.testing.assert_array_equal(getattr(gaussians, k)[~alive], getattr(start, k)[~alive])


def test_clearing_moments_touches_only_what_it_should():
    rng = np.random.default_rng(1)
    moments = adam().init(zeros(4))._replace(mu=random_like(rng, zeros(4)), nu=random_like(rng, zeros(4)))
    slots = jnp.array([True, False, False, True])
    cleared = clear_moments(moments, slots)
    for old, new in zip(jax.tree.leaves(moments), jax.tree.leaves(cleared), strict=True):
        if old.ndim:
            np.testing.assert_array_equal(new[~slots], old[~slots])
            assert not np.any(new[slots])
    cleared = clear_opacity_moments(moments)
    for part in ("mu", "nu"):
        for name in Gaussians._fields:
            new, old = getattr(getattr(cleared, part), name), getattr(getattr(moments, part), name)
            np.testing.assert_array_equal(new, jnp.zeros_like(old) if name == "opacity_logits" else old)
