"""The shapes of the built-in scene: where a ray meets them, how they shade, and how far away they are.

World axes: x right, y up, z towards the viewer; the unit is about 20 cm. Vectors are (3, n): coordinates first.
A shape lives in its own frame: local = rotation @ (world - center). Meaning of `size` (3,) and `curve` (3,) by kind:

  ELLIPSOID  size = semi-axes
  BOX        size = half edge lengths
  CAPSULE    size = (radius, half length of the axis, -), axis along local y
  LATHE      size = (lowest y, highest y, -): the surface of revolution x^2 + z^2 = a + b y + c y^2, curve = (a, b, c)

A lathe piece is an open sheet that neither shades nor occludes; ellipsoids and capsules inside it do that for it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ipsm_jax.data.synthetic.noise import smoothstep

ELLIPSOID, BOX, CAPSULE, LATHE = range(4)

# A ray that starts on a surface must not hit it again at once.
_NEAREST = 1e-3


# The coordinates of n vectors as three (n,) arrays: the form in which XLA turns the geometry into vector instructions.
Vector = tuple[Array, Array, Array]


class Shapes(NamedTuple):
    """P shapes as one table, or a single one without the leading axis.

    kind (P,) int32; rotation (P, 3, 3) local from world; center, size, curve (P, 3); reach (P,) radius of a sphere
    around the center that holds the shape; body (P,) int32, shapes of one body do not shade each other;
    material (P,) int32; tint (P, 3) linear RGB; seed (P,) int32, varies the texture;
    seen, shades, crowds (P,) bool: is hit by camera rays, casts shadows, darkens what is near (ambient occlusion).
    """

    kind: Int[Array, "*p"]
    rotation: Float[Array, "*p 3 3"]
    center: Float[Array, "*p 3"]
    size: Float[Array, "*p 3"]
    curve: Float[Array, "*p 3"]
    reach: Float[Array, "*p"]
    body: Int[Array, "*p"]
    material: Int[Array, "*p"]
    tint: Float[Array, "*p 3"]
    seed: Int[Array, "*p"]
    seen: Bool[Array, "*p"]
    shades: Bool[Array, "*p"]
    crowds: Bool[Array, "*p"]


def dot(a: Array | Vector, b: Array | Vector) -> Array:
    """Inner product over the coordinate axis of (3, ...) arrays or coordinate triples."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def square_root(x: Array) -> Array:
    """Square root, 0 for what is not positive.

    On a CPU, XLA has a vector instruction for the reciprocal root but not for the root.
    """
    return x * jax.lax.rsqrt(jnp.maximum(x, 1e-30))


def unit(v: Float[Array, "3 ..."]) -> Float[Array, "3 ..."]:
    """Vectors of length one; zero stays finite."""
    return v * jax.lax.rsqrt(jnp.maximum(dot(v, v), 1e-20))[None]


def to_local(rotation: Float[Array, "3 3"], v: Vector) -> Vector:
    """The product rotation @ v."""
    x, y, z = (rotation[row, 0] * v[0] + rotation[row, 1] * v[1] + rotation[row, 2] * v[2] for row in range(3))
    return x, y, z


def _over(v: Vector, size: Float[Array, " 3"]) -> Vector:
    inverse = 1.0 / size
    return v[0] * inverse[0], v[1] * inverse[1], v[2] * inverse[2]


def _along(o: Vector, t: Array, d: Vector) -> Vector:
    return o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]


def _largest(v: Vector) -> Array:
    return jnp.maximum(jnp.maximum(v[0], v[1]), v[2])


def _smallest(v: Vector) -> Array:
    return jnp.minimum(jnp.minimum(v[0], v[1]), v[2])


def _local_ray(shape: Shapes, origin: Array, direction: Array) -> tuple[Vector, Vector, Array]:
    """Local origin and direction, the origin slid along the ray to the shape's center by `shift`.

    The slide keeps the numbers small where the intersection is computed: float32 would lose three digits otherwise.
    """
    offset = (origin[0] - shape.center[0], origin[1] - shape.center[1], origin[2] - shape.center[2])
    d = (direction[0], direction[1], direction[2])
    shift = -dot(offset, d) / dot(d, d)
    return to_local(shape.rotation, _along(offset, shift, d)), to_local(shape.rotation, d), shift


def _first(candidates: tuple[tuple[Array, Array], ...], shift: Array) -> Array:
    """Smallest valid root in front of the origin, inf if there is none; candidates are (root, whether it is valid)."""
    best = jnp.full_like(shift, jnp.inf)
    for root, valid in candidates:
        t = root + shift
        best = jnp.where(valid & (t > _NEAREST), jnp.minimum(best, t), best)
    return best


def _hit_ellipsoid(shape: Shapes, o: Vector, d: Vector, shift: Array) -> Array:
    o, d = _over(o, shape.size), _over(d, shape.size)
    inverse = 1.0 / dot(d, d)
    middle = -dot(o, d) * inverse
    nearest = _along(o, middle, d)
    square = (1.0 - dot(nearest, nearest)) * inverse
    half = square_root(square)
    return _first(((middle - half, square > 0), (middle + half, square > 0)), shift)


def _slabs(shape: Shapes, o: Vector, d: Vector) -> tuple[Vector, Vector]:
    """Ray parameters at which each of a box's three slabs is entered and left."""
    enter, leave = [], []
    for axis in range(3):
        slope = jnp.where(jnp.abs(d[axis]) < 1e-7, 1e-7, d[axis])
        inverse = 1.0 / slope
        middle, half = -o[axis] * inverse, shape.size[axis] * jnp.abs(inverse)
        enter.append(middle - half)
        leave.append(middle + half)
    return (enter[0], enter[1], enter[2]), (leave[0], leave[1], leave[2])


def _hit_box(shape: Shapes, o: Vector, d: Vector, shift: Array) -> Array:
    enters, leaves = _slabs(shape, o, d)
    enter, leave = _largest(enters), _smallest(leaves)
    return _first(((enter, enter < leave), (leave, enter < leave)), shift)


def _hit_capsule(shape: Shapes, o: Vector, d: Vector, shift: Array) -> Array:
    radius, half_length = shape.size[0], shape.size[1]
    inverse = 1.0 / jnp.maximum(d[0] * d[0] + d[2] * d[2], 1e-12)
    middle = -(o[0] * d[0] + o[2] * d[2]) * inverse
    x, z = o[0] + middle * d[0], o[2] + middle * d[2]
    square = (radius * radius - x * x - z * z) * inverse
    side = middle - square_root(square)
    y = o[1] + side * d[1]
    on_side = (square > 0) & (jnp.abs(y) < half_length)
    # Beyond the side, the cap on that end is all there is to hit.
    o = (o[0], o[1] - jnp.where(y > 0, half_length, -half_length), o[2])
    inverse = 1.0 / dot(d, d)
    middle = -dot(o, d) * inverse
    nearest = _along(o, middle, d)
    square = (radius * radius - dot(nearest, nearest)) * inverse
    cap = middle - square_root(square)
    return _first(((side, on_side), (cap, ~on_side & (square > 0))), shift)


def _hit_lathe(shape: Shapes, o: Vector, d: Vector, shift: Array) -> Array:
    low, high = shape.size[0], shape.size[1]
    c0, c1, c2 = shape.curve[0], shape.curve[1], shape.curve[2]
    a = d[0] * d[0] + d[2] * d[2] - c2 * d[1] * d[1]
    b = o[0] * d[0] + o[2] * d[2] - (0.5 * c1 + c2 * o[1]) * d[1]
    c = o[0] * o[0] + o[2] * o[2] - c0 - (c1 + c2 * o[1]) * o[1]
    square = b * b - a * c
    # The form without cancellation: one root from the sum of equal signs, the other from the product of the roots.
    q = -(b + jnp.where(b < 0, -1.0, 1.0) * square_root(square))
    candidates = []
    for root in (q / jnp.where(jnp.abs(a) < 1e-12, 1e-12, a), c / jnp.where(jnp.abs(q) < 1e-12, 1e-12, q)):
        y = o[1] + root * d[1]
        candidates.append((root, (square > 0) & (y >= low) & (y <= high)))
    return _first(tuple(candidates), shift)


def hit(shape: Shapes, origin: Float[Array, "3 n"], direction: Float[Array, "3 n"]) -> Float[Array, " n"]:
    """Ray parameter t > 0 of the first meeting of origin + t direction with one shape; inf where they miss."""
    o, d, shift = _local_ray(shape, origin, direction)
    return jax.lax.switch(shape.kind, (_hit_ellipsoid, _hit_box, _hit_capsule, _hit_lathe), shape, o, d, shift)


def normal_at(
    kind: Int[Array, " n"], size: Float[Array, "3 n"], curve: Float[Array, "3 n"], p: Float[Array, "3 n"]
) -> Float[Array, "3 n"]:
    """Outward unit normals in local coordinates at surface points p, each of its own shape."""
    ellipsoid = p / (size * size)
    scaled = p / size
    faces = jnp.abs(scaled)
    box = jnp.where(faces == jnp.max(faces, axis=0, keepdims=True), jnp.sign(scaled), 0.0)
    capsule = p - jnp.stack([jnp.zeros_like(p[1]), jnp.clip(p[1], -size[1], size[1]), jnp.zeros_like(p[1])])
    lathe = jnp.stack([p[0], -(0.5 * curve[1] + curve[2] * p[1]), p[2]])
    normal = jnp.where(kind == BOX, box, ellipsoid)
    normal = jnp.where(kind == CAPSULE, capsule, normal)
    return unit(jnp.where(kind == LATHE, lathe, normal))


def blocked(
    shape: Shapes, origin: Float[Array, "3 n"], direction: Float[Array, " 3"], spread: float
) -> Float[Array, " n"]:
    """Fraction in [0, 1] of a distant round light that one shape hides from each point.

    The light is a disk around `direction` (unit) of angular radius atan(spread). A shape that passes the central ray at
    distance `gap` when it is `t` away hides the part of the disk that the interval [gap - r, gap + r] covers; the area
    of a disk to one side of a chord is close to a smoothstep. Zero beyond the penumbra, so culling changes nothing.
    """
    o, d, shift = _local_ray(shape, origin, jnp.broadcast_to(direction[:, None], origin.shape))

    def from_ellipsoid() -> tuple[Array, Array, Array]:
        scaled_o, scaled_d = _over(o, shape.size), _over(d, shape.size)
        middle = -dot(scaled_o, scaled_d) / dot(scaled_d, scaled_d)
        nearest, world = _along(scaled_o, middle, scaled_d), _along(o, middle, d)
        inverse = jax.lax.rsqrt(jnp.maximum(dot(nearest, nearest), 1e-8))
        gap = square_root(dot(world, world))
        return gap, gap * inverse, middle + shift

    def from_box() -> tuple[Array, Array, Array]:
        enters, leaves = _slabs(shape, o, d)
        enter, leave = _largest(enters), _smallest(leaves)
        # Distance of the ray from the box edge that it passes: the edge between the slab entered last and left first.
        entered, left = jnp.ones_like(enter), jnp.ones_like(leave)
        for axis in range(3):
            slope = jnp.maximum(d[axis] * d[axis], 1e-14)
            entered = jnp.where(enters[axis] == enter, slope, entered)
            left = jnp.where(leaves[axis] == leave, slope, left)
        gap = (enter - leave) * square_root(entered * left / (entered + left))
        wide = jnp.full_like(gap, 10.0)
        # A box that ends behind the point hides nothing; one that holds the middle of the chord behind is next to it.
        t = jnp.where(leave + shift > 0, jnp.maximum(0.5 * (enter + leave) + shift, 1e-3), -1.0)
        return gap + wide, wide, t

    def from_capsule() -> tuple[Array, Array, Array]:
        # Nearest points of the line and the axis segment.
        along, ahead = d[1], dot(o, d)
        free = jnp.maximum(1.0 - along * along, 1e-6)
        y = jnp.clip((o[1] - along * ahead) / free, -shape.size[1], shape.size[1])
        middle = y * along - ahead
        x, dy, z = _along((o[0], o[1] - y, o[2]), middle, d)
        gap = square_root(x * x + dy * dy + z * z)
        return gap, jnp.full_like(gap, shape.size[0]), middle + shift

    gap, radius, t = jax.lax.switch(shape.kind, (from_ellipsoid, from_box, from_capsule, from_capsule))
    width = 1.0 / (jnp.maximum(t, 1e-3) * spread)
    hidden = smoothstep(-1.0, 1.0, (gap + radius) * width) - smoothstep(-1.0, 1.0, (gap - radius) * width)
    return jnp.where(t > 0, hidden, 0.0)


def distance(shape: Shapes, p: Float[Array, "3 n"]) -> Float[Array, " n"]:
    """Signed distance from points to one shape (first-order for ellipsoids; a lathe piece counts as far away)."""
    q = to_local(shape.rotation, (p[0] - shape.center[0], p[1] - shape.center[1], p[2] - shape.center[2]))

    def from_ellipsoid() -> Array:
        scaled = _over(q, shape.size)
        slope = _over(scaled, shape.size)
        length = square_root(dot(scaled, scaled))
        return length * (length - 1.0) * jax.lax.rsqrt(jnp.maximum(dot(slope, slope), 1e-12))

    def from_box() -> Array:
        excess = tuple(jnp.abs(q[axis]) - shape.size[axis] for axis in range(3))
        x, y, z = (jnp.maximum(e, 0.0) for e in excess)
        return square_root(x * x + y * y + z * z) + jnp.minimum(_largest((excess[0], excess[1], excess[2])), 0.0)

    def from_capsule() -> Array:
        y = q[1] - jnp.clip(q[1], -shape.size[1], shape.size[1])
        return square_root(q[0] * q[0] + y * y + q[2] * q[2]) - shape.size[0]

    def from_lathe() -> Array:
        return jnp.full_like(q[0], jnp.inf)

    return jax.lax.switch(shape.kind, (from_ellipsoid, from_box, from_capsule, from_lathe))
