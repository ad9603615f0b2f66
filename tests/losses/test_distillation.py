"""Distillation with a prior whose scores are known: gradients equal their formulas, and lead where they should."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.losses.distillation import (
    DistillationOptions,
    decoded,
    distillation_loss,
    latent_hole,
    masked_input,
    no_distillation,
    resize_image,
)
from ipsm_jax.losses.schedule import GuidanceSchedule
from ipsm_jax.priors.exact import gaussian_prior

SIDE, FACTOR = 3, 2
PIXELS = SIDE * FACTOR
SIZE = SIDE * SIDE * 3
FULL = 3000  # an iteration in which ramps are 1
RNG = np.random.default_rng(0)
MEAN, NEGATIVE = RNG.uniform(-0.4, 0.4, (2, SIDE, SIDE, 3))
PLACES = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), -1).reshape(-1, 2)
SQUARED = ((PLACES[:, None] - PLACES[None]) ** 2).sum(-1)
COVARIANCE = 0.09 * np.kron(np.exp(-SQUARED / 2), 0.7 * np.eye(3) + 0.3) + 0.002 * np.eye(SIZE)
IMAGE = jnp.asarray(RNG.uniform(0.2, 0.8, (PIXELS, PIXELS, 3)), jnp.float32)
WARPED = jnp.asarray(RNG.uniform(0.2, 0.8, (PIXELS, PIXELS, 3)), jnp.float32)
KNOWN = np.zeros((SIDE, SIDE), bool)
KNOWN[:, :1] = KNOWN[2, 1] = True
KNOWN_PIXELS = jnp.asarray(KNOWN.repeat(FACTOR, 0).repeat(FACTOR, 1))

exact = functools.partial(gaussian_prior, MEAN, COVARIANCE, negative_mean=NEGATIVE, factor=FACTOR)


@functools.partial(jax.jit, static_argnums=1)
def value_and_gradient(key, options, prior, image=IMAGE, iteration=FULL):
    def loss(image):
        return distillation_loss(key, options, prior, image, WARPED, KNOWN_PIXELS, iteration)

    (value, info), gradient = jax.value_and_grad(loss, has_aux=True)(image)
    return value, info, gradient


def echo(_params, noisy, *_):
    return noisy


def drawn(key):
    """Signal level and noise that a key stands for, seen through a prior that predicts its own input."""
    prior = dataclasses.replace(exact(), predict_noise=echo)
    _, info, _ = value_and_gradient(key, DistillationOptions(("sds",)), prior)
    alpha = float(prior.alphas_cumprod[info.timestep])
    noisy = np.asarray(info.pictures.plain, np.float64) * np.sqrt(alpha) / (1 - np.sqrt(1 - alpha))
    return alpha, (noisy - np.sqrt(alpha) * latents()) / np.sqrt(1 - alpha)


def latents(image=IMAGE):
    cells = np.asarray(image, np.float64).reshape(SIDE, FACTOR, SIDE, FACTOR, 3)
    return 2 * cells.mean((1, 3)) - 1


def to_image(gradient):
    """The transposed encoder: each pixel has 2 / FACTOR^2 of its cell's gradient."""
    return (2 / FACTOR**2 * gradient).repeat(FACTOR, 0).repeat(FACTOR, 1)


def plain_noise(alpha, noisy, scale):
    mean = NEGATIVE + scale * (MEAN - NEGATIVE)  # the prediction is affine in the mean
    spread = alpha * COVARIANCE + (1 - alpha) * np.eye(SIZE)
    return np.sqrt(1 - alpha) * np.linalg.solve(spread, (noisy - np.sqrt(alpha) * mean).ravel()).reshape(noisy.shape)


def given(scale):
    """Mean and covariance given the warped photo's known latents, by blocks."""
    mean, values = (NEGATIVE + scale * (MEAN - NEGATIVE)).ravel(), latents(WARPED).ravel()
    known = np.broadcast_to(KNOWN[..., None], (SIDE, SIDE, 3)).ravel()
    k, u = np.flatnonzero(known), np.flatnonzero(~known)
    gain = COVARIANCE[np.ix_(u, k)] @ np.linalg.inv(COVARIANCE[np.ix_(k, k)])
    new_mean, covariance = values.copy(), np.zeros((SIZE, SIZE))
    new_mean[u] = mean[u] + gain @ (values[k] - mean[k])
    covariance[np.ix_(u, u)] = COVARIANCE[np.ix_(u, u)] - gain @ COVARIANCE[np.ix_(k, u)]
    return new_mean.reshape(MEAN.shape), covariance


def fill_noise(alpha, noisy, scale):
    mean, covariance = given(scale)
    spread = alpha * covariance + (1 - alpha) * np.eye(SIZE)
    return np.sqrt(1 - alpha) * np.linalg.solve(spread, (noisy - np.sqrt(alpha) * mean).ravel()).reshape(noisy.shape)


CASES = {
    "sds": DistillationOptions(("sds",)),
    "sds, guidance 100": DistillationOptions(("sds",), guidance_scale=100.0),
    "sds, other omega": DistillationOptions(("sds",), weighting="noise", guidance_scale=1.0),
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
    keys = jax.random.split(jax.random.key(3), 4000)
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


def descend(options, start, steps=1200, rate=4.0):
    """Latents that gradient descent on the image ends at without guidance scale, averaged over the last third."""
    prior = dataclasses.replace(exact(), negative=exact().positive)

    def step(carry, index):
        image, key = carry
        _, _, gradient = value_and_gradient(jax.random.fold_in(key, index), options, prior, image)
        image = image - rate * gradient
        return (image, key), image

    run = jax.jit(lambda image: jax.lax.scan(step, (image, jax.random.key(0)), jnp.arange(steps))[1])
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


def test_terms_see_their_own_posterior_sample_or_share_one():
    prior = dataclasses.replace(exact(posterior_std=0.3), predict_noise=echo, predict_noise_inpaint=echo)
    for encode, same in (("per_term", False), ("shared", True)):
        options = DistillationOptions(("sds", "g1"), encode=encode)
        _, info, _ = value_and_gradient(jax.random.key(0), options, prior)
        assert np.allclose(info.pictures.plain, info.pictures.filled) == same


@pytest.mark.parametrize(("encode", "plain", "filled"), [("per_term", [4], [4]), ("shared", [2], [2])])
def test_each_model_runs_once_on_what_it_has_to_see(encode, plain, filled):
    """With all terms the rows are two encodings, or one, times two for guidance."""
    batches = {"plain": [], "filled": []}

    def counting(name):
        def predict(_params, noisy, *_):
            batches[name].append(noisy.shape[0])
            return noisy

        return predict

    prior = dataclasses.replace(exact(), predict_noise=counting("plain"), predict_noise_inpaint=counting("filled"))
    options = DistillationOptions(("sds", "g1", "g2"), encode=encode)
    jax.eval_shape(lambda: distillation_loss(jax.random.key(0), options, prior, IMAGE, WARPED, KNOWN_PIXELS, FULL))
    assert batches == {"plain": plain, "filled": filled}


def half_nan(_params, noisy, *_):
    return noisy.at[:, 0, 0, 0].set(jnp.nan).at[:, 1, 0, 0].set(jnp.inf)


def test_what_is_not_finite_counts_as_zero():
    prior = exact()
    good = dataclasses.replace(prior, predict_noise=echo)
    bad = dataclasses.replace(prior, predict_noise=half_nan)
    options = DistillationOptions(("sds",), guidance_scale=1.0)
    expected = np.array(value_and_gradient(jax.random.key(0), options, good)[2])
    value, _, gradient = value_and_gradient(jax.random.key(0), options, bad)
    expected[:FACTOR, :FACTOR, 0] = 0
    expected[FACTOR : 2 * FACTOR, :FACTOR, 0] = 0
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_timesteps_are_uniform_between_their_ends():
    prior = dataclasses.replace(exact(), predict_noise=echo)
    keys = jax.random.split(jax.random.key(5), 6000)
    many = jax.vmap(value_and_gradient, in_axes=(0, None, None))
    few = many(keys, DistillationOptions(("sds",), first_timestep=3, last_timestep=5), prior)[1].timestep
    counts = np.bincount(few, minlength=7)
    assert counts[:3].sum() == counts[6:].sum() == 0 and np.all(np.abs(counts[3:6] - 2000) < 200)
    usual = many(keys, DistillationOptions(("sds",)), prior)[1].timestep
    assert 250 <= np.min(usual) < 255 and 745 <= np.max(usual) < 750


def test_weights_follow_the_schedule():
    options = DistillationOptions(("sds", "g1", "g2"))
    weight = jax.jit(lambda iteration: [options.weight(term, iteration) for term in options.terms])
    for iteration, expected in {
        2000: (0, 0, 0),
        2001: (2.0, 0.2 / 500, 2.0 / 500),
        2250: (2.0, 0.1, 1.0),
        2500: (2.0, 0.2, 2.0),
        9499: (2.0, 0.2, 2.0),
        9500: (0, 0, 0),
    }.items():
        np.testing.assert_allclose(weight(iteration), expected, rtol=1e-6)


def test_inside_a_loop_with_a_traced_iteration_behind_a_condition():
    """Off, ramping, full: what a training step does, with zeros from `no_distillation` while it is off."""
    options, prior = DistillationOptions(schedule=GuidanceSchedule(start=2, stop=7, ramp=2)), exact()

    def loss(image, key, iteration):
        return jax.lax.cond(
            options.schedule.active(iteration),
            lambda: distillation_loss(key, options, prior, image, WARPED, KNOWN_PIXELS, iteration),
            lambda: no_distillation(options, prior),
        )

    def body(key, iteration):
        (value, info), gradient = jax.value_and_grad(loss, has_aux=True)(IMAGE, key, iteration)
        return key, (value, info, gradient)

    _, (values, infos, gradients) = jax.jit(lambda k: jax.lax.scan(body, k, jnp.arange(1, 9)))(jax.random.key(1))
    off = np.array([True, True, False, False, False, False, True, True])
    assert np.all((np.asarray(values) == 0) == off)
    assert np.all((np.abs(gradients).max((1, 2, 3)) == 0) == off)
    assert np.all((np.asarray(infos.timestep) == 0) == off)
    full, _, _ = value_and_gradient(jax.random.key(1), DistillationOptions(), prior)
    np.testing.assert_allclose(values[2:6], full * np.array([0.5, 1, 1, 1]), rtol=1e-4)  # one key: ramp 1/2, then 1


def test_seeds_side_by_side_equal_seeds_alone():
    keys = jax.random.split(jax.random.key(9), 3)
    options, prior = DistillationOptions(), exact(posterior_std=0.1)
    values, _, gradients = jax.vmap(value_and_gradient, in_axes=(0, None, None))(keys, options, prior)
    for i, key in enumerate(keys):
        value, _, gradient = value_and_gradient(key, options, prior)
        np.testing.assert_allclose(values[i], value, rtol=1e-3)
        np.testing.assert_allclose(gradients[i], gradient, atol=1e-3 * float(jnp.abs(gradient).max()))
    assert len(np.unique(values)) == 3


def bilinear_matrix(before, after):
    """Rows of weights: pixel centers at +0.5, border repeated, no low-pass filter."""
    matrix = np.zeros((after, before))
    for row in range(after):
        place = np.clip((row + 0.5) * before / after - 0.5, 0, before - 1)
        low = int(np.floor(place))
        matrix[row, low] += 1 - (place - low)
        matrix[row, min(low + 1, before - 1)] += place - low
    return matrix


@pytest.mark.parametrize("shape", [(5, 9), (23, 17), (8, 8)])
def test_resizing_is_bilinear_without_a_filter(shape):
    image = np.random.default_rng(0).uniform(size=(*shape, 3)).astype(np.float32)
    rows, columns = (bilinear_matrix(n, 8) for n in shape)
    expected = np.einsum("ij,jkc,lk->ilc", rows, image, columns)
    np.testing.assert_allclose(resize_image(jnp.asarray(image), 8), expected, atol=1e-6)


def test_the_mask_is_thresholded_and_its_hole_is_gray():
    rng = np.random.default_rng(1)
    warped, known = rng.uniform(size=(10, 14, 3)).astype(np.float32), rng.uniform(size=(10, 14)) < 0.6
    rows, columns = bilinear_matrix(10, 32), bilinear_matrix(14, 32)
    share = rows @ known @ columns.T
    clear = np.abs(share - 0.5) > 1e-6
    image, resized = masked_input(jnp.asarray(warped), jnp.asarray(known), 32)
    np.testing.assert_array_equal(np.asarray(resized)[clear], (share > 0.5)[clear])
    whole = np.einsum("ij,jkc,lk->ilc", rows, warped, columns)
    expected = np.where(np.asarray(resized)[..., None], whole, 0.5)
    np.testing.assert_allclose(image, expected, atol=1e-6)
    hole = np.asarray(latent_hole(resized, (4, 4, 5)))
    assert hole.shape == (4, 4, 1)
    for i in range(4):
        for j in range(4):
            assert hole[i, j, 0] == (not resized[8 * i, 8 * j])


def test_a_render_of_another_size_gets_the_gradient_of_its_resized_self():
    options, prior = DistillationOptions(("sds",)), exact()
    image = jnp.asarray(np.random.default_rng(2).uniform(size=(9, 5, 3)), jnp.float32)
    resized, transposed = jax.vjp(lambda x: resize_image(x, PIXELS), image)
    _, _, gradient = value_and_gradient(jax.random.key(0), options, prior, image)
    _, _, inner = value_and_gradient(jax.random.key(0), options, prior, resized)
    np.testing.assert_allclose(gradient, transposed(inner)[0], atol=1e-6)


def test_pictures_are_decoded_and_left_out_where_a_model_was_not_asked():
    prior = exact()
    _, info, _ = value_and_gradient(jax.random.key(0), DistillationOptions(), prior)
    pictures = decoded(prior, info.pictures)
    assert pictures.plain.shape == pictures.filled.shape == pictures.masked_image.shape == (PIXELS, PIXELS, 3)
    np.testing.assert_array_equal(pictures.known, KNOWN_PIXELS)
    expected = np.clip(0.5 * (np.asarray(info.pictures.filled) + 1), 0, 1).repeat(FACTOR, 0).repeat(FACTOR, 1)
    np.testing.assert_allclose(pictures.filled, expected, atol=1e-6)
    alone = distillation_loss(jax.random.key(0), DistillationOptions(("sds",)), prior, IMAGE, None, None, FULL)[1]
    assert decoded(prior, alone.pictures)._replace(plain=None) == (None, None, None, None)


def test_refusals():
    key, prior = jax.random.key(0), exact()
    with pytest.raises(ValueError, match="need a warped photo and its mask"):
        distillation_loss(key, DistillationOptions(("sds", "g1")), prior, IMAGE, None, None, FULL)
    with pytest.raises(ValueError, match="last_timestep is 1000, but the prior has timesteps 0 to 999"):
        distillation_loss(key, DistillationOptions(("sds",), last_timestep=1000), prior, IMAGE, None, None, FULL)
    for terms in ((), ("sds", "sds"), ("g3",)):
        with pytest.raises(ValueError, match="one or more of sds, g1, g2"):
            DistillationOptions(terms)
    with pytest.raises(ValueError, match="0 <= first <= last, got 5 and 4"):
        DistillationOptions(first_timestep=5, last_timestep=4)
    with pytest.raises(ValueError, match="g2_sign is one of published, paper; got 'minus'"):
        DistillationOptions(g2_sign="minus")
