"""A diffusion prior of points in the plane (or any few dimensions) that is known exactly: a mixture of Gaussians.

A point is a picture with d gray pixels in a row, so that the library's losses take it as they take any picture; its
latents are its d coordinates. If they come from the mixture sum_k w_k N(m_k, S_k), then with a = a_t

    z_t ~ sum_k w_k N(sqrt(a) m_k, C_k),  C_k = a S_k + (1 - a) I,
    E[e | z_t] = sqrt(1 - a) sum_k r_k(z_t) C_k^-1 (z_t - sqrt(a) m_k),

r_k the share of component k in the density of z_t. A prompt is the logarithm of the weights. The inpainting model is
the same mixture given coordinates that were seen with an error N(0, s^2), s the error of the warp: each component
becomes its own posterior, and its weight is multiplied by how likely it made what was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ipsm_jax.priors.diffusion import DiffusionPrior, scaled_linear_schedule

EXTENT = 12.0
"""Coordinates of -EXTENT and EXTENT are a black and a white pixel."""


class Mixture(NamedTuple):
    """k Gaussians in d dimensions: logarithms of weights that need not sum to 1, means and covariances."""

    log_weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    covariances: Float[Array, "k d d"]


class MixtureParams(NamedTuple):
    """Parameters of the prior.

    Attributes:
      means: (k, d) of the components, whatever the prompt.
      covariances: (k, d, d).
      warp_error: () standard deviation s of a coordinate that was seen, in latents.
      alphas_cumprod: (T,) the schedule.
    """

    means: Float[Array, "k d"]
    covariances: Float[Array, "k d d"]
    warp_error: Float[Array, ""]
    alphas_cumprod: Float[Array, " t"]


def mixture_prior(
    means: Sequence[Sequence[float]],
    covariances: Sequence[Sequence[Sequence[float]]],
    weights: Sequence[float],
    negative_weights: Sequence[float],
    warp_error: float,
) -> DiffusionPrior:
    """The exact prior of a mixture, on Stable Diffusion's noise schedule.

    Args:
      means: (k, d).
      covariances: (k, d, d), positive definite.
      weights: (k,) at least 0, of the prompt.
      negative_weights: (k,) at least 0, without prompt.
      warp_error: above 0, in latents.
    """
    dimensions = np.shape(means)[1]
    with np.errstate(divide="ignore"):  # a component that the prompt rules out
        positive, negative = (jnp.asarray(np.log(np.asarray(w, np.float64))) for w in (weights, negative_weights))
    alphas = jnp.asarray(scaled_linear_schedule(), positive.dtype)
    return DiffusionPrior(
        params=MixtureParams(
            jnp.asarray(means, alphas.dtype),
            jnp.asarray(covariances, alphas.dtype),
            jnp.asarray(warp_error, alphas.dtype),
            alphas,
        ),
        positive=positive,
        negative=negative,
        alphas_cumprod=alphas,
        image_size=dimensions,
        latent_shape=(1, dimensions, 1),
        encode=_encode,
        decode=_decode,
        predict_noise=_predict_noise,
        predict_noise_inpaint=_predict_noise_inpaint,
    )


def picture(point: Float[Array, " d"]) -> Float[Array, "1 d 3"]:
    """The picture that a point is."""
    values = 0.5 + point / (2 * EXTENT)
    return jnp.broadcast_to(values[None, :, None], (1, len(point), 3))


def log_density(mixture: Mixture, point: Float[Array, " d"]) -> Float[Array, ""]:
    """Logarithm of the density at a point, up to the sum of the weights."""
    return jax.nn.logsumexp(_log_terms(mixture, point)[0])


def noised(mixture: Mixture, alpha: Float[Array, ""]) -> Mixture:
    """The distribution of sqrt(alpha) z + sqrt(1 - alpha) e."""
    identity = jnp.eye(mixture.means.shape[1])[None]
    return Mixture(
        mixture.log_weights, jnp.sqrt(alpha) * mixture.means, alpha * mixture.covariances + (1 - alpha) * identity
    )


def given(mixture: Mixture, known: Float[Array, " d"], values: Float[Array, " d"], error: Float[Array, ""]) -> Mixture:
    """The mixture given those coordinates where `known` is 1 (else 0), seen with a standard deviation of `error`."""

    def one(mean: Array, covariance: Array) -> tuple[Array, Array, Array]:
        # Of full size whatever is known: a coordinate that is not has a residual of 0, and no effect.
        seen = known[:, None] * covariance * known[None, :] + error**2 * jnp.eye(len(known))
        residual = known * (values - mean)
        gain = jnp.linalg.solve(seen, known[:, None] * covariance).T
        evidence = -0.5 * (residual @ jnp.linalg.solve(seen, residual) + jnp.linalg.slogdet(seen)[1])
        return evidence, mean + gain @ residual, covariance - gain @ (known[:, None] * covariance)

    evidence, means, covariances = jax.vmap(one)(mixture.means, mixture.covariances)
    return Mixture(mixture.log_weights + evidence, means, covariances)


def expected_noise(mixture: Mixture, alpha: Float[Array, ""], point: Float[Array, " d"]) -> Float[Array, " d"]:
    """E[e | z_t = point], the best prediction of the noise."""
    log_terms, pulls = _log_terms(noised(mixture, alpha), point)
    return jnp.sqrt(1 - alpha) * jax.nn.softmax(log_terms) @ pulls


def _log_terms(mixture: Mixture, point: Float[Array, " d"]) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
    """Logarithm of each component's part of the density, and its S^-1 (point - m)."""

    def one(log_weight: Array, mean: Array, covariance: Array) -> tuple[Array, Array]:
        pull = jnp.linalg.solve(covariance, point - mean)
        scale = jnp.linalg.slogdet(covariance)[1] + len(point) * jnp.log(2 * jnp.pi)
        return log_weight - 0.5 * ((point - mean) @ pull + scale), pull

    return jax.vmap(one)(*mixture)


def _encode(params: MixtureParams, images: Float[Array, "b s s 3"], key: object) -> Float[Array, "b 1 d 1"]:
    # The rows of the square picture are copies of each other, and so are its channels. There is no posterior to draw.
    return (EXTENT * (2 * images.mean((1, 3)) - 1))[:, None, :, None]


def _decode(params: MixtureParams, latents: Float[Array, "b 1 d 1"]) -> Float[Array, "b s s 3"]:
    batch, _, size, _ = latents.shape
    return jnp.broadcast_to(jnp.clip(0.5 + latents / (2 * EXTENT), 0.0, 1.0), (batch, size, size, 3))


def _predict_noise(
    params: MixtureParams, noisy: Float[Array, "b 1 d 1"], t: Int[Array, " b"], log_weights: Float[Array, "b k"]
) -> Float[Array, "b 1 d 1"]:
    def one(noisy: Array, t: Array, log_weights: Array) -> Array:
        mixture = Mixture(log_weights, params.means, params.covariances)
        return expected_noise(mixture, params.alphas_cumprod[t], noisy.ravel()).reshape(noisy.shape)

    return jax.vmap(one)(noisy, t, log_weights)


def _predict_noise_inpaint(
    params: MixtureParams,
    noisy: Float[Array, "b 1 d 1"],
    t: Int[Array, " b"],
    mask: Float[Array, "b 1 d 1"],
    masked_latents: Float[Array, "b 1 d 1"],
    log_weights: Float[Array, "b k"],
) -> Float[Array, "b 1 d 1"]:
    def one(noisy: Array, t: Array, mask: Array, values: Array, log_weights: Array) -> Array:
        mixture = Mixture(log_weights, params.means, params.covariances)
        posterior = given(mixture, 1.0 - mask.ravel(), values.ravel(), params.warp_error)
        return expected_noise(posterior, params.alphas_cumprod[t], noisy.ravel()).reshape(noisy.shape)

    return jax.vmap(one)(noisy, t, mask, masked_latents, log_weights)
