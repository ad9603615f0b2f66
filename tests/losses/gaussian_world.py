"""A toy world of 6 x 6 pictures in which every score is known: the prior, one render, one warped photo, formulas."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ipsm_jax.losses.distillation import DistillationOptions, distillation_loss
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


def loss_and_gradient(key, options, prior, image=IMAGE, iteration=FULL):
    def loss(image):
        return distillation_loss(key, options, prior, image, WARPED, KNOWN_PIXELS, iteration)

    (value, info), gradient = jax.value_and_grad(loss, has_aux=True)(image)
    return value, info, gradient


# Many small programs that run once: compiling them is what takes time.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
value_and_gradient = quick_jit(loss_and_gradient, static_argnums=1)


def echo(_params, noisy, *_):
    return noisy


def echo_inpaint(_params, noisy, _t, mask, masked_latents, _conditioning):
    return 0.5 * noisy * mask + masked_latents


def toy(**options):
    """The same world with models that are cheap to compile, for tests that need no formula."""
    return dataclasses.replace(exact(**options), predict_noise=echo, predict_noise_inpaint=echo_inpaint)


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
