"""Shapes of the built-in scene against float64 implicit functions, finite differences and sampled lights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.data.synthetic.geometry import BOX, CAPSULE, ELLIPSOID, LATHE, Shapes, blocked, distance, hit, normal_at
from ipsm_jax.data.synthetic.noise import Octaves, hashed, noises, value_noise

KINDS = {"ellipsoid": ELLIPSOID, "box": BOX, "capsule": CAPSULE, "lathe": LATHE}
SIZES = {ELLIPSOID: (0.5, 0.2, 0.35), BOX: (0.5, 0.2, 0.35), CAPSULE: (0.15, 0.4, 1.0), LATHE: (-0.3, 0.5, 1.0)}
CURVE = (0.10, 0.12, -0.25)  # x^2 + z^2 = 0.10 + 0.12 y - 0.25 y^2, positive on [-0.3, 0.5]


def make(kind, seed=0, center=(0.3, -0.2, 0.4)):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    rotation = (q * np.sign(np.linalg.det(q))).astype(np.float32)
    return Shapes(
        *(jnp.asarray(value) for value in (np.int32(kind), rotation, np.float32(center), np.float32(SIZES[kind]))),
        *(jnp.asarray(value) for value in (np.float32(CURVE), np.float32(1.0), np.int32(1), np.int32(0))),
        jnp.ones(3, jnp.float32), jnp.int32(0), jnp.asarray(True), jnp.asarray(True), jnp.asarray(True),
    )  # fmt: skip


def local(shape, p):
    return np.asarray(shape.rotation, np.float64) @ (p - np.asarray(shape.center, np.float64)[:, None])


def implicit(kind, q):
    """Float64 function of local points: negative inside, positive outside, about a length."""
    a, b, c = SIZES[kind]
    if kind == ELLIPSOID:
        return np.linalg.norm(q / np.array([[a], [b], [c]]), axis=0) - 1
    if kind == BOX:
        return np.max(np.abs(q) - np.array([[a], [b], [c]]), axis=0)
    if kind == CAPSULE:
        return np.linalg.norm(q - np.stack([0 * q[0], np.clip(q[1], -b, b), 0 * q[0]]), axis=0) - a
    return q[0] ** 2 + q[2] ** 2 - (CURVE[0] + CURVE[1] * q[1] + CURVE[2] * q[1] ** 2)


def rays(n=400, seed=1):
    rng = np.random.default_rng(seed)
    origin = rng.normal(size=(3, n))
    origin *= 4.0 / np.linalg.norm(origin, axis=0)
    toward = np.array([[0.3], [-0.2], [0.4]]) + rng.uniform(-0.7, 0.7, (3, n)) - origin
    return origin.astype(np.float32), (toward * rng.uniform(0.2, 1.0, n)).astype(np.float32)


@pytest.mark.parametrize("name", KINDS)
def test_hit_is_the_first_crossing_of_the_surface(name):
    kind = KINDS[name]
    shape, (origin, direction) = make(kind), rays()
    t = np.asarray(jax.jit(hit)(shape, origin, direction), np.float64)
    met = np.isfinite(t)
    assert 0.1 < met.mean() < 0.95
    at = local(shape, (origin + np.where(met, t, 0) * direction).astype(np.float64))
    assert np.abs(implicit(kind, at)[met]).max() < 2e-5
    # Brute force: march finely; a sign change (within the piece, for the open sheet) is a crossing.
    speed = np.linalg.norm(direction, axis=0)
    steps = np.linspace(0.0, 8.0, 4001)
    points = origin[:, :, None].astype(np.float64) + direction[:, :, None] * (steps / speed[:, None])
    q = local(shape, points.reshape(3, -1))
    value = implicit(kind, q).reshape(len(t), -1)
    crossing = np.sign(value[:, 1:]) != np.sign(value[:, :-1])
    if kind == LATHE:
        y = q[1].reshape(len(t), -1)
        crossing &= (y[:, 1:] > SIZES[LATHE][0]) & (y[:, 1:] < SIZES[LATHE][1])
    first = np.where(crossing.any(1), steps[np.argmax(crossing, axis=1)], np.inf)
    with np.errstate(invalid="ignore"):
        apart = np.abs(first - t * speed) > 0.004
    # Rays that graze the surface or the rim of a sheet may fall between two steps.
    assert (apart & (np.isfinite(first) | met)).mean() < 0.02


@pytest.mark.parametrize("name", KINDS)
def test_normals_are_gradients(name):
    kind = KINDS[name]
    shape, (origin, direction) = make(kind), rays()
    t = np.asarray(jax.jit(hit)(shape, origin, direction))
    met = np.isfinite(t)
    q = local(shape, (origin + np.where(met, t, 0) * direction).astype(np.float64))[:, met]
    n = q.shape[1]
    columns = (jnp.broadcast_to(jnp.asarray(v, jnp.float32)[:, None], (3, n)) for v in (SIZES[kind], CURVE))
    normal = np.asarray(normal_at(jnp.full(n, kind), *columns, jnp.asarray(q, jnp.float32)))
    steps = 1e-5 * np.eye(3)
    gradient = np.stack([implicit(kind, q + s[:, None]) - implicit(kind, q - s[:, None]) for s in steps])
    gradient /= np.linalg.norm(gradient, axis=0)
    alignment = np.sum(normal * gradient, axis=0)
    assert np.mean(alignment > 0.9999) > 0.97  # the rest lies on the edges of the box
    np.testing.assert_allclose(np.linalg.norm(normal, axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["box", "capsule", "ellipsoid"])
def test_distance_is_that_of_the_nearest_surface_point(name):
    kind = KINDS[name]
    shape = make(kind)
    rng = np.random.default_rng(3)
    outwards = rng.normal(size=(3, 40000))
    outwards *= 3.0 / np.linalg.norm(outwards, axis=0)
    center = np.asarray(shape.center, np.float64)[:, None]
    origin = (center + outwards).astype(np.float32)
    toward = (center + rng.uniform(-0.6, 0.6, outwards.shape) - origin).astype(np.float32)
    t = np.asarray(jax.jit(hit)(shape, origin, toward))
    surface = (origin + np.where(np.isfinite(t), t, 0) * toward)[:, np.isfinite(t)]
    probes = (center + rng.uniform(-1.2, 1.2, (3, 60))).astype(np.float32)
    nearest = np.array([np.linalg.norm(surface - p[:, None], axis=0).min() for p in probes.T])
    found = np.asarray(distance(shape, jnp.asarray(probes)))
    outside = found > 0
    assert outside.sum() > 20
    # First order only for ellipsoids: never too large by much, which is what darkening needs.
    tolerance = 0.25 if kind == ELLIPSOID else 0.02
    np.testing.assert_allclose(found[outside], nearest[outside], atol=0.02, rtol=tolerance)


@pytest.mark.parametrize("name", ["box", "capsule", "ellipsoid"])
def test_blocked_is_the_hidden_share_of_the_light(name):
    kind, spread = KINDS[name], 0.12
    shape = make(kind)
    rng = np.random.default_rng(5)
    toward = np.array([0.4, 0.7, 0.59])
    toward /= np.linalg.norm(toward)
    points = np.asarray(shape.center, np.float64)[:, None] - 2.5 * toward[:, None] + rng.uniform(-0.8, 0.8, (3, 150))
    found = np.asarray(blocked(shape, jnp.asarray(points, jnp.float32), jnp.asarray(toward, jnp.float32), spread))
    # The same light as many rays over its disk.
    side = np.cross(toward, (0, 1, 0))
    side /= np.linalg.norm(side)
    radius, angle = np.sqrt((np.arange(400) + 0.5) / 400), np.arange(400) * 2.399963
    disk = spread * radius * np.stack([np.cos(angle), np.sin(angle)])
    lights = toward[:, None] + side[:, None] * disk[0] + np.cross(side, toward)[:, None] * disk[1]
    origin = np.repeat(points, 400, axis=1).astype(np.float32)
    t = np.asarray(jax.jit(hit)(shape, origin, np.tile(lights, 150).astype(np.float32)))
    hidden = np.isfinite(t).reshape(150, 400).mean(1)
    assert hidden.max() > 0.3 and (hidden == 0).any()
    assert np.abs(found - hidden).mean() < 0.05
    assert np.abs(found - hidden).max() < 0.35
    assert found.min() >= 0 and found.max() <= 1


def test_a_shape_behind_the_point_hides_nothing():
    shape, toward = make(BOX), np.array([0.0, 0.0, 1.0], np.float32)
    points = np.asarray(shape.center)[:, None] + np.float32([[0.0], [0.0], [2.0]])
    assert float(blocked(shape, jnp.asarray(points), jnp.asarray(toward), 0.1)[0]) == 0.0


def test_noise_passes_through_its_lattice_values_and_is_smooth_between():
    lattice = np.random.default_rng(0).integers(-50, 50, (3, 200)).astype(np.float32)
    at_lattice = value_noise(*jnp.asarray(lattice), 7)
    np.testing.assert_allclose(at_lattice, hashed(*jnp.asarray(lattice), 7), atol=1e-6)
    line = jnp.linspace(-3.0, 3.0, 6001)
    values = np.asarray(value_noise(line, 0.3 * line, 1.0 - line, 7))
    assert np.abs(np.diff(values)).max() < 0.006  # the quintic's slope is at most 1.875 per axis and cell
    assert values.std() > 0.1


def test_hashes_of_neighbors_are_uniform_and_unrelated():
    x, y = jnp.meshgrid(jnp.arange(-64, 64), jnp.arange(-64, 64))
    values = np.asarray(hashed(x, y))
    counts, _ = np.histogram(values, bins=16, range=(0, 1))
    assert np.abs(counts / values.size - 1 / 16).max() < 0.01
    for other in (values[1:, :-1], values[:-1, 1:], values[1:, 1:]):
        assert abs(np.corrcoef(values[:-1, :-1].ravel(), other.ravel())[0, 1]) < 0.03


def test_many_noises_at_once_are_the_weighted_octaves():
    p = jnp.asarray(np.random.default_rng(1).uniform(-2, 2, (3, 50)), jnp.float32)
    one, two = noises(p, Octaves((2.0, 3.0, 4.0), 1, 5), Octaves((1.0, 1.5, 2.0), 2, 6, gain=0.5))
    np.testing.assert_allclose(one, value_noise(2 * p[0], 3 * p[1], 4 * p[2], 5), atol=1e-6)
    first = value_noise(p[0], 1.5 * p[1], 2 * p[2], 6)
    second = value_noise(2 * p[0] + 17.3, 3 * p[1] + 17.3, 4 * p[2] + 17.3, 107)
    np.testing.assert_allclose(two, (first + 0.5 * second) / 1.5, atol=1e-5)
