"""Schedule and guidance of diffusion priors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.priors.diffusion import (
    DiffusionPrior,
    add_noise,
    guided_noise,
    guided_noise_inpaint,
    predicted_latents,
    scaled_linear_schedule,
)

SHAPE = (4, 5, 2)


def report(params, *inputs):
    """Not a model: sums its inputs with different factors, so that one can see which came where."""
    noisy, t, *middle, conditioning = inputs
    total = noisy + 10.0 * t[:, None, None, None] + 1000.0 * conditioning["prompt"][:, None, None, :]
    return total * params + sum(100.0 * part for part in middle)


def no_images(*_):
    raise AssertionError("no image is encoded or decoded here")


def prior() -> DiffusionPrior:
    return DiffusionPrior(
        params=jnp.float32(1.0),
        positive={"prompt": jnp.array([3.0, 4.0])},
        negative={"prompt": jnp.array([1.0, -2.0])},
        alphas_cumprod=jnp.asarray(scaled_linear_schedule()),
        image_size=40,
        latent_shape=SHAPE,
        encode=no_images,
        decode=no_images,
        predict_noise=report,
        predict_noise_inpaint=report,
    )


def test_the_schedule_is_stable_diffusions():
    """The definition step by step, and the smallest and largest sigma known from samplers: 0.0292 and 14.61."""
    alphas = scaled_linear_schedule()
    assert alphas.shape == (1000,) and alphas.dtype == np.float32
    product, expected = 1.0, []
    for step in range(1000):
        root = 0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * step / 999
        product *= 1 - root**2
        expected.append(product)
    np.testing.assert_allclose(alphas, expected, rtol=1e-6)
    sigmas = np.sqrt((1 - alphas) / alphas)
    np.testing.assert_allclose(sigmas[[0, -1]], [0.0292, 14.6146], rtol=2e-3)
    with pytest.raises(ValueError, match=r"0 < beta_start <= beta_end < 1"):
        scaled_linear_schedule(beta_start=0.1, beta_end=0.01)


def test_noise_and_predicted_latents_undo_one_another():
    alphas = jnp.asarray(scaled_linear_schedule())
    z_key, noise_key = jax.random.split(jax.random.key(0))
    t = jnp.array([0, 250, 749])
    z, noise = jax.random.normal(z_key, (3, *SHAPE)), jax.random.normal(noise_key, (3, *SHAPE))
    noisy = add_noise(alphas, z, noise, t)
    for i, step in enumerate([0, 250, 749]):
        expected = np.sqrt(alphas[step]) * z[i] + np.sqrt(1 - alphas[step]) * noise[i]
        np.testing.assert_allclose(noisy[i], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predicted_latents(alphas, noisy, noise, t), z, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5, 100.0])
def test_guidance_extrapolates_from_the_negative_to_the_positive_prompt(scale):
    p = prior()
    noisy = jax.random.normal(jax.random.key(0), (3, *SHAPE))
    t = jnp.array([1, 2, 3])
    negative, positive = p.negative["prompt"], p.positive["prompt"]
    prompt = negative + scale * (positive - negative)
    expected = noisy + 10.0 * t[:, None, None, None] + 1000.0 * prompt[None, None, None]
    np.testing.assert_allclose(jax.jit(guided_noise)(p, noisy, t, scale), expected, rtol=1e-5)
    mask, known = jnp.ones((3, 4, 5, 1)), jnp.full((3, *SHAPE), 0.5)
    filled = jax.jit(guided_noise_inpaint)(p, noisy, t, mask, known, scale)
    np.testing.assert_allclose(filled, expected + 150.0, rtol=1e-5)


def test_a_prior_is_a_pytree_with_static_functions():
    p = prior()
    assert len(jax.tree.leaves(p)) == 4
    doubled = jax.tree.map(lambda leaf: 2 * leaf, p)
    assert doubled.predict_noise is report and doubled.latent_shape == SHAPE and float(doubled.params) == 2
    traces = []

    @jax.jit
    def noise(p, noisy):
        traces.append(1)
        return guided_noise(p, noisy, jnp.zeros(1, jnp.int32), 1.0)

    zeros = jnp.zeros((1, *SHAPE))
    noise(p, zeros), noise(doubled, zeros), noise(dataclasses.replace(p, params=jnp.float32(3)), zeros)
    assert len(traces) == 1  # other weights and prompts are the same program


def test_weights_side_by_side():
    p = prior()
    many = dataclasses.replace(p, params=jnp.array([1.0, 2.0]))
    axes = jax.tree.map(lambda _: None, p)
    axes = dataclasses.replace(axes, params=0)
    noisy, t = jnp.ones((1, *SHAPE)), jnp.zeros(1, jnp.int32)
    both = jax.vmap(guided_noise, in_axes=(axes, None, None, None))(many, noisy, t, 7.5)
    np.testing.assert_allclose(both[1], 2 * both[0], rtol=1e-6)
