"""Loss on held-out photos while training: the same photos, holes, noises and timesteps every time."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ipsm_jax.priors.embedded import patches
from ipsm_jax.priors.embedded.descriptor import describe
from ipsm_jax.priors.unet import UNetConfig
from prior.masks import partly_known, random_known
from prior.samples import Batch, make_batch, random_crop
from prior.training import noise_error

CHUNK = 16


def held_out(
    squares: UInt8[np.ndarray, "n 2 256 256 3"],
    config: patches.PatchConfig,
    vae: dict[str, Array],
    latent_size: int,
    times: tuple[int, int] = (250, 750),
    seed: int = 12345,
    *,
    partly: bool = False,
) -> Batch:
    """One sample of each photo, its descriptor from another crop, its timestep evenly spread over a range.

    `partly` leaves out the holes that are almost nothing or more than 60 percent.
    """
    side, count = latent_size * config.patch, len(squares)
    keys = jax.random.split(jax.random.key(seed), (3, count))
    # an argument, not a constant of the program, which would take long to compile
    data = jnp.asarray(squares)
    crop = jax.jit(jax.vmap(lambda k, i, s: random_crop(k, s, i, jnp.zeros((), bool), side), in_axes=(0, 0, None)))
    view, other = crop(keys[0], jnp.arange(count), data), crop(keys[1], jnp.arange(count), data)
    if partly:
        known = jnp.stack([partly_known(key, side) for key in keys[2]])
    else:
        known = jax.jit(jax.vmap(lambda k: random_known(k, side)))(keys[2])
    t = jnp.asarray(np.linspace(times[0], times[1] - 1, count).round(), jnp.int32)
    # neighbors in the folder are of one source: mix
    t = jax.random.permutation(jax.random.key(seed), t)
    return make_batch(view, known, describe(patches.encode_pooled(config, vae, other)), t, config, vae)


def validate(
    config: UNetConfig,
    params: dict[str, Any],
    batch: Batch,
    gray: Float[Array, "1 1 1 c"],
    seed: int = 54321,
) -> dict[str, float]:
    """Mean squared error of the predicted noise: the plain model with and without descriptor, and into holes."""
    plain = batch._replace(hole=jnp.ones_like(batch.hole), masked=jnp.broadcast_to(gray, batch.masked.shape))
    bare = plain._replace(tokens=jnp.zeros_like(batch.tokens))
    noise = jax.random.normal(jax.random.key(seed), batch.latents.shape)
    cases = {"plain": bare, "described": plain, "inpaint": batch}
    return {name: float(jnp.mean(errors(config, params, noise, case))) for name, case in cases.items()}


def errors(
    config: UNetConfig,
    params: dict[str, Any],
    noise: Float[Array, "b h w c"],
    batch: Batch,
) -> Float[Array, "b h w c"]:
    """Squared error of the predicted noise, some samples at a time."""
    parts = []
    for first in range(0, len(noise), CHUNK):
        # the last chunk is filled up, so that there is one program
        rows = np.minimum(np.arange(first, first + CHUNK), len(noise) - 1)
        part = _squared(config, params, noise[rows], jax.tree.map(lambda a: a[rows], batch))  # noqa: B023
        parts.append(part[: len(noise) - first])
    return jnp.concatenate(parts)


@partial(jax.jit, static_argnums=0)
def _squared(config: UNetConfig, params: dict[str, Any], noise: Array, batch: Batch) -> Array:
    return jnp.square(noise_error(config, params, noise, batch))
