"""Diffusion priors as values: the interface, the noise schedule and classifier-free guidance (METHOD section 7).

Symbols: z latents, t the timestep (0 = clean), a_t the cumulative alpha of the schedule, e noise,

    z_t = sqrt(a_t) z + sqrt(1 - a_t) e.

Images are (b, s, s, 3) float in [0, 1], latents (b, h, w, c) float, timesteps (b,) int32 indices into the schedule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "positive", "negative", "alphas_cumprod"],
    meta_fields=["image_size", "latent_shape", "encode", "decode", "predict_noise", "predict_noise_inpaint"],
)
@dataclasses.dataclass(frozen=True)
class DiffusionPrior:
    """A pair of diffusion models, plain and inpainting, on one latent space.

    A pytree: arrays are its leaves, sizes and functions are static. The functions have to be hashable and equal from
    one call of a jitted function to the next (functions of a module, or frozen dataclasses with ``__call__``), or it
    is compiled anew. They are pure, and give float32 whatever they compute in.

    Attributes:
      params: pytree of arrays, handed back to every function below.
      positive: conditioning by the prompt, a pytree of arrays without batch axis.
      negative: conditioning by the negative (or empty) prompt, of the same structure and shapes.
      alphas_cumprod: (T,) cumulative alpha of the noise schedule, falling within (0, 1].
      image_size: images are resized to image_size x image_size before `encode`.
      latent_shape: (h, w, c) of the latents of one image.
      encode: (params, images, key or None) -> latents, scaled as the models want them; differentiable in the images. A
        key draws from the posterior, None gives its mean.
      decode: (params, latents) -> images in [0, 1], for people to look at.
      predict_noise: (params, z_t, t, conditioning with leading b) -> noise (b, h, w, c) of the plain model.
      predict_noise_inpaint: (params, z_t, t, mask, masked_latents, conditioning with leading b) -> noise of the
        inpainting model; mask (b, h, w, 1), 1 = to fill; masked_latents (b, h, w, c) of the image with its hole at
        0.5 (0 in [-1, 1]).
    """

    params: Any
    positive: Any
    negative: Any
    alphas_cumprod: Any
    image_size: int
    latent_shape: tuple[int, int, int]
    encode: Callable[..., Array]
    decode: Callable[..., Array]
    predict_noise: Callable[..., Array]
    predict_noise_inpaint: Callable[..., Array]


def scaled_linear_schedule(
    steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> Float[np.ndarray, " t"]:
    """Cumulative alphas, float32, of betas whose square roots rise linearly; the defaults are Stable Diffusion's.

    Raises:
      ValueError: unless 0 < beta_start <= beta_end < 1 and steps >= 1.
    """
    if not (0 < beta_start <= beta_end < 1 and steps >= 1):
        raise ValueError(
            f"a schedule needs 0 < beta_start <= beta_end < 1 and at least 1 step, got {beta_start}, {beta_end} and "
            f"{steps} steps"
        )
    betas = np.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=np.float64) ** 2
    return np.cumprod(1 - betas).astype(np.float32)


def signal_and_noise_levels(
    alphas_cumprod: Float[Array, " t"], t: Int[Array, " b"]
) -> tuple[Float[Array, "b 1 1 1"], Float[Array, "b 1 1 1"]]:
    """sqrt(a_t) and sqrt(1 - a_t), shaped to multiply latents."""
    alpha = alphas_cumprod[t][:, None, None, None]
    return jnp.sqrt(alpha), jnp.sqrt(1 - alpha)


def add_noise(
    alphas_cumprod: Float[Array, " t"],
    latents: Float[Array, "b h w c"],
    noise: Float[Array, "b h w c"],
    t: Int[Array, " b"],
) -> Float[Array, "b h w c"]:
    """z_t = sqrt(a_t) z + sqrt(1 - a_t) e."""
    signal, level = signal_and_noise_levels(alphas_cumprod, t)
    return signal * latents + level * noise


def predicted_latents(
    alphas_cumprod: Float[Array, " t"],
    noisy: Float[Array, "b h w c"],
    noise: Float[Array, "b h w c"],
    t: Int[Array, " b"],
) -> Float[Array, "b h w c"]:
    """The clean latents that a predicted noise stands for, (z_t - sqrt(1 - a_t) e) / sqrt(a_t)."""
    signal, level = signal_and_noise_levels(alphas_cumprod, t)
    return (noisy - level * noise) / signal


def guided_noise(
    prior: DiffusionPrior,
    noisy: Float[Array, "b h w c"],
    t: Int[Array, " b"],
    scale: float | Float[Array, ""],
) -> Float[Array, "b h w c"]:
    """Noise predicted by the plain model with classifier-free guidance, e_u + scale (e_c - e_u).

    Both predictions are made in one batch of 2 b, the negative prompt's first.
    """
    noise = prior.predict_noise(prior.params, _twice(noisy), _twice(t), _conditioning(prior, noisy.shape[0]))
    return _guide(noise, scale)


def guided_noise_inpaint(
    prior: DiffusionPrior,
    noisy: Float[Array, "b h w c"],
    t: Int[Array, " b"],
    mask: Float[Array, "b h w 1"],
    masked_latents: Float[Array, "b h w c"],
    scale: float | Float[Array, ""],
) -> Float[Array, "b h w c"]:
    """The same with the inpainting model; mask and masked latents go to both predictions."""
    noise = prior.predict_noise_inpaint(
        prior.params,
        _twice(noisy),
        _twice(t),
        _twice(mask),
        _twice(masked_latents),
        _conditioning(prior, noisy.shape[0]),
    )
    return _guide(noise, scale)


def _twice(array: Array) -> Array:
    return jnp.concatenate([array, array])


def _conditioning(prior: DiffusionPrior, batch: int) -> Any:
    """Negative conditioning `batch` times, then the positive one."""

    def join(negative: Array, positive: Array) -> Array:
        rows = (batch, *negative.shape)
        return jnp.concatenate([jnp.broadcast_to(negative, rows), jnp.broadcast_to(positive, rows)])

    return jax.tree.map(join, prior.negative, prior.positive)


def _guide(noise: Float[Array, "bb h w c"], scale: float | Array) -> Float[Array, "b h w c"]:
    negative, positive = jnp.split(noise, 2)
    return negative + scale * (positive - negative)
