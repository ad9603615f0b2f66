"""What the surfaces of the built-in scene look like: procedural textures over a point's own coordinates.

Every texture is a function of the surface point alone, in linear RGB, so the diffuse part of a pixel is the same from
every view. The finest detail is about as wide as a pixel of the full-size pictures. Arrays: (3, n) or (n,).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ipsm_jax.data.synthetic.noise import Octaves, hashed, noises, smoothstep

TABLE, WALL, GLAZE, BOOK, LEAF, STEM, BRASS, CITRUS, STRIPES, FRAME, PICTURE, CLOTH = range(12)


class Point(NamedTuple):
    """Where a ray met a shape: local position and normal (3, n), the shape's size (3, n), tint (3, n), seed (n,)."""

    position: Float[Array, "3 n"]
    normal: Float[Array, "3 n"]
    size: Float[Array, "3 n"]
    tint: Float[Array, "3 n"]
    seed: Int[Array, " n"]


class Surface(NamedTuple):
    """How a point reflects: albedo (3, n) linear RGB; relief (3, n), added to the local normal; shine (n,), strength of
    the highlight; gloss (n,), its Blinn-Phong exponent; mirror (n,), reflectance at normal incidence; metal (n,), 1
    where reflections take the albedo's color and nothing is diffuse.
    """

    albedo: Float[Array, "3 n"]
    relief: Float[Array, "3 n"]
    shine: Float[Array, " n"]
    gloss: Float[Array, " n"]
    mirror: Float[Array, " n"]
    metal: Float[Array, " n"]


def linear(color: str) -> np.ndarray:
    """(3,) float32 linear RGB of an sRGB color written as rrggbb."""
    value = np.array([int(color[i : i + 2], 16) for i in (0, 2, 4)], np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _paint(color: str) -> Array:
    return jnp.asarray(linear(color))[:, None]


def _mix(a: Array, b: Array, weight: Array) -> Array:
    return a + (b - a) * weight[None]


def _to_line(x: Array) -> Array:
    """Distance to the nearest integer."""
    return jnp.abs(x - jnp.round(x))


def _varied(at: Point) -> Array:
    """Local positions, moved so that each shape gets its own piece of the noise."""
    return at.position + (1.7 * (at.seed % 16).astype(jnp.float32))[None]


def _surface(
    albedo: Array,
    *,
    relief: Array | None = None,
    shine: Array | float = 0.0,
    gloss: float = 20.0,
    mirror: Array | float = 0.0,
    metal: float = 0.0,
) -> Surface:
    n = albedo.shape[1:]
    return Surface(
        jnp.clip(albedo, 0.0, 1.0),
        jnp.zeros_like(albedo) if relief is None else relief,
        *(jnp.broadcast_to(jnp.asarray(v, jnp.float32), n) for v in (shine, gloss, mirror, metal)),
    )


def _grain(p: Array, plank: Array, fineness: float = 1.0) -> tuple[Array, Array]:
    """Growth rings of boards along local x, and their pores, both in [0, 1]; `plank` tells boards apart."""
    p = jnp.stack([p[0] + plank * 7.7, (p[1] + plank * 3.1) * fineness, (p[2] + plank * 0.37) * fineness])
    warp, pores = noises(p, Octaves((0.7, 2.0, 2.6), 3, 3), Octaves((3.2, 30.0, 34.0), 3, 5, 0.8))
    ring = 5.0 * (2.2 * p[2] + 3.0 * p[1] + 2.6 * warp)
    ring = ring - jnp.floor(ring)
    return smoothstep(0.0, 0.75, ring) * (1.0 - smoothstep(0.86, 1.0, ring)), pores


def table(at: Point) -> Surface:
    """Oiled walnut boards with rings, pores and narrow joints; reflects at grazing angles."""
    x, z = at.position[0], at.position[2]
    width, length = 0.62, 2.7
    board = jnp.floor(z / width)
    # Boards are laid end to end, each row shifted by its own amount.
    x_row = x + hashed(board, seed=8) * length
    end = jnp.floor(x_row / length)
    rings, pores = _grain(at.position, hashed(board, end, seed=9) * 8.0)
    tone = 0.22 * hashed(board, end, seed=11)
    color = _mix(_paint("8a5a36"), _paint("b98253"), jnp.clip(rings * 0.75 + tone, 0, 1))
    color = color * (0.35 + 1.25 * pores)[None]
    joint = smoothstep(0.004, 0.013, jnp.minimum(_to_line(z / width) * width, _to_line(x_row / length) * length))
    color = color * (0.3 + 0.7 * joint)[None]
    return _surface(color, shine=0.10 + 0.10 * pores, gloss=45.0, mirror=0.03 * joint)


def wall(at: Point) -> Surface:
    """Limewashed bricks: the wash has worn off in places and shows terracotta; mortar lies back."""
    p = at.position
    length, height, joint = 0.50, 0.175, 0.011
    wobble, patches, fine, wiped, pits = noises(
        p,
        Octaves((9.0, 9.0, 9.0), 2, 21),
        Octaves((2.3, 2.3, 1.0), 5, 22),
        Octaves((24.0, 24.0, 1.0), 2, 23),
        Octaves((6.0, 14.0, 1.0), 3, 27),
        Octaves((31.0, 31.0, 1.0), 1, 29),
    )
    row = jnp.floor(p[1] / height)
    u = p[0] / length + 0.5 * (row - 2.0 * jnp.floor(row / 2.0)) + 0.08 * hashed(row, seed=2)
    column = jnp.floor(u)
    right, up = (u - column - 0.5) * length, (p[1] / height - row - 0.5) * height
    wobble = 0.012 * (wobble - 0.5)
    inset_x, inset_y = 0.5 * length - jnp.abs(right) + wobble, 0.5 * height - jnp.abs(up) + wobble
    inset = jnp.minimum(inset_x, inset_y)
    brick = smoothstep(joint * 0.6, joint * 1.5, inset)
    clay = _mix(_paint("a8583a"), _paint("c98a63"), hashed(column, row, seed=4)) * (0.65 + 0.6 * fine)[None]
    wash = _mix(_paint("d6cfc0"), _paint("efe8da"), hashed(column, row, seed=6)) * (0.80 + 0.32 * fine)[None]
    wash = wash * (0.86 + 0.28 * wiped)[None]
    worn = smoothstep(0.54, 0.62, patches + 0.16 * (hashed(column, row, seed=7) - 0.5) + 0.14 * (fine - 0.5))
    mortar = _paint("b3a996") * (0.70 + 0.5 * fine)[None]
    color = _mix(mortar, _mix(wash, clay, worn), brick)
    # The rounded rim of a brick tilts outwards; pits in its face tilt at random.
    rim = 1.0 - smoothstep(joint * 0.8, joint * 2.8, inset)
    tilt_x = jnp.where(inset_x < inset_y, jnp.sign(right), 0.0) * rim + 0.9 * (fine - 0.5)
    tilt_y = jnp.where(inset_x < inset_y, 0.0, jnp.sign(up)) * rim + 0.9 * (pits - 0.5)
    relief = jnp.stack([0.8 * brick * tilt_x, 0.8 * brick * tilt_y, jnp.zeros_like(rim)])
    return _surface(color, relief=relief, shine=0.02, gloss=8.0)


def glaze(at: Point) -> Surface:
    """A stoneware vase: raw speckled clay above, glossy teal glaze below a wavy edge, a painted band at the belly."""
    x, y, z = at.position
    speckle, clay, flow, spots, edge = noises(
        at.position,
        Octaves((62.0, 62.0, 62.0), 1, 31),
        Octaves((20.0, 40.0, 20.0), 3, 32),
        Octaves((5.5, 4.0, 5.5), 4, 33),
        Octaves((56.0, 56.0, 56.0), 1, 34),
        Octaves((6.5, 0.0, 6.5), 1, 35),
    )
    bare = _mix(_paint("d8c3a0") * (0.82 + 0.3 * clay)[None], _paint("5b4636"), 0.75 * smoothstep(0.66, 0.74, speckle))
    teal = _mix(_paint("0b4650"), _paint("2a939c"), smoothstep(0.25, 0.75, flow))
    teal = _mix(teal, _paint("9fdcd0"), 0.6 * smoothstep(0.72, 0.80, spots))
    edge = 0.72 + 0.20 * (edge - 0.5)
    glazed = 1.0 - smoothstep(edge - 0.008, edge + 0.008, y)
    # Glaze runs: it is thin, and so dark over the clay, just below its edge.
    teal = teal * (1.0 - 0.45 * smoothstep(edge - 0.07, edge, y))[None]
    # The painted band: a row of triangles between two lines.
    turn = jnp.arctan2(z, x) * (18.0 / (2.0 * np.pi))
    tooth = jnp.abs(turn - jnp.floor(turn) - 0.5) * 2.0
    height = (y - 0.36) / 0.16
    band = jnp.where((height > 0.0) & (height < 1.0), smoothstep(-0.10, 0.10, 1.0 - height - tooth), 0.0)
    lines = smoothstep(0.010, 0.005, jnp.abs(y - 0.335)) + smoothstep(0.010, 0.005, jnp.abs(y - 0.545))
    painted = jnp.clip(band + lines, 0.0, 1.0) * glazed
    color = _mix(_mix(bare, teal, glazed), _paint("f0e4c8"), 0.92 * painted)
    return _surface(color, shine=0.05 + 0.8 * glazed, gloss=160.0, mirror=0.06 * glazed)


def book(at: Point) -> Surface:
    """Linen-bound books: a spine on local +z with lettering, cut pages on the other sides."""
    p, half = at.position, at.size
    linen, faded, cut = noises(
        _varied(at),
        Octaves((46.0, 46.0, 46.0), 2, 41),
        Octaves((4.0, 4.0, 4.0), 3, 42),
        Octaves((5.0, 75.0, 5.0), 2, 44),
    )
    cover = at.tint * (0.72 + 0.5 * linen)[None] * (0.86 + 0.28 * faded)[None]
    pages = _paint("e7dcc2") * (0.55 + 0.65 * cut)[None]
    in_pages = (jnp.abs(p[1]) < half[1] - 0.016) & ((jnp.abs(at.normal[0]) > 0.5) | (at.normal[2] < -0.5))
    spine = at.normal[2] > 0.5
    # Lettering: a row of little blocks with pieces missing, on the middle of the spine, between gilt lines.
    column, line = jnp.floor(p[0] / 0.017), jnp.floor(p[1] / 0.017)
    block = hashed(column, line, at.seed, seed=43) > 0.42
    letter = jnp.abs(column - 4.0 * jnp.floor(column / 4.0)) < 2.5
    title = block & letter & (jnp.abs(p[0]) < 0.56 * half[0]) & (jnp.abs(p[1]) < 0.034)
    rule = (jnp.abs(jnp.abs(p[0]) - 0.72 * half[0]) < 0.010) | (jnp.abs(jnp.abs(p[0]) - 0.78 * half[0]) < 0.005)
    gilt = spine & (title | rule)
    color = jnp.where(in_pages[None], pages, jnp.where(gilt[None], _paint("e8c987"), cover))
    return _surface(color, shine=jnp.where(gilt, 0.5, 0.06), gloss=25.0)


def leaf(at: Point) -> Surface:
    """Waxy leaves, along local x: a pale midrib, side veins, and a tone of their own."""
    x, z = at.position[0] / at.size[0], at.position[2] / at.size[2]
    (mottle,) = noises(_varied(at), Octaves((12.0, 12.0, 12.0), 3, 52))
    color = _mix(_paint("3f6b3c"), _paint("8aa860"), hashed(at.seed, seed=51)) * (0.75 + 0.5 * mottle)[None]
    rib = smoothstep(0.16, 0.05, jnp.abs(z))
    vein = smoothstep(0.16, 0.06, _to_line(x * 4.5 - jnp.abs(z) * 1.2))
    color = _mix(color, _paint("d5dca0"), jnp.clip(0.7 * rib + 0.35 * vein, 0.0, 1.0))
    return _surface(color, shine=0.16, gloss=22.0)


def stem(at: Point) -> Surface:
    """Thin twigs."""
    (bark,) = noises(_varied(at), Octaves((9.0, 22.0, 9.0), 2, 55))
    return _surface(at.tint * (0.6 + 0.8 * bark)[None], shine=0.05)


def brass(at: Point) -> Surface:
    """Brushed brass."""
    (brushed,) = noises(_varied(at), Octaves((20.0, 40.0, 20.0), 2, 61))
    return _surface(_paint("d3a24c") * (0.75 + 0.4 * brushed)[None], shine=1.8, gloss=40.0, mirror=0.75, metal=1.0)


def citrus(at: Point) -> Surface:
    """Oranges and lemons: dimpled peel with a tint, darker at the stem."""
    dimples = [Octaves((34.0, 34.0, 34.0), 1, 71 + axis) for axis in range(3)]
    dx, dy, dz, tone = noises(_varied(at), *dimples, Octaves((13.0, 13.0, 13.0), 4, 75))
    relief = jnp.stack([dx, dy, dz]) - 0.5
    color = at.tint * (0.72 + 0.5 * tone + 0.25 * relief[0])[None]
    top = smoothstep(0.975, 0.992, at.position[1] / at.size[1])
    return _surface(_mix(color, _paint("5d5a24"), top), relief=0.25 * relief, shine=0.28, gloss=35.0)


def stripes(at: Point) -> Surface:
    """A lacquered ball with bands about its local y axis."""
    ring = (at.position[1] / at.size[1] * 0.5 + 0.5) * 6.5
    bands = ("f3e9d4", "c8452f", "f3e9d4", "1f3f66", "f3e9d4", "dfa23a", "1f3f66")
    colors = jnp.asarray(np.stack([linear(band) for band in bands], axis=1))
    color = colors[:, jnp.clip(jnp.floor(ring).astype(jnp.int32), 0, len(bands) - 1)]
    (worn,) = noises(at.position, Octaves((36.0, 36.0, 36.0), 3, 81))
    seam = smoothstep(0.0, 0.05, _to_line(ring))
    color = color * ((0.80 + 0.32 * worn) * (0.65 + 0.35 * seam))[None]
    return _surface(color, shine=0.8, gloss=120.0, mirror=0.05)


def frame(at: Point) -> Surface:
    """Dark wooden molding with the grain along local x."""
    rings, pores = _grain(at.position, at.seed.astype(jnp.float32), 2.0)
    color = _mix(_paint("3a2416"), _paint("6b4527"), rings) * (0.6 + 0.7 * pores)[None]
    return _surface(color, shine=0.3, gloss=30.0)


def picture(at: Point) -> Surface:
    """A painting in a mount: hills in the haze before a low sun, in visible brush strokes."""
    p, half = at.position, at.size
    mount = 0.13
    x, y = p[0] / (half[0] - mount), p[1] / (half[1] - mount)
    hills = ("c98f7a", "9a6f78", "57637a", "2d4a58", "16303a")
    ridges = [Octaves((2.1 + 0.9 * i, 0.0, 0.0), 5, 93 + i) for i in range(len(hills))]
    stroke, cloud, fiber, *ridges_at = noises(
        p,
        Octaves((14.0, 34.0, 1.0), 3, 91),
        Octaves((5.0, 18.0, 1.0), 4, 92),
        Octaves((40.0, 40.0, 1.0), 2, 99),
        *ridges,
    )
    stroke = stroke - 0.5
    color = _mix(_paint("f6b95f"), _paint("7fa6b8"), smoothstep(-0.3, 1.0, y + 0.25 * stroke))
    color = _mix(color, _paint("f9ebc8"), 0.8 * smoothstep(0.56, 0.68, cloud))
    away = jnp.sqrt((x - 0.30) ** 2 + (0.75 * (y - 0.42)) ** 2) + 0.03 * stroke
    color = _mix(color, _paint("e2502c"), smoothstep(0.21, 0.19, away))
    for i, (hill, ridge) in enumerate(zip(hills, ridges_at, strict=True)):
        above = y - (0.34 - 0.27 * i + 0.75 * (ridge - 0.5)) + 0.06 * stroke
        shade = _paint(hill) * (0.9 + 0.9 * stroke)[None] + 0.05 * smoothstep(-0.5, 0.0, above)[None]
        color = _mix(color, shade, smoothstep(0.02, -0.02, above))
    outside = jnp.maximum(jnp.abs(x), jnp.abs(y))
    color = _mix(color, _paint("a89a80"), smoothstep(0.985, 1.0, outside))
    color = _mix(color, _paint("efe6d3") * (0.88 + 0.2 * fiber)[None], smoothstep(1.02, 1.035, outside))
    return _surface(color, shine=0.05, gloss=20.0)


def cloth(at: Point) -> Surface:
    """A woven runner along local x: indigo with cream borders, a row of medallions, and threads that can be seen."""
    x, z, half = at.position[0], at.position[2], at.size[2]
    weft, warp = noises(at.position, Octaves((60.0, 1.0, 5.0), 2, 101), Octaves((5.0, 1.0, 50.0), 2, 102))
    inset = half - jnp.abs(z)
    stripe = ((inset > 0.07) & (inset < 0.10)) | ((inset > 0.13) & (inset < 0.145)) | ((inset > 0.30) & (inset < 0.315))
    diamond = _to_line(x / 0.17) * 2.0 + jnp.abs((inset - 0.222) / 0.075)
    motif = ((diamond < 0.95) & (diamond > 0.55)) | (diamond < 0.25)
    middle = half - 0.36
    large = _to_line(x / (2.2 * middle)) * 2.0 + jnp.abs(z / middle)
    medallion = (jnp.abs(large - 0.9) < 0.05) | ((large < 0.62) & (large > 0.42))
    in_field = inset > 0.36
    color = jnp.where((stripe | motif | (in_field & medallion))[None], _paint("eadfc6"), _paint("2b4470"))
    color = jnp.where((in_field & (large < 0.30))[None], _paint("c5533a"), color)
    color = jnp.where((inset < 0.05)[None], _paint("c9893c"), color)
    thread = 0.10 * jnp.sin(x * 150.0) * jnp.sin(z * 120.0)
    return _surface(color * (0.62 + 0.36 * (weft + warp) + thread)[None], shine=0.01, gloss=6.0)


# In the order of the constants above.
TEXTURES = (table, wall, glaze, book, leaf, stem, brass, citrus, stripes, frame, picture, cloth)
