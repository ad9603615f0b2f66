"""What distillation does around its formulas: inputs, encodings, schedules, batches, diagnostics, refusals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_world import (
    FACTOR,
    FULL,
    IMAGE,
    KNOWN_PIXELS,
    PIXELS,
    WARPED,
    echo,
    quick_jit,
    toy,
    value_and_gradient,
)

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


def test_terms_see_their_own_posterior_sample_or_share_one():
    prior = dataclasses.replace(toy(posterior_std=0.3), predict_noise_inpaint=echo)
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

    prior = dataclasses.replace(toy(), predict_noise=counting("plain"), predict_noise_inpaint=counting("filled"))
    options = DistillationOptions(("sds", "g1", "g2"), encode=encode)
    jax.eval_shape(lambda: distillation_loss(jax.random.key(0), options, prior, IMAGE, WARPED, KNOWN_PIXELS, FULL))
    assert batches == {"plain": plain, "filled": filled}


def half_nan(_params, noisy, *_):
    return noisy.at[:, 0, 0, 0].set(jnp.nan).at[:, 1, 0, 0].set(jnp.inf)


def test_what_is_not_finite_counts_as_zero():
    good, bad = toy(), dataclasses.replace(toy(), predict_noise=half_nan)
    options = DistillationOptions(("sds",), guidance_scale=1.0)
    expected = np.array(value_and_gradient(jax.random.key(0), options, good)[2])
    value, _, gradient = value_and_gradient(jax.random.key(0), options, bad)
    expected[:FACTOR, :FACTOR, 0] = 0
    expected[FACTOR : 2 * FACTOR, :FACTOR, 0] = 0
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_timesteps_are_uniform_between_their_ends():
    prior = toy()
    keys = jax.random.split(jax.random.key(5), 3000)
    many = jax.vmap(value_and_gradient, in_axes=(0, None, None))
    few = many(keys, DistillationOptions(("sds",), first_timestep=3, last_timestep=5), prior)[1].timestep
    counts = np.bincount(few, minlength=7)
    assert counts[:3].sum() == counts[6:].sum() == 0 and np.all(np.abs(counts[3:6] - 1000) < 150)
    usual = many(keys, DistillationOptions(("sds",)), prior)[1].timestep
    assert 250 <= np.min(usual) < 256 and 744 <= np.max(usual) < 750


def test_weights_follow_the_schedule():
    options = DistillationOptions(("sds", "g1", "g2"))
    weight = jax.jit(
        lambda i: [w * options.strength(term, i) for term, w in zip(options.terms, options.weights, strict=True)]
    )
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
    options, prior = DistillationOptions(schedule=GuidanceSchedule(start=2, stop=7, ramp=2)), toy()

    def loss(image, key, iteration):
        return jax.lax.cond(
            options.schedule.active(iteration),
            lambda: distillation_loss(key, options, prior, image, WARPED, KNOWN_PIXELS, iteration),
            lambda: no_distillation(options, prior),
        )

    def body(key, iteration):
        (value, info), gradient = jax.value_and_grad(loss, has_aux=True)(IMAGE, key, iteration)
        return key, (value, info, gradient)

    _, (values, infos, gradients) = quick_jit(lambda k: jax.lax.scan(body, k, jnp.arange(1, 9)))(jax.random.key(1))
    off = np.array([True, True, False, False, False, False, True, True])
    assert np.all((np.asarray(values) == 0) == off)
    assert np.all((np.abs(gradients).max((1, 2, 3)) == 0) == off)
    assert np.all((np.asarray(infos.timestep) == 0) == off)
    full, _, _ = value_and_gradient(jax.random.key(1), DistillationOptions(), prior)
    np.testing.assert_allclose(values[2:6], full * np.array([0.5, 1, 1, 1]), rtol=1e-4)  # one key: ramp 1/2, then 1


def test_seeds_side_by_side_equal_seeds_alone():
    keys = jax.random.split(jax.random.key(9), 3)
    options, prior = DistillationOptions(), toy(posterior_std=0.1)
    values, _, gradients = jax.vmap(value_and_gradient, in_axes=(0, None, None))(keys, options, prior)
    for i, key in enumerate(keys):
        value, _, gradient = value_and_gradient(key, options, prior)
        np.testing.assert_allclose(values[i], value, rtol=1e-3)
        np.testing.assert_allclose(gradients[i], gradient, atol=1e-3 * float(jnp.abs(gradient).max()))
    assert len(np.unique(values)) == 3


def test_weightings_side_by_side():
    options, prior = DistillationOptions(), toy()
    key, weights = jax.random.key(2), np.array([[0.2, 2.0], [0.4, 0.0], [0.0, 1.0]], np.float32)
    losses = functools.partial(distillation_loss, key, options, prior, IMAGE, WARPED, KNOWN_PIXELS, FULL)
    values, infos = quick_jit(jax.vmap(losses))(weights)
    usual, info, _ = value_and_gradient(key, options, prior)
    np.testing.assert_allclose(values[0], usual, rtol=1e-4)
    np.testing.assert_allclose(infos.losses, np.asarray(info.losses) * weights / weights[0], rtol=1e-4)


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
    options, prior = DistillationOptions(("sds",)), toy()
    image = jnp.asarray(np.random.default_rng(2).uniform(size=(9, 5, 3)), jnp.float32)
    resized, transposed = jax.vjp(lambda x: resize_image(x, PIXELS), image)
    _, _, gradient = value_and_gradient(jax.random.key(0), options, prior, image)
    _, _, inner = value_and_gradient(jax.random.key(0), options, prior, resized)
    np.testing.assert_allclose(gradient, transposed(inner)[0], atol=1e-6)


def test_pictures_are_decoded_and_left_out_where_a_model_was_not_asked():
    prior = toy()
    _, info, _ = value_and_gradient(jax.random.key(0), DistillationOptions(), prior)
    pictures = decoded(prior, info.pictures)
    assert pictures.plain.shape == pictures.filled.shape == pictures.masked_image.shape == (PIXELS, PIXELS, 3)
    np.testing.assert_array_equal(pictures.known, KNOWN_PIXELS)
    expected = np.clip(0.5 * (np.asarray(info.pictures.filled) + 1), 0, 1).repeat(FACTOR, 0).repeat(FACTOR, 1)
    np.testing.assert_allclose(pictures.filled, expected, atol=1e-6)
    alone = DistillationOptions(("sds",))
    _, info = jax.eval_shape(lambda: distillation_loss(jax.random.key(0), alone, prior, IMAGE, None, None, FULL))
    assert info.pictures._replace(plain=None) == (None, None, None, None)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), info) == jax.tree.map(
        lambda a: (a.shape, a.dtype), no_distillation(alone, prior)[1]
    )


def test_refusals():
    key, prior = jax.random.key(0), toy()
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
