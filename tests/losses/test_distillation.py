"""Distillation with a prior whose scores are known: gradients equal their formulas, and lead where they should."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_world import (
    COVARIANCE,
    FACTOR,
    IMAGE,
    KNOWN,
    MEAN,
    NEGATIVE,
    SIZE,
    WARPED,
    drawn,
    exact,
    fill_noise,
    given,
    latents,
    loss_and_gradient,
    plain_noise,
    quick_jit,
    to_image,
    value_and_gradient,
)

from ipsm_jax.losses.distillation import DistillationOptions

CASES = {
    "sds, guidance 100": DistillationOptions(("sds",), guidance_scale=100.0, weighting="noise"),
    "g1": DistillationOptions(("g1",), inpaint_guidance_scale=3.0),
    "g2": DistillationOptions(("g2",)),
    "g2 of the paper": DistillationOptions(("g2",), g2_sign="paper", weighting="constant"),
    "g1 and g2": DistillationOptions(),
    "all, shared": DistillationOptions(("sds", "g1", "g2"), encode="shared", g1_weight=3.0, guidance_scale=2.0),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_that_reaches_the_image_is_the_formula(name):
    """J_encode^T g weight / size(z), term by term and in sum, for the noise and timestep that were drawn."""
    options = CASES[name]
    key = jax.random.key(len(name))
    value, info, gradient = value_and_gradient(key, options, exact())
    alpha, noise = drawn(key)
    noisy = np.sqrt(alpha) * latents() + np.sqrt(1 - alpha) * noise
    plain = plain_noise(alpha, noisy, options.guidance_scale)
    fill = fill_noise(alpha, noisy, options.inpaint_guidance_scale)
    omega = {"alpha": alpha, "noise": 1 - alpha, "constant": 1.0}[options.weighting]
    sign = 1 if options.g2_sign == "published" else -1
    directions = {"sds": plain - noise, "g1": fill - noise, "g2": sign * (fill - plain)}
    weights = {"sds": options.sds_weight, "g1": options.g1_weight, "g2": options.g2_weight}
    expected, losses, norms = np.zeros(MEAN.shape), [], []
    for term in options.terms:
        g = omega * directions[term]
        expected += weights[term] * g / SIZE
        losses.append(weights[term] * 0.5 * np.mean(g**2))
        norms.append(weights[term] * np.linalg.norm(g) / SIZE)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(gradient, to_image(expected), atol=2e-4 * scale)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-3)
    np.testing.assert_allclose(info.gradient_norms, norms, rtol=1e-3)
    np.testing.assert_allclose(value, np.sum(losses), rtol=1e-3)
    for picture, prediction in ((info.pictures.plain, plain), (info.pictures.filled, fill)):
        if picture is not None:
            clean = (noisy - np.sqrt(1 - alpha) * prediction) / np.sqrt(alpha)
            np.testing.assert_allclose(picture, clean, atol=2e-3 * (1 + np.abs(clean).max()))


def test_expected_gradients_over_the_noise():
    """E over noise: w sqrt(a (1 - a)) (a S + (1 - a) I)^-1 (z - m), with m and S given the known pixels for G1."""
    sds = DistillationOptions(("sds",), first_timestep=400, last_timestep=400, sds_weight=1.0)
    keys = jax.random.split(jax.random.key(3), 1500)
    for options, mean, covariance in (
        (sds, NEGATIVE + 7.5 * (MEAN - NEGATIVE), COVARIANCE),
        (dataclasses.replace(sds, terms=("g1",), g1_weight=1.0), *given(7.5)),
    ):
        gradients = jax.vmap(value_and_gradient, in_axes=(0, None, None))(keys, options, exact())[2]
        alpha = float(exact().alphas_cumprod[400])
        spread = alpha * covariance + (1 - alpha) * np.eye(SIZE)
        g = alpha * np.sqrt(alpha * (1 - alpha)) * np.linalg.solve(spread, (latents() - mean).ravel())
        expected = to_image(g.reshape(MEAN.shape) / SIZE)
        error = np.std(gradients, axis=0) / np.sqrt(len(keys))  # 0 at known pixels, where the noise drops out
        assert np.all(np.abs(np.mean(gradients, axis=0) - expected) < 5 * error + 1e-6)
        assert np.abs(expected).max() > 50 * error.mean()  # the noise of the average does not hide the result


def descend(options, start, steps=800, rate=4.0):
    """Latents that gradient descent on the image ends at without guidance scale, averaged over the last third."""
    prior = dataclasses.replace(exact(), negative=exact().positive)

    def step(carry, index):
        image, key = carry
        _, _, gradient = loss_and_gradient(jax.random.fold_in(key, index), options, prior, image)
        image = image - rate * gradient
        return (image, key), image

    run = quick_jit(lambda image: jax.lax.scan(step, (image, jax.random.key(0)), jnp.arange(steps))[1])
    return latents(np.mean(run(start)[-steps // 3 :], axis=0))


def pull(g1, g2):
    """Matrix A and vector b of the mean gradient A z - b of g1 G1 + g2 G2 as published, over noise and timesteps."""
    mean, covariance = given(1.0)
    matrix, vector = np.zeros((SIZE, SIZE)), np.zeros(SIZE)
    for alpha in np.asarray(exact().alphas_cumprod, np.float64)[250:750:10]:
        factor = alpha * np.sqrt(alpha * (1 - alpha))
        for weight, m, s in ((g1 + g2, mean, covariance), (-g2, MEAN, COVARIANCE)):
            inverse = np.linalg.inv(alpha * s + (1 - alpha) * np.eye(SIZE))
            matrix += weight * factor * inverse
            vector += weight * factor * inverse @ m.ravel()
    return matrix, vector


def distance(a, b):
    return np.sqrt(np.mean((a - b) ** 2))


def test_sds_drifts_to_the_mode_and_ipsm_to_what_fits_the_known_pixels():
    target = given(1.0)[0]
    assert distance(latents(), MEAN) > 0.25 and distance(latents(), target) > 0.25 and distance(MEAN, target) > 0.15
    assert distance(descend(DistillationOptions(("sds",)), IMAGE), MEAN) < 0.02
    filled = descend(DistillationOptions(("g1",), g1_weight=2.0), IMAGE)
    assert distance(filled, target) < 0.02
    assert distance(filled[KNOWN], latents(WARPED)[KNOWN]) < 1e-4


@pytest.mark.parametrize("sign", ["published", "paper"])
def test_g2_pushes_away_from_the_plain_models_mode_or_towards_it(sign):
    """G1 + G2 as published ends beyond the target as seen from the mode; with the paper's sign before it."""
    options = DistillationOptions(g1_weight=2.0, g2_weight=1.0, g2_sign=sign)
    end = descend(options, IMAGE)
    expected = np.linalg.solve(*pull(2.0, 1.0 if sign == "published" else -1.0)).reshape(MEAN.shape)
    assert distance(end, expected) < 0.03
    target = given(1.0)[0]
    along = np.sum((end - MEAN) * (target - MEAN)) / np.sum((target - MEAN) ** 2)
    assert along > 1.2 if sign == "published" else along < 0.8


def test_with_published_weights_the_papers_sign_repels_the_known_pixels():
    """0.2 G1 + 2 G2 is 0.2 (e_plain + 11 (e_fill - e_plain) - e): guidance by the photo with scale 11, or, with the
    other sign, -9, which has no fixed point that attracts.
    """
    assert np.linalg.eigvalsh(pull(0.2, 2.0)[0]).min() > 0
    assert np.linalg.eigvalsh(pull(0.2, -2.0)[0]).min() < 0
    target = 0.5 * (given(1.0)[0] + 1)
    start = jnp.asarray(target.repeat(FACTOR, 0).repeat(FACTOR, 1), jnp.float32)
    end = descend(DistillationOptions(g2_sign="paper"), start, steps=100)
    assert distance(end[KNOWN], latents(WARPED)[KNOWN]) > 0.05
