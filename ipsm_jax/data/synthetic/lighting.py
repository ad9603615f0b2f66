"""Light in the built-in scene: low sun through a window, a soft sky, and the room that shiny things mirror.

World axes: x right, y up, z towards the viewer. Colors are linear RGB; vectors (3, n).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ipsm_jax.data.synthetic.geometry import dot, unit
from ipsm_jax.data.synthetic.materials import Surface
from ipsm_jax.data.synthetic.noise import smoothstep


class Light(NamedTuple):
    """A distant round light: unit direction towards it, tangent of its angular radius, linear RGB radiance."""

    direction: tuple[float, float, float]
    spread: float
    color: tuple[float, float, float]


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = float(np.sqrt(x * x + y * y + z * z))
    return (x / length, y / length, z / length)


SUN = Light(_unit(-0.85, 0.80, 0.95), 0.024, (2.9, 2.45, 1.85))
SKY = Light(_unit(0.30, 0.85, 0.95), 0.40, (0.62, 0.72, 0.86))
AMBIENT_ABOVE = (0.46, 0.48, 0.52)
AMBIENT_BELOW = (0.30, 0.23, 0.17)


def window(p: Float[Array, "3 n"]) -> Float[Array, " n"]:
    """How much of the sun each point sees past the window's bars, in [0, 1]."""
    toward = np.array(SUN.direction)
    right = np.cross((0.0, 1.0, 0.0), toward)
    right /= np.linalg.norm(right)
    up = np.cross(toward, right)
    u = p[0] * right[0] + p[1] * right[1] + p[2] * right[2]
    v = p[0] * up[0] + p[1] * up[1] + p[2] * up[2]
    blur, bar = 0.03, 0.045
    inside = jnp.ones_like(u)
    for at, low, high, first_bar, spacing in ((u, -1.60, 2.45, -0.25, 1.35), (v, -1.55, 2.60, -0.35, 1.20)):
        panes = (at - first_bar) / spacing
        beside = jnp.abs(panes - jnp.round(panes)) * spacing
        edge = jnp.minimum(at - low, high - at)
        inside = inside * smoothstep(-blur, blur, edge) * smoothstep(bar - blur, bar + blur, beside)
    return inside


def room(p: Float[Array, "3 n"], direction: Float[Array, "3 n"]) -> Float[Array, "3 n"]:
    """Radiance that arrives at p along a mirrored ray: the table, the wall, and a dim room with a bright window."""
    dx, dy, dz = direction
    gray = jnp.stack([0.16 + 0.10 * dy, 0.17 + 0.11 * dy, 0.19 + 0.13 * dy])
    # The window: a pane in the plane at distance 4 along its axis, halved by a cross of bars.
    axis = np.array(_unit(-0.75, 0.55, 0.80))
    side = np.cross((0.0, 1.0, 0.0), axis)
    side /= np.linalg.norm(side)
    top = np.cross(axis, side)
    ahead = jnp.maximum(dx * axis[0] + dy * axis[1] + dz * axis[2], 1e-3)
    reach = (4.0 - (p[0] * axis[0] + p[1] * axis[1] + p[2] * axis[2])) / ahead
    x, y, z = p[0] + reach * dx, p[1] + reach * dy, p[2] + reach * dz
    u = x * side[0] + y * side[1] + z * side[2]
    v = x * top[0] + y * top[1] + z * top[2]
    pane = smoothstep(1.25, 1.15, jnp.abs(u)) * smoothstep(1.65, 1.55, jnp.abs(v))
    pane = pane * smoothstep(0.04, 0.10, jnp.abs(u)) * smoothstep(0.04, 0.10, jnp.abs(v)) * (ahead > 0.05)
    light = gray + pane[None] * jnp.array([6.0, 5.8, 5.3])[:, None]
    wall = smoothstep(0.02, -0.15, dz)[None] * jnp.array([0.55, 0.52, 0.46])[:, None]
    light = jnp.where((dz < 0.02)[None], jnp.maximum(light * 0.3, wall), light)
    down = smoothstep(0.0, -0.12, dy)
    return light * (1.0 - down)[None] + down[None] * jnp.array([0.24, 0.15, 0.09])[:, None]


def outgoing(
    surface: Surface,
    p: Float[Array, "3 n"],
    normal: Float[Array, "3 n"],
    toward_viewer: Float[Array, "3 n"],
    sun: Float[Array, " n"],
    sky: Float[Array, " n"],
    openness: Float[Array, " n"],
    shiny: float,
) -> Float[Array, "3 n"]:
    """Radiance that leaves p towards the viewer: diffuse light plus `shiny` (0 or 1) times everything that moves.

    Args:
      surface: reflection of each point.
      p, normal, toward_viewer: world position, unit normal facing the viewer, unit direction to the camera.
      sun, sky: fraction of each light that reaches the point; openness: fraction of the surroundings that does.
      shiny: 0 leaves only what does not depend on the viewpoint.
    """
    diffuse = jnp.zeros_like(p)
    highlight = jnp.zeros_like(p)
    for light, visible in ((SUN, sun), (SKY, sky)):
        direction = jnp.array(light.direction)[:, None]
        color = jnp.array(light.color)[:, None]
        facing = jnp.maximum(dot(normal, jnp.broadcast_to(direction, normal.shape)), 0.0) * visible
        diffuse = diffuse + color * facing[None]
        halfway = unit(toward_viewer + direction)
        lobe = jnp.maximum(dot(normal, halfway), 0.0) ** surface.gloss * surface.shine * jnp.sqrt(facing)
        highlight = highlight + color * lobe[None]
    above = (0.5 + 0.5 * normal[1])[None]
    ambient = jnp.array(AMBIENT_ABOVE)[:, None] * above + jnp.array(AMBIENT_BELOW)[:, None] * (1.0 - above)
    diffuse = (diffuse + ambient * openness[None]) * surface.albedo
    facing = jnp.clip(dot(normal, toward_viewer), 0.0, 1.0)
    fresnel = surface.mirror + (1.0 - surface.mirror) * (1.0 - facing) ** 5 * (surface.mirror > 0) * 0.8
    mirrored = room(p, 2.0 * facing[None] * normal - toward_viewer) * (fresnel * openness)[None]
    metal = surface.metal[None]
    tint = 1.0 + (surface.albedo - 1.0) * metal
    return diffuse * (1.0 - 0.65 * metal) + shiny * (highlight + mirrored) * tint


def develop(radiance: Float[Array, "3 n"]) -> Float[Array, "3 n"]:
    """Film response and sRGB encoding: linear radiance of any size to [0, 1), with a soft shoulder for highlights."""
    x = jnp.maximum(radiance, 0.0) * 0.72
    x = x * (1.0 + x / 9.0) / (1.0 + 0.62 * x)
    x = jnp.clip(x, 0.0, 1.0)
    return jnp.where(x <= 0.0031308, 12.92 * x, 1.055 * jnp.maximum(x, 1e-6) ** (1.0 / 2.4) - 0.055)
