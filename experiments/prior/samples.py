"""Training samples: crops of photos as latents, descriptor, hole and timestep, everything inside one jitted program.

The descriptor comes from another crop of the same photo, at another place and scale: it may say what the place is
like, not what the view looks like. It is left out now and then, for classifier-free guidance.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from ipsm_jax.losses.distillation import latent_hole
from ipsm_jax.priors.embedded import patches
from ipsm_jax.priors.embedded.descriptor import describe
from prior.masks import random_known

DROPPED = 0.12
"""Share of samples without descriptor."""
SMALLEST_CROP = 144
"""Side of the smallest crop in pixels of the stored squares."""
STRETCH = 0.3
"""Largest logarithm of a crop's width over height: renders are made square before they are judged."""
JUDGED, JUDGED_SHARE = (250, 750), 0.7
"""Timesteps that the distillation loss draws, and how often training draws one of them."""


class Batch(NamedTuple):
    """One batch: latents, hole (1 = to fill), latents of the picture with its hole gray, tokens, timesteps."""

    latents: Float[Array, "b h w c"]
    hole: Float[Array, "b h w 1"]
    masked: Float[Array, "b h w c"]
    tokens: Float[Array, "b n d"]
    t: Int[Array, " b"]


def draw_batch(
    key: Key[Array, ""],
    squares: UInt8[Array, "n 2 256 256 3"],
    config: patches.PatchConfig,
    vae: dict[str, Array],
    latent_size: int,
    batch: int,
) -> Batch:
    """Random samples of the photos; the timesteps of a batch are spread evenly."""
    side = latent_size * config.patch
    keys = jax.random.split(key, 7)
    photo = jax.random.randint(keys[0], (batch,), 0, len(squares))
    flip = jax.random.bernoulli(keys[1], 0.5, (batch,))
    view, other = (
        jax.vmap(lambda k, i, f: random_crop(k, squares, i, f, side))(jax.random.split(k, batch), photo, flip)
        for k in keys[2:4]
    )
    known = jax.vmap(lambda k: random_known(k, side))(jax.random.split(keys[4], batch))
    tokens = describe(patches.encode_pooled(config, vae, other))
    kept = jax.random.bernoulli(keys[5], 1 - DROPPED, (batch,))
    return make_batch(
        view, known, jnp.where(kept[:, None, None], tokens, 0.0), spread_timesteps(keys[6], batch), config, vae
    )


def make_batch(
    view: Float[Array, "b s s 3"],
    known: Bool[Array, "b s s"],
    tokens: Float[Array, "b n d"],
    t: Int[Array, " b"],
    config: patches.PatchConfig,
    vae: dict[str, Array],
) -> Batch:
    """Encode pictures, whole and with their holes, as the distillation loss does."""
    latents = patches.encode_pooled(config, vae, view)
    masked = patches.encode_pooled(config, vae, jnp.where(known[..., None], view, 0.5))
    shape = (latents.shape[1], latents.shape[2], latents.shape[3])
    hole = jax.vmap(lambda m: latent_hole(m, shape))(known)
    return Batch(latents, hole, masked, tokens, t)


def random_crop(
    key: Key[Array, ""],
    squares: UInt8[Array, "n 2 256 256 3"],
    photo: Int[Array, ""],
    flip: Bool[Array, ""],
    side: int,
) -> Float[Array, "{side} {side} 3"]:
    """A random part of a photo at a random scale, squeezed to a square, in [0, 1]."""
    keys = jax.random.split(key, 4)
    full = squares.shape[2]
    square = squares[photo, jax.random.randint(keys[0], (), 0, 2)].astype(jnp.float32) / 255
    height = jax.random.uniform(keys[1], minval=SMALLEST_CROP, maxval=full)
    stretch = jnp.exp(jax.random.uniform(keys[2], minval=-STRETCH, maxval=STRETCH))
    extent = jnp.stack([height, jnp.clip(height * stretch, SMALLEST_CROP, full)])
    corner = jax.random.uniform(keys[3], (2,)) * (full - extent)
    scale = side / extent
    shape = (side, side, 3)
    crop = jax.image.scale_and_translate(square, shape, (0, 1), scale, -corner * scale, "linear", antialias=True)
    return jnp.where(flip, crop[:, ::-1], crop)


def spread_timesteps(key: Key[Array, ""], batch: int) -> Int[Array, " b"]:
    """Timesteps in [0, 1000), one in each of `batch` parts of equal probability."""
    u = (jnp.arange(batch) + jax.random.uniform(key, (batch,))) / batch
    first, last = JUDGED
    inside = first + (last - first) * u / JUDGED_SHARE
    outside = (u - JUDGED_SHARE) / (1 - JUDGED_SHARE) * (1000 - (last - first))
    outside = jnp.where(outside < first, outside, outside + last - first)
    return jnp.clip(jnp.where(u < JUDGED_SHARE, inside, outside).astype(jnp.int32), 0, 999)
