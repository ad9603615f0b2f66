"""Pictures out of a prior, by DDIM without added noise (Song et al. 2021): from nothing, or into a hole."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from ipsm_jax.priors.diffusion import DiffusionPrior

LARGEST = 6.0
"""Latents are kept within these bounds on the way; those of photos have unit variance and hardly leave them."""


@partial(jax.jit, static_argnames=("scale", "steps"))
def sample(
    key: Key[Array, ""],
    prior: DiffusionPrior,
    tokens: Float[Array, "b n d"],
    scale: float,
    hole: Float[Array, "b h w 1"] | None = None,
    masked: Float[Array, "b h w c"] | None = None,
    *,
    steps: int = 50,
) -> Float[Array, "b h w c"]:
    """Latents of one sample for each set of tokens, of the plain model or, with hole and masked latents, the other.

    `scale` is that of the guidance by the tokens: 0 ignores them, 1 takes the model at its word.
    """
    alphas, count = jnp.asarray(prior.alphas_cumprod), len(tokens)
    times = jnp.linspace(len(alphas) - 1, 0, steps).round().astype(jnp.int32)
    # after the last step nothing is left of the noise
    levels = jnp.append(alphas[times], 1.0)

    def predict(z: Array, t: Array, tokens: Array) -> Array:
        if hole is None or masked is None:
            return prior.predict_noise(prior.params, z, t, tokens)
        return prior.predict_noise_inpaint(prior.params, z, t, hole, masked, tokens)

    def guided(z: Array, t: Array) -> Array:
        if scale == 0 or scale == 1:
            return predict(z, t, tokens * scale)
        without = predict(z, t, jnp.zeros_like(tokens))
        return without + scale * (predict(z, t, tokens) - without)

    def step(z: Array, i: Array) -> tuple[Array, None]:
        noise = guided(z, jnp.broadcast_to(times[i], (count,)))
        clean = (z - jnp.sqrt(1 - levels[i]) * noise) / jnp.sqrt(levels[i])
        # of almost pure noise, a small error of the prediction becomes a large one of the picture
        clean = jnp.clip(clean, -LARGEST, LARGEST)
        noise = (z - jnp.sqrt(levels[i]) * clean) / jnp.sqrt(1 - levels[i])
        return jnp.sqrt(levels[i + 1]) * clean + jnp.sqrt(1 - levels[i + 1]) * noise, None

    first = jax.random.normal(key, (count, *prior.latent_shape))
    return lax.scan(step, first, jnp.arange(steps))[0]
