"""The exact Gaussian prior against scipy's densities and the block formulas of conditioning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ipsm_jax.priors.diffusion import scaled_linear_schedule
from ipsm_jax.priors.exact import conditioned, gaussian_prior

SIDE = 3
SIZE = SIDE * SIDE * 3


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(SIZE, SIZE)) / np.sqrt(SIZE)
    return rng.uniform(-0.5, 0.5, (SIDE, SIDE, 3)), 0.3 * root @ root.T + 0.05 * np.eye(SIZE)


def score(point, mean, covariance):
    """Gradient of the log density, by differences of scipy's."""
    density = scipy.stats.multivariate_normal(mean, covariance)
    steps = 1e-4 * np.eye(len(point))
    return np.array([(density.logpdf(point + s) - density.logpdf(point - s)) / 2e-4 for s in steps])


@pytest.mark.parametrize("t", [0, 250, 749])
def test_predicted_noise_is_the_scaled_score_of_the_noisy_distribution(t):
    mean, covariance = parameters()
    prior = gaussian_prior(mean, covariance)
    alpha = float(scaled_linear_schedule()[t])
    point = np.random.default_rng(1).normal(size=SIZE)
    expected = -np.sqrt(1 - alpha) * score(
        point, np.sqrt(alpha) * mean.ravel(), alpha * covariance + (1 - alpha) * np.eye(SIZE)
    )
    noisy = jnp.asarray(point, jnp.float32).reshape(1, SIDE, SIDE, 3)
    noise = jax.jit(prior.predict_noise)(prior.params, noisy, jnp.array([t]), prior.positive[None])
    np.testing.assert_allclose(noise.ravel(), expected, rtol=1e-3, atol=1e-3)


def given_by_blocks(mean, covariance, known, values):
    """Mean and covariance given the known entries, as in the textbooks."""
    k, u = np.flatnonzero(known), np.flatnonzero(~known)
    gain = covariance[np.ix_(u, k)] @ np.linalg.inv(covariance[np.ix_(k, k)])
    new_mean, new_covariance = values.copy(), np.zeros_like(covariance)
    new_mean[u] = mean[u] + gain @ (values[k] - mean[k])
    new_covariance[np.ix_(u, u)] = covariance[np.ix_(u, u)] - gain @ covariance[np.ix_(k, u)]
    return new_mean, new_covariance


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_conditioning_equals_the_block_formulas(share):
    mean, covariance = parameters()
    rng = np.random.default_rng(2)
    known, values = rng.uniform(size=SIZE) < share, rng.uniform(-1, 1, SIZE)
    new_mean, new_covariance = jax.jit(conditioned)(
        jnp.asarray(mean.ravel(), jnp.float32),
        jnp.asarray(covariance, jnp.float32),
        known,
        jnp.asarray(values, jnp.float32),
    )
    expected = given_by_blocks(mean.ravel(), covariance, known, values)
    np.testing.assert_allclose(new_mean, expected[0], atol=2e-5)
    np.testing.assert_allclose(new_covariance, expected[1], atol=2e-5)


def test_the_inpainting_model_knows_the_known_pixels():
    mean, covariance = parameters()
    prior = gaussian_prior(mean, covariance)
    rng = np.random.default_rng(3)
    fill = rng.uniform(size=(SIDE, SIDE, 1)) < 0.5
    values, noisy = rng.uniform(-1, 1, (SIDE, SIDE, 3)), rng.normal(size=(SIDE, SIDE, 3))
    alpha = float(scaled_linear_schedule()[400])
    known = np.broadcast_to(~fill, values.shape).ravel()
    given_mean, given_covariance = given_by_blocks(mean.ravel(), covariance, known, values.ravel())
    spread = alpha * given_covariance + (1 - alpha) * np.eye(SIZE)
    expected = np.sqrt(1 - alpha) * np.linalg.solve(spread, noisy.ravel() - np.sqrt(alpha) * given_mean)
    single = [jnp.asarray(a, jnp.float32)[None] for a in (noisy, fill, values)]
    noise = jax.jit(prior.predict_noise_inpaint)(
        prior.params, single[0], jnp.array([400]), single[1], single[2], prior.positive[None]
    )
    np.testing.assert_allclose(noise.ravel(), expected, atol=1e-4)
    clean = (noisy - np.sqrt(1 - alpha) * np.asarray(noise[0])) / np.sqrt(alpha)
    np.testing.assert_allclose(clean.ravel()[known], values.ravel()[known], atol=1e-4)


def test_encoding_averages_and_decoding_spreads():
    mean, covariance = parameters()
    prior = gaussian_prior(mean, covariance, factor=2, posterior_std=0.5)
    assert prior.image_size == 6 and prior.latent_shape == (3, 3, 3)
    small = np.random.default_rng(4).uniform(size=(2, 3, 3, 3)).astype(np.float32)
    images = jnp.asarray(small.repeat(2, axis=1).repeat(2, axis=2))
    latents = prior.encode(prior.params, images, None)
    np.testing.assert_allclose(latents, 2 * small - 1, atol=1e-6)
    np.testing.assert_allclose(prior.decode(prior.params, latents), images, atol=1e-6)
    keys = jax.random.split(jax.random.key(0), 500)
    samples = jax.vmap(prior.encode, in_axes=(None, None, 0))(prior.params, images, keys)
    np.testing.assert_allclose(np.std(samples - latents[None]), 0.5, rtol=0.02)


def test_refusals():
    mean, covariance = parameters()
    with pytest.raises(ValueError, match=r"covariance of \(27, 27\), got \(26, 26\)"):
        gaussian_prior(mean, covariance[1:, 1:])
    with pytest.raises(ValueError, match="square with 3 channels"):
        gaussian_prior(mean[:2], covariance)
