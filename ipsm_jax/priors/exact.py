"""A diffusion prior that is known exactly: pictures drawn from one Gaussian distribution, with no network at all.

If latents z are distributed as N(m, S), then z_t = sqrt(a) z + sqrt(1 - a) e, and the best prediction of the noise is

    E[e | z_t] = sqrt(1 - a) (a S + (1 - a) I)^-1 (z_t - sqrt(a) m).

The inpainting model predicts the same for the distribution of z given the known latents, which is Gaussian too. A
prompt is a mean. So every gradient of a distillation loss has a formula, which makes this a test double, and a toy in
which one can see what a guidance term does. Latents are pixels (or means of factor x factor pixels) in [-1, 1].
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from ipsm_jax.priors.diffusion import DiffusionPrior, scaled_linear_schedule


class GaussianParams(NamedTuple):
    """Parameters; d = h w 3.

    Attributes:
      covariance: (d, d) of the latents in row-major order, whatever the prompt.
      alphas_cumprod: (T,) the schedule.
      posterior_std: () standard deviation of the encoder's posterior.
    """

    covariance: Float[Array, "d d"]
    alphas_cumprod: Float[Array, " t"]
    posterior_std: Float[Array, ""]


def gaussian_prior(
    mean: Float[np.ndarray, "h w 3"],
    covariance: Float[np.ndarray, "d d"],
    *,
    negative_mean: Float[np.ndarray, "h w 3"] | None = None,
    factor: int = 1,
    posterior_std: float = 0.0,
    alphas_cumprod: Float[np.ndarray, " t"] | None = None,
) -> DiffusionPrior:
    """The exact prior of latents distributed as N(mean, covariance).

    Args:
      mean: (s, s, 3) mean of the latents for the prompt, in [-1, 1] as images are in [0, 1].
      covariance: (d, d) positive semidefinite, d = s s 3.
      negative_mean: for the negative prompt; default: the same, so that the guidance scale has no effect.
      factor: a latent is the mean of factor x factor pixels.
      posterior_std: of the encoder.
      alphas_cumprod: the schedule, below 1; default: Stable Diffusion's.

    Raises:
      ValueError: for shapes that do not fit.
    """
    height, width, channels = mean.shape
    size = mean.size
    if height != width or channels != 3:
        raise ValueError(f"the mean must be square with 3 channels, got shape {mean.shape}")
    if covariance.shape != (size, size):
        raise ValueError(f"a mean of shape {mean.shape} needs a covariance of {(size, size)}, got {covariance.shape}")
    schedule = scaled_linear_schedule() if alphas_cumprod is None else alphas_cumprod
    alphas = jnp.asarray(schedule, jnp.float32)
    return DiffusionPrior(
        params=GaussianParams(jnp.asarray(covariance, jnp.float32), alphas, jnp.float32(posterior_std)),
        positive=jnp.asarray(mean, jnp.float32),
        negative=jnp.asarray(mean if negative_mean is None else negative_mean, jnp.float32),
        alphas_cumprod=alphas,
        image_size=height * factor,
        latent_shape=(height, width, channels),
        encode=_Encode(factor),
        decode=_Decode(factor),
        predict_noise=_predict_noise,
        predict_noise_inpaint=_predict_noise_inpaint,
    )


@dataclasses.dataclass(frozen=True)
class _Encode:
    factor: int

    def __call__(
        self, params: GaussianParams, images: Float[Array, "b s s 3"], key: Key[Array, ""] | None
    ) -> Float[Array, "b h w 3"]:
        batch, height, width, channels = images.shape
        cells = images.reshape(batch, height // self.factor, self.factor, width // self.factor, self.factor, channels)
        mean = 2 * cells.mean((2, 4)) - 1
        if key is None:
            return mean
        return mean + params.posterior_std * jax.random.normal(key, mean.shape)


@dataclasses.dataclass(frozen=True)
class _Decode:
    factor: int

    def __call__(self, params: GaussianParams, latents: Float[Array, "b h w 3"]) -> Float[Array, "b s s 3"]:
        images = jnp.clip(0.5 * (latents + 1), 0.0, 1.0)
        return jnp.repeat(jnp.repeat(images, self.factor, axis=1), self.factor, axis=2)


def _predict_noise(
    params: GaussianParams, noisy: Float[Array, "b h w 3"], t: Int[Array, " b"], mean: Float[Array, "b h w 3"]
) -> Float[Array, "b h w 3"]:
    def one(noisy: Array, t: Array, mean: Array) -> Array:
        noise = _noise(params.alphas_cumprod[t], noisy.ravel(), mean.ravel(), params.covariance)
        return noise.reshape(noisy.shape)

    return jax.vmap(one)(noisy, t, mean)


def _predict_noise_inpaint(
    params: GaussianParams,
    noisy: Float[Array, "b h w 3"],
    t: Int[Array, " b"],
    mask: Float[Array, "b h w 1"],
    masked_latents: Float[Array, "b h w 3"],
    mean: Float[Array, "b h w 3"],
) -> Float[Array, "b h w 3"]:
    def one(noisy: Array, t: Array, mask: Array, values: Array, mean: Array) -> Array:
        known = jnp.broadcast_to(mask < 0.5, values.shape).ravel()
        given_mean, given_covariance = conditioned(mean.ravel(), params.covariance, known, values.ravel())
        return _noise(params.alphas_cumprod[t], noisy.ravel(), given_mean, given_covariance).reshape(noisy.shape)

    return jax.vmap(one)(noisy, t, mask, masked_latents, mean)


def conditioned(
    mean: Float[Array, " d"], covariance: Float[Array, "d d"], known: Bool[Array, " d"], values: Float[Array, " d"]
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """Mean and covariance of N(mean, covariance) given that the entries where `known` (d,) have these values.

    In full size whatever is known, so that `known` may be traced: known entries come out with their value and zero
    covariance. Their own covariance must be regular.
    """
    both = known[:, None] & known[None, :]
    known_covariance = jnp.where(both, covariance, jnp.eye(covariance.shape[0]))
    to_known = jnp.where(known[None, :], covariance, 0.0)
    gain = jnp.linalg.solve(known_covariance, to_known.T).T
    moved = mean + _times(gain, jnp.where(known, values - mean, 0.0))
    rest = covariance - jnp.einsum("ij,kj->ik", gain, to_known, precision="highest")
    free = ~known[:, None] & ~known[None, :]
    return jnp.where(known, values, moved), jnp.where(free, rest, 0.0)


def _noise(
    alpha: Float[Array, ""], noisy: Float[Array, " d"], mean: Float[Array, " d"], covariance: Float[Array, "d d"]
) -> Float[Array, " d"]:
    spread = alpha * covariance + (1 - alpha) * jnp.eye(covariance.shape[0])
    return jnp.sqrt(1 - alpha) * jnp.linalg.solve(spread, noisy - jnp.sqrt(alpha) * mean)


def _times(matrix: Float[Array, "n d"], vector: Float[Array, " d"]) -> Float[Array, " n"]:
    return jnp.einsum("ij,j->i", matrix, vector, precision="highest")
