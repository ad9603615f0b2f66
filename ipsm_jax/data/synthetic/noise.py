"""Repeatable noise that procedural textures are made from.

Coordinates are dimensionless: one unit is one lattice cell. Everything is a pure function of its coordinates (no key),
so that a surface point has the same color in every view.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Odd 32-bit factors, one per lattice axis, and two more to mix the bits. Any odd numbers without a pattern will do.
_AXES = (0x6C8E9CF5, 0xA2F1B4D7, 0x3D5E8A1B)
_MIX = (0x7B1D4E65, 0xD36C92A9)
_SEED = 0x51F3C8E7


def _scramble(bits: Array) -> Array:
    """Hashed bits to a float32 in [0, 1)."""
    for factor in _MIX:
        bits = (bits ^ (bits >> 15)) * jnp.uint32(factor)
    return ((bits ^ (bits >> 14)) >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)


def _spread(x: Array, axis: int) -> Array:
    """One axis of integer lattice coordinates, multiplied out over 32 bits (negative ones wrap around)."""
    return x.astype(jnp.int32).astype(jnp.uint32) * jnp.uint32(_AXES[axis])


def hashed(x: Array, y: Array | int = 0, z: Array | int = 0, seed: Array | int = 0) -> Array:
    """A number in [0, 1) for integer lattice coordinates: equal points give equal numbers, neighbors unrelated ones."""
    axes = (_spread(jnp.asarray(v), axis) for axis, v in enumerate((x, y, z)))
    hx, hy, hz = axes
    return _scramble(hx ^ hy ^ hz ^ (jnp.asarray(seed).astype(jnp.uint32) * jnp.uint32(_SEED)))


def smoothstep(low: float | Array, high: float | Array, x: Array) -> Array:
    """0 below `low`, 1 above `high`, a cubic with zero slope at both ends between; elementwise."""
    s = jnp.clip((x - low) / (high - low), 0.0, 1.0)
    return s * s * (3.0 - 2.0 * s)


def value_noise(x: Array, y: Array, z: Array, seed: int | Array = 0) -> Array:
    """Smooth noise in [0, 1]: hashed lattice values, blended with a quintic (continuous second derivatives)."""
    corners, weights = [], []
    for axis, coordinate in enumerate((x, y, z)):
        base = jnp.floor(coordinate)
        s = coordinate - base
        weights.append(s * s * s * (s * (s * 6.0 - 15.0) + 10.0))
        low = _spread(base, axis)
        corners.append((low, low + jnp.uint32(_AXES[axis])))
    salt = jnp.asarray(seed).astype(jnp.uint32) * jnp.uint32(_SEED)

    def blend(a: Array, b: Array, weight: Array) -> Array:
        return a + (b - a) * weight

    edges = []
    for hz in corners[2]:
        for hy in corners[1]:
            low, high = (_scramble(hx ^ hy ^ hz ^ salt) for hx in corners[0])
            edges.append(blend(low, high, weights[0]))
    return blend(blend(edges[0], edges[1], weights[1]), blend(edges[2], edges[3], weights[1]), weights[2])


class Octaves(NamedTuple):
    """One fractal noise: cells per unit along x, y, z; octaves, each twice as fine and `gain` times as strong."""

    scale: tuple[float, float, float]
    levels: int
    seed: int
    gain: float = 0.55


def noises(p: Float[Array, "3 n"], *wanted: Octaves) -> list[Float[Array, " n"]]:
    """Several fractal noises in [0, 1] over the same points.

    All octaves of all of them are evaluated as the rows of one array: the noise is compiled once per texture, not once
    per octave, which is most of the time that the first picture takes.
    """
    rows = [(noise, level) for noise in wanted for level in range(noise.levels)]
    scale = np.array([[axis * 2.0**level for axis in noise.scale] for noise, level in rows], np.float32)
    # The shift keeps the octaves' lattice points from falling on one another.
    shift = np.array([17.3 * level for _, level in rows], np.float32)[:, None]
    seed = np.array([noise.seed + 101 * level for noise, level in rows], np.int32)[:, None]
    x, y, z = (p[axis][None] * scale[:, axis, None] + shift for axis in range(3))
    values = value_noise(x, y, z, jnp.asarray(seed))
    mixing = np.zeros((len(wanted), len(rows)), np.float32)
    for row, (noise, level) in enumerate(rows):
        mixing[wanted.index(noise), row] = noise.gain**level
    mixing /= mixing.sum(1, keepdims=True)
    # A product, so that each octave is computed once; sums over slices would repeat the noise in each of them.
    return list(jnp.matmul(mixing, values, precision="highest"))
