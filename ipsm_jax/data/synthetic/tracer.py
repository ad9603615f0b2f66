"""A small analytic ray tracer: shapes and a camera to a picture and its exact depth.

The picture is traced tile by tile. Each tile first finds the few shapes that can matter to it (by bounding spheres, so
that nothing is lost) and loops over those only. There is no randomness: soft shadows and ambient occlusion are closed
forms, so the result has no grain and the same surface point has the same diffuse color in every view.
Camera axes are OpenCV's (x right, y down, z forward); rays are scaled to z = 1, so the ray parameter is the depth.
Vectors are (3, n).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ipsm_jax.data.synthetic.geometry import Shapes, blocked, distance, dot, hit, normal_at, unit
from ipsm_jax.data.synthetic.lighting import SKY, SUN, Light, develop, outgoing, window
from ipsm_jax.data.synthetic.materials import TEXTURES, Point, Surface

TILE = (21, 24)  # rows, columns
# Distances along the normal at which closeness darkens, and how much each counts.
_PROBES = ((0.07, 0.36), (0.22, 0.34), (0.62, 0.30))


def _pick(wanted: Bool[Array, " p"]) -> tuple[Int[Array, " p"], Int[Array, ""]]:
    """Indices with the wanted shapes first, in their order, and how many are wanted."""
    return jnp.argsort(~wanted, stable=True), jnp.sum(wanted)


def _nth(shapes: Shapes, index: Array) -> Shapes:
    return jax.tree.map(lambda column: column[index], shapes)


def first_hit(
    shapes: Shapes, wanted: Bool[Array, " p"], origin: Float[Array, "3 n"], direction: Float[Array, "3 n"]
) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    """Ray parameter (inf: nothing) and index of the first of the wanted shapes along each ray."""
    order, count = _pick(wanted)

    def nearer(i: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        t = hit(_nth(shapes, order[i]), origin, direction)
        closer = t < best[0]
        return jnp.where(closer, t, best[0]), jnp.where(closer, order[i], best[1])

    n = origin.shape[1]
    return jax.lax.fori_loop(0, count, nearer, (jnp.full(n, jnp.inf), jnp.zeros(n, order.dtype)))


def _sphere_around(p: Float[Array, "3 n"]) -> tuple[Float[Array, " 3"], Float[Array, ""]]:
    low, high = jnp.min(p, axis=1), jnp.max(p, axis=1)
    return 0.5 * (low + high), 0.5 * jnp.linalg.norm(high - low)


def light_fraction(
    shapes: Shapes, shading: Bool[Array, " p"], p: Float[Array, "3 n"], body: Int[Array, " n"], light: Light
) -> Float[Array, " n"]:
    """Share of a light in [0, 1] that reaches each point, past every shading shape that is not its own body."""
    direction = jnp.array(light.direction, jnp.float32)
    center, radius = _sphere_around(p)
    offset = shapes.center - center[None]
    along = jnp.sum(offset * direction[None], axis=1)
    aside = jnp.linalg.norm(offset - along[:, None] * direction[None], axis=1)
    around = radius + shapes.reach
    # The penumbra can reach as far out as the light's cone is wide at the shape's far end.
    near = aside < around + light.spread * jnp.maximum(along + around, 0.0)
    order, count = _pick(shading & near & (along > -around))

    def dim(i: Array, fraction: Array) -> Array:
        shape = _nth(shapes, order[i])
        return fraction * (1.0 - jnp.where(shape.body == body, 0.0, blocked(shape, p, direction, light.spread)))

    return jax.lax.fori_loop(0, count, dim, jnp.ones(p.shape[1], jnp.float32))


def openness(shapes: Shapes, p: Float[Array, "3 n"], normal: Float[Array, "3 n"]) -> Float[Array, " n"]:
    """Ambient occlusion in [0, 1], 1 = open: how far the nearest shape is from points held up along the normal."""
    lengths = jnp.array([length for length, _ in _PROBES], jnp.float32)
    probes = (p[:, None, :] + normal[:, None, :] * lengths[None, :, None]).reshape(3, -1)
    center, radius = _sphere_around(p)
    reach = radius + shapes.reach + 2.0 * _PROBES[-1][0]
    near = jnp.linalg.norm(shapes.center - center[None], axis=1) < reach
    order, count = _pick(shapes.crowds & near)

    def closest(i: Array, best: Array) -> Array:
        return jnp.minimum(best, distance(_nth(shapes, order[i]), probes))

    free = jnp.repeat(lengths, p.shape[1])
    gap = jax.lax.fori_loop(0, count, closest, free).reshape(len(_PROBES), -1)
    share = jnp.clip(gap / lengths[:, None], 0.0, 1.0)
    weights = jnp.array([weight for _, weight in _PROBES], jnp.float32)
    return jnp.sum(weights[:, None] * share, axis=0)


def _surface_of(material: Int[Array, " n"], point: Point) -> Surface:
    """Each point's own texture; a texture that no point of the tile has costs nothing."""
    n = material.shape[0]
    surface = Surface(jnp.zeros((3, n)), jnp.zeros((3, n)), *(jnp.zeros(n) for _ in range(4)))
    for index, texture in enumerate(TEXTURES):
        mine = material == index

        def paint(old: Surface, mine: Array = mine, texture: Callable[[Point], Surface] = texture) -> Surface:
            new = texture(point)
            return Surface(
                *(jnp.where(mine if was.ndim == 1 else mine[None], is_, was) for is_, was in zip(new, old, strict=True))
            )

        surface = jax.lax.cond(jnp.any(mine), paint, lambda old: old, surface)
    return surface


def shade(
    shapes: Shapes,
    index: Int[Array, " n"],
    p: Float[Array, "3 n"],
    toward_viewer: Float[Array, "3 n"],
    shiny: float,
) -> Float[Array, "3 n"]:
    """Display color in [0, 1] of surface points p, each on the shape of its index, seen from a unit direction.

    With shiny = 0 the color does not depend on `toward_viewer` except for which side of a sheet is seen.
    """
    rotation = jnp.moveaxis(shapes.rotation[index], 0, -1)
    offset = p - shapes.center[index].T
    local = jnp.stack([dot(rotation[row], offset) for row in range(3)])
    size, curve = shapes.size[index].T, shapes.curve[index].T
    normal = normal_at(shapes.kind[index], size, curve, local)
    point = Point(local, normal, size, shapes.tint[index].T, shapes.seed[index])
    surface = _surface_of(shapes.material[index], point)

    def to_world(v: Array) -> Array:
        v = unit(v)
        return jnp.stack([dot(rotation[:, column], v) for column in range(3)])

    smooth, rough = to_world(normal), to_world(normal + surface.relief)
    side = jnp.where(dot(smooth, toward_viewer) < 0, -1.0, 1.0)[None]
    smooth, rough = smooth * side, rough * side
    body = shapes.body[index]
    sun = light_fraction(shapes, shapes.shades, p, body, SUN) * window(p)
    # Thin things leave no shadow in the light of the sky that could be seen.
    sky = light_fraction(shapes, shapes.shades & shapes.crowds, p, body, SKY)
    return develop(outgoing(surface, p, rough, toward_viewer, sun, sky, openness(shapes, p, smooth), shiny))


def _offsets(samples: int) -> np.ndarray:
    """(samples^2, 2) positions inside a pixel, a regular grid turned a little so that no edge direction is favored."""
    steps = (np.arange(samples) + 0.5) / samples - 0.5
    grid = np.stack(np.meshgrid(steps, steps, indexing="xy"), -1).reshape(-1, 2)
    angle = 0.0 if samples == 1 else np.arctan(0.5)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (grid @ turn.T + 0.5).astype(np.float32)


@partial(jax.jit, static_argnames=("width", "height", "samples"))
def render_view(
    shapes: Shapes,
    camera_from_world: Float[Array, "4 4"],
    intrinsics: Float[Array, " 4"],
    shiny: float = 1.0,
    *,
    width: int,
    height: int,
    samples: int = 2,
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w"]]:
    """Trace one view.

    Args:
      shapes: the scene; every ray should meet some shape.
      camera_from_world: rigid transform; intrinsics: (fx, fy, cx, cy) in pixels.
      shiny: 1, or 0 to leave out highlights and reflections.
      samples: the color of a pixel is the mean over samples x samples rays.

    Returns:
      color (height, width, 3) float32 in [0, 1], and depth (height, width) float32: camera z of the surface on the ray
      through the pixel's center, inf where there is none.
    """
    rows, columns = TILE
    rotation = camera_from_world[:3, :3]
    eye = -jnp.sum(rotation * camera_from_world[:3, 3:], axis=0)
    center = np.array([[0.5, 0.5]], np.float32)
    offsets = jnp.asarray(center if samples == 1 else np.concatenate([center, _offsets(samples)]))
    tiles_down, tiles_across = -(-height // rows), -(-width // columns)
    pixels = rows * columns

    def trace(tile: Array) -> tuple[Array, Array]:
        v = (tile // tiles_across) * rows + jnp.arange(rows)
        u = (tile % tiles_across) * columns + jnp.arange(columns)
        corner = jnp.stack(jnp.meshgrid(u, v, indexing="xy"), -1).reshape(1, -1, 2).astype(jnp.float32)
        position = (corner + offsets[:, None]).reshape(-1, 2).T
        x, y = (position[0] - intrinsics[2]) / intrinsics[0], (position[1] - intrinsics[3]) / intrinsics[1]
        direction = rotation[0][:, None] * x[None] + rotation[1][:, None] * y[None] + rotation[2][:, None]
        origin = jnp.broadcast_to(eye[:, None], direction.shape)
        # A shape can be met if its bounding sphere touches the cone around the tile's rays.
        away = unit(direction)
        axis = unit(jnp.mean(away, axis=1)[:, None])
        opening = jnp.arccos(jnp.clip(jnp.min(dot(away, jnp.broadcast_to(axis, away.shape))), -1.0, 1.0))
        offset = shapes.center - eye[None]
        range_ = jnp.linalg.norm(offset, axis=1)
        bearing = jnp.arccos(jnp.clip(jnp.sum(offset * axis.T, axis=1) / range_, -1.0, 1.0))
        half = jnp.arcsin(jnp.clip(shapes.reach / range_, 0.0, 1.0))
        wanted = shapes.seen & ((range_ <= shapes.reach) | (bearing < opening + half + 1e-3))
        t, index = first_hit(shapes, wanted, origin, direction)
        # A single sample is the center ray itself.
        chosen = slice(0, pixels) if samples == 1 else slice(pixels, None)
        reached = jnp.where(jnp.isfinite(t), t, 0.0)[chosen]
        p = origin[:, chosen] + reached[None] * direction[:, chosen]
        color = shade(shapes, index[chosen], p, -away[:, chosen], shiny)
        color = jnp.where(jnp.isfinite(t[chosen])[None], color, 0.0)
        return jnp.mean(color.reshape(3, -1, pixels), axis=1), t[:pixels]

    color, depth = jax.lax.map(trace, jnp.arange(tiles_down * tiles_across))
    grid = (tiles_down, tiles_across)
    color = color.reshape(*grid, 3, rows, columns).transpose(0, 3, 1, 4, 2)
    color = color.reshape(tiles_down * rows, tiles_across * columns, 3)[:height, :width]
    depth = depth.reshape(*grid, rows, columns).transpose(0, 2, 1, 3)
    return color, depth.reshape(tiles_down * rows, tiles_across * columns)[:height, :width]
