"""Holes as a photo has them that was warped into a neighboring view: strips, bands, blobs, specks, or everything.

Where the other camera does not look, strips are missing at the border; behind the outline of what stands in front,
bands along outlines; where the depth is unknown or contradicted, irregular blobs and specks. Outlines are level sets
of smooth random fields. Sizes run from a few pixels to half a picture.
"""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

ALL_HOLE = 0.4
"""Share of samples with everything to fill: those that train the plain model."""


def random_known(key: Key[Array, ""], size: int) -> Bool[Array, "{size} {size}"]:
    """Where a picture is known."""
    keys = jax.random.split(key, 7)
    parts = [_strips(keys[0], size), _bands(keys[1], size), _blobs(keys[2], size), _specks(keys[3], size)]
    use = jax.random.bernoulli(keys[4], jnp.array([0.6, 0.6, 0.4, 0.2]))
    hole = jnp.any(jnp.stack(parts) & use[:, None, None], axis=0)
    everything = jax.random.bernoulli(keys[5], ALL_HOLE)
    return ~(hole | everything)


def partly_known(key: Key[Array, ""], side: int) -> Bool[Array, "{side} {side}"]:
    """The first random hole that leaves between 40 and 95 percent."""
    candidates = _many_known(key, side)
    shares = np.asarray(candidates.mean((1, 2)))
    return candidates[int(np.flatnonzero((shares > 0.4) & (shares < 0.95))[0])]


@partial(jax.jit, static_argnums=1)
def _many_known(key: Key[Array, ""], side: int) -> Bool[Array, "n s s"]:
    return jax.vmap(lambda k: random_known(k, side))(jax.random.split(key, 50))


def smooth_field(key: Key[Array, ""], size: int, coarse: int) -> Float[Array, "{size} {size}"]:
    """A random field of about unit variance whose features are size / coarse pixels wide."""
    spline = _spline(size, coarse)
    noise = jax.random.normal(key, (coarse + 3, coarse + 3))
    field = jnp.einsum("ij,jk,lk->il", spline, noise, spline)
    return field / jnp.sqrt(jnp.mean(jnp.square(field)))


@cache
def _spline(size: int, coarse: int) -> Float[np.ndarray, "{size} c"]:
    """Values of the uniform cubic B-splines of `coarse` cells, c = coarse + 3, at the pixels' centers."""
    place = (np.arange(size)[:, None] + 0.5) * coarse / size - np.arange(-1, coarse + 2)[None, :]
    away = np.abs(place)
    inner, outer = 2 / 3 - away**2 + away**3 / 2, (2 - away).clip(0) ** 3 / 6
    return np.where(away < 1, inner, outer).astype(np.float32)


def _field(key: Key[Array, ""], size: int) -> Float[Array, "s s"]:
    """Coarse and fine features in a random proportion."""
    keys = jax.random.split(key, 3)
    share = jax.random.uniform(keys[0], maxval=0.5)
    return (1 - share) * smooth_field(keys[1], size, 4) + share * smooth_field(keys[2], size, 16)


def _strips(key: Key[Array, ""], size: int) -> Bool[Array, "s s"]:
    """One side or two, as when the camera moved across or diagonally, with an uneven edge."""
    keys = jax.random.split(key, 3)
    widths = jax.random.uniform(keys[0], (2,), minval=-0.4, maxval=0.4)
    widths = jnp.where(jax.random.bernoulli(keys[1], 0.7, (2,)), widths, 0.0)
    wave = 0.05 * _field(keys[2], size)
    place = (jnp.arange(size) + 0.5) / size
    hole = jnp.zeros((size, size), bool)
    for axis, width in enumerate(widths):
        along = jnp.broadcast_to(place[:, None] if axis == 0 else place[None, :], (size, size))
        from_side = jnp.where(width > 0, along, 1 - along) + wave * (jnp.abs(width) / 0.2)
        hole |= from_side < jnp.abs(width)
    return hole


def _bands(key: Key[Array, ""], size: int) -> Bool[Array, "s s"]:
    keys = jax.random.split(key, 3)
    field = _field(keys[0], size)
    level = jax.random.uniform(keys[1], minval=-1.0, maxval=1.0)
    width = jnp.exp(jax.random.uniform(keys[2], minval=jnp.log(0.03), maxval=jnp.log(0.6)))
    return (field > level) & (field < level + width)


def _blobs(key: Key[Array, ""], size: int) -> Bool[Array, "s s"]:
    keys = jax.random.split(key, 2)
    return _field(keys[0], size) > jax.random.uniform(keys[1], minval=-0.3, maxval=1.6)


def _specks(key: Key[Array, ""], size: int) -> Bool[Array, "s s"]:
    keys = jax.random.split(key, 2)
    return smooth_field(keys[0], size, 48) > jax.random.uniform(keys[1], minval=0.8, maxval=2.0)
