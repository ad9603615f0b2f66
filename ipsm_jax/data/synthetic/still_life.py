"""The built-in scene: what stands where, and the cameras that look at it.

A table against a limewashed brick wall in low sun: a stoneware vase with twigs, books, fruit, a brass wire solid, a
framed painting. World axes: x right, y up, z towards the viewer; the table top is y = 0, the wall z = -1.25; the unit
is about 20 cm. Everything is fixed: two calls give the same scene.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ipsm_jax.data.synthetic import materials as m
from ipsm_jax.data.synthetic.geometry import BOX, CAPSULE, ELLIPSOID, LATHE, Shapes
from ipsm_jax.scene.camera import look_at

VIEWS = 24
_WALL_Z = -1.25
_GRAY = (0.5, 0.5, 0.5)


class _Builder:
    """Collects rows of the shape table."""

    def __init__(self) -> None:
        self.rows: list[tuple] = []
        self.bodies = 0

    def body(self) -> int:
        """A new body number."""
        self.bodies += 1
        return self.bodies

    def add(
        self,
        kind: int,
        material: int,
        center: ArrayLike,
        size: tuple,
        *,
        rotation: np.ndarray | None = None,
        curve: tuple = (0.0, 0.0, 0.0),
        reach: float | None = None,
        body: int | None = None,
        tint: ArrayLike = _GRAY,
        seen: bool = True,
        shades: bool = True,
        crowds: bool = True,
    ) -> None:
        """Add one shape; `rotation` is world from local, the other arguments are the columns of Shapes."""
        if reach is None:
            reach = {BOX: float(np.linalg.norm(size)), CAPSULE: size[0] + size[1]}.get(kind, max(size))
        local_from_world = np.eye(3) if rotation is None else rotation.T
        body = self.body() if body is None else body
        seed = len(self.rows) + 1
        self.rows.append(
            (kind, local_from_world, center, size, curve, reach, body, material, tint, seed, seen, shades, crowds)
        )

    def rod(
        self,
        start: ArrayLike,
        end: ArrayLike,
        radius: float,
        material: int,
        *,
        body: int,
        tint: ArrayLike = _GRAY,
        seen: bool = True,
        crowds: bool = True,
    ) -> None:
        """A capsule between two points."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        length = float(np.linalg.norm(end - start))
        size, rotation = (radius, 0.5 * length, 1.0), _frame_with_y((end - start) / length)
        middle = 0.5 * (start + end)
        self.add(CAPSULE, material, middle, size, rotation=rotation, body=body, tint=tint, seen=seen, crowds=crowds)

    def table(self) -> Shapes:
        """All rows as one Shapes."""
        columns = [np.stack([np.asarray(value) for value in column]) for column in zip(*self.rows, strict=True)]
        kinds = (np.int32, *(np.float32,) * 5, np.int32, np.int32, np.float32, np.int32, bool, bool, bool)
        return Shapes(*(jnp.asarray(c.astype(kind)) for c, kind in zip(columns, kinds, strict=True)))


def _frame_with_y(y: np.ndarray) -> np.ndarray:
    """World-from-local rotation whose y axis is the unit vector y."""
    helper = np.array([0.0, 0.0, 1.0]) if abs(y[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    x = np.cross(y, helper)
    x /= np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def _turned(degrees: float) -> np.ndarray:
    """World-from-local rotation about the vertical."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _vase(build: _Builder, x: float, z: float) -> None:
    """A stoneware vase: r^2 is a quadratic B-spline in y, so every piece is a quadric and the profile is smooth."""
    controls = np.array([0.20, 0.25, 0.395, 0.44, 0.395, 0.235, 0.125, 0.125, 0.205]) ** 2
    step, body = 0.17, build.body()
    for i in range(len(controls) - 2):
        c0, c1, c2 = controls[i : i + 3]
        # f(s) = a + b s + c s^2 with s = (y - low) / step.
        a, b, c = 0.5 * (c0 + c1), c1 - c0, 0.5 * (c0 - 2 * c1 + c2)
        low = i * step
        curve = (a - b * low / step + c * (low / step) ** 2, b / step - 2 * c * low / step**2, c / step**2)
        top = low + step
        build.add(
            LATHE,
            m.GLAZE,
            (x, 0.0, z),
            (low, top, 1.0),
            curve=curve,
            body=body,
            reach=float(np.hypot(top, 0.45)),
            shades=False,
            crowds=False,
        )
    for y, radius, half in ((0.42, 0.38, 0.46), (0.20, 0.27, 0.30)):
        build.add(ELLIPSOID, m.GLAZE, (x, y, z), (radius, half, radius), body=body, seen=False)
    build.rod((x, 0.75, z), (x, 1.10, z), 0.115, m.GLAZE, body=body, seen=False)


def _twig(
    build: _Builder,
    root: np.ndarray,
    tip: np.ndarray,
    bend: np.ndarray,
    leaves: int,
    rng: np.random.Generator,
    size: float,
    berry: bool,
) -> None:
    """A bent twig of five straight pieces; leaves to both sides of it, or a yellow flower ball at its tip."""
    s = np.linspace(0.0, 1.0, 6)[:, None]
    path = (1 - s) ** 2 * root + 2 * s * (1 - s) * (0.5 * (root + tip) + bend) + s**2 * tip
    body = build.body()
    for i in range(5):
        build.rod(
            path[i],
            path[i + 1],
            0.016 - 0.0018 * i,
            m.STEM,
            body=body,
            tint=m.linear("7c8a4c" if berry else "6e5236"),
            crowds=False,
        )
    if berry:
        build.add(ELLIPSOID, m.CITRUS, tip, (0.085, 0.085, 0.085), tint=m.linear("e2ac22"))
    for i in range(leaves):
        along = 0.30 + 0.70 * i / max(leaves - 1, 1)
        at = np.array([np.interp(along, s[:, 0], path[:, k]) for k in range(3)])
        forward = path[-1] - path[-2] if along > 0.8 else path[3] - path[2]
        forward = forward / np.linalg.norm(forward)
        side = np.cross(forward, (0.0, 0.0, 1.0)) * (1 if i % 2 else -1)
        side /= np.linalg.norm(side)
        spread = 0.15 if i == leaves - 1 else 0.9
        axis = forward + spread * side + rng.normal(0, 0.16, 3) + np.array([0, 0, 0.15])
        axis /= np.linalg.norm(axis)
        up = np.array([0.25, 0.5, 0.85]) + rng.normal(0, 0.35, 3)
        up -= axis * (up @ axis)
        up /= np.linalg.norm(up)
        length = size * (1.15 - 0.45 * along) * rng.uniform(0.9, 1.1)
        build.add(
            ELLIPSOID,
            m.LEAF,
            at + axis * length,
            (length, 0.007, 0.40 * length),
            rotation=np.stack([axis, up, np.cross(axis, up)], axis=1),
            crowds=False,
        )


def _bouquet(build: _Builder, x: float, z: float) -> None:
    rng = np.random.default_rng(12)
    mouth = np.array([x, 1.10, z])
    twigs = (
        # tip relative to the mouth, bend, leaves, leaf length, berry
        ((-0.62, 0.78, 0.10), (-0.02, 0.12, 0.05), 9, 0.150, False),
        ((-0.20, 1.12, -0.12), (-0.08, 0.05, 0.00), 10, 0.150, False),
        ((0.36, 1.00, 0.02), (0.00, 0.10, 0.06), 9, 0.145, False),
        ((0.80, 0.52, 0.16), (0.02, 0.16, 0.02), 9, 0.140, False),
        ((-0.36, 0.40, 0.34), (-0.02, 0.10, 0.04), 6, 0.120, False),
        ((0.08, 0.72, 0.22), (0.03, 0.02, 0.06), 0, 0.0, True),
        ((-0.40, 1.02, 0.14), (0.05, 0.02, 0.05), 0, 0.0, True),
        ((0.56, 0.82, 0.24), (-0.06, 0.08, 0.05), 0, 0.0, True),
    )
    for tip, bend, leaves, size, berry in twigs:
        foot = mouth + np.array([0.06, 0.0, 0.04]) * rng.uniform(-1, 1, 3)
        _twig(build, foot, mouth + 0.93 * np.array(tip), np.array(bend), leaves, rng, size, berry)


def _books(build: _Builder, x: float, z: float) -> float:
    """Stack of four; returns the height of its top."""
    top = 0.0
    for (hx, hy, hz), turn, dx, color in (
        ((0.66, 0.095, 0.46), -4.0, 0.00, "2f5d62"),
        ((0.60, 0.070, 0.43), 7.0, 0.03, "b8452f"),
        ((0.54, 0.085, 0.40), -9.0, -0.04, "d9a441"),
        ((0.45, 0.055, 0.34), 14.0, 0.00, "34466b"),
    ):
        build.add(BOX, m.BOOK, (x + dx, top + hy, z), (hx, hy, hz), rotation=_turned(turn), tint=m.linear(color))
        top += 2 * hy
    return top


def _wire_solid(build: _Builder, center: np.ndarray, radius: float, rod: float) -> None:
    """The thirty edges of an icosahedron in brass, resting on one face, with a little ball at each corner."""
    golden = (1 + 5**0.5) / 2
    corners = np.array([(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)])
    corners = np.concatenate([np.roll(corners, shift, axis=1) for shift in range(3)]) / np.hypot(1, golden)
    # Turn a face downwards: the mean of three mutually adjacent corners goes to -y.
    first = corners[0]
    near = [c for c in corners if 0.1 < np.linalg.norm(c - first) < 1.1]
    second = near[0]
    third = next(c for c in near[1:] if np.linalg.norm(c - second) < 1.1)
    down = -(first + second + third)
    down /= np.linalg.norm(down)
    corners = corners @ _frame_with_y(down) @ _turned(18.0).T * radius + center
    body = build.body()
    for i, a in enumerate(corners):
        for b in corners[i + 1 :]:
            if np.linalg.norm(a - b) < 1.1 * radius:
                build.rod(a, b, rod, m.BRASS, body=body, crowds=False)
        build.add(ELLIPSOID, m.BRASS, a, (1.7 * rod,) * 3, body=body, crowds=False)


def _framed_picture(build: _Builder, x: float, y: float, half_width: float, half_height: float) -> None:
    bar, depth = 0.055, 0.05
    build.add(BOX, m.PICTURE, (x, y, _WALL_Z + 0.03), (half_width, half_height, 0.03), crowds=False)
    for sign in (-1.0, 1.0):
        build.add(BOX, m.FRAME, (x, y + sign * half_height, _WALL_Z + depth), (half_width + bar, bar, depth))
        build.add(
            BOX,
            m.FRAME,
            (x + sign * half_width, y, _WALL_Z + depth),
            (half_height - bar, bar, depth),
            rotation=np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        )


def still_life() -> Shapes:
    """The shapes of the scene (about 150)."""
    build = _Builder()
    build.add(BOX, m.TABLE, (0.0, -0.5, 1.0), (9.0, 0.5, 6.0), shades=False)
    build.add(BOX, m.WALL, (0.0, 2.0, _WALL_Z - 0.5), (9.0, 6.0, 0.5), shades=False)
    build.add(BOX, m.CLOTH, (0.10, 0.006, 0.42), (1.62, 0.006, 0.50), rotation=_turned(5.0), crowds=False)
    _vase(build, -0.78, -0.32)
    _bouquet(build, -0.78, -0.32)
    top = _books(build, 0.98, -0.40)
    _framed_picture(build, 0.82, 1.72, 0.66, 0.50)
    build.add(ELLIPSOID, m.CITRUS, (0.92, top + 0.16, -0.36), (0.17, 0.16, 0.17), tint=m.linear("e07f1e"))
    build.add(ELLIPSOID, m.CITRUS, (-1.42, 0.185, 0.10), (0.195, 0.185, 0.195), tint=m.linear("e5821c"))
    build.add(
        ELLIPSOID, m.CITRUS, (-1.12, 0.145, 0.46), (0.20, 0.145, 0.15), rotation=_turned(35.0), tint=m.linear("ecc02e")
    )
    tilt = np.array([[0.80, -0.60, 0.0], [0.60, 0.80, 0.0], [0.0, 0.0, 1.0]])
    build.add(ELLIPSOID, m.STRIPES, (-0.22, 0.262, 0.42), (0.25, 0.25, 0.25), rotation=_turned(-25.0) @ tilt)
    _wire_solid(build, np.array([0.52, 0.012 + 0.33, 0.62]), 0.40, 0.014)
    return build.table()


def cameras(views: int = VIEWS) -> np.ndarray:
    """(views, 4, 4) float32 camera_from_world: a hand-held camera that sweeps over a plane in front of the scene.

    The views form three rows that are walked column by column, up and down in turn, with some jitter, so that the
    test views (every eighth) and three training views of the usual split spread over the whole plane.
    """
    rng = np.random.default_rng(7)
    columns = -(-views // 3)
    matrices = []
    for i in range(views):
        column, row = divmod(i, 3)
        row = row if column % 2 == 0 else 2 - row
        x = (column / max(columns - 1, 1) - 0.5) * 0.90
        y = (row - 1) * 0.20
        position = np.array([x, 1.42 + y, 3.55]) + rng.uniform(-1, 1, 3) * (0.035, 0.05, 0.06)
        target = np.array([0.0, 0.86, -0.1]) + rng.uniform(-1, 1, 3) * (0.06, 0.04, 0.0)
        up = (rng.uniform(-0.012, 0.012), 1.0, 0.0)
        matrices.append(look_at(position, target, up))
    return np.stack(matrices)


class Intrinsics(NamedTuple):
    """Pinhole of the built-in scene: one focal length, the principal point in the middle, all in pixels."""

    focal: float
    cx: float
    cy: float


def intrinsics(width: int, height: int) -> Intrinsics:
    """The same field of view (about 56 degrees across at 4:3) at any size."""
    return Intrinsics(0.93 * width, width / 2, height / 2)
