"""Lens distortion: where a viewing ray lands on the picture.

A ray is (x/z, y/z) in OpenCV camera axes. `distort` maps it to distorted coordinates (xd, yd), and the pixel is
(fx xd + cx, fy yd + cy). Two families cover the models in use:

- perspective: radial (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6), tangential p1, p2 (OpenCV's);
- fisheye: theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8) / r, theta = atan r (OpenCV's fisheye).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Lens(NamedTuple):
    """Distortion coefficients; all zero and not fisheye means an ideal pinhole."""

    radial: tuple[float, ...] = (0.0,) * 6  # k1..k6; a fisheye uses k1..k4
    tangential: tuple[float, float] = (0.0, 0.0)  # p1, p2
    fisheye: bool = False

    @property
    def ideal(self) -> bool:
        """True if rays land where a pinhole camera puts them."""
        return not self.fisheye and not any(self.radial) and not any(self.tangential)


def make_lens(radial: tuple[float, ...] = (), tangential: tuple[float, ...] = (), *, fisheye: bool = False) -> Lens:
    """A lens from as many coefficients as are known; the others are 0."""
    k = tuple(float(v) for v in radial)
    p = tuple(float(v) for v in tangential)
    return Lens(k + (0.0,) * (6 - len(k)), (*p, 0.0, 0.0)[:2], fisheye)  # type: ignore[arg-type]


PINHOLE = Lens()


def distort(lens: Lens, rays: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Distorted coordinates of (N, 2) rays (x/z, y/z), float64, both in units of the focal length."""
    x, y = np.moveaxis(np.asarray(rays, np.float64), -1, 0)
    r2 = x * x + y * y
    if lens.fisheye:
        k1, k2, k3, k4 = lens.radial[:4]
        r = np.sqrt(r2)
        theta = np.arctan(r)
        t2 = theta * theta
        bent = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
        # At the center theta / r tends to 1; the guard only avoids 0 / 0.
        scale = np.where(r > 1e-9, bent / np.maximum(r, 1e-9), 1.0)
        return np.stack([x * scale, y * scale], axis=-1)
    k1, k2, k3, k4, k5, k6 = lens.radial
    p1, p2 = lens.tangential
    scale = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    xd = x * scale + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    yd = y * scale + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return np.stack([xd, yd], axis=-1)


def undistort(lens: Lens, bent: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """The (N, 2) rays that `distort` takes to these distorted coordinates, by fixed-point iteration.

    Exact to about 1e-9 where the lens bends little; for a fisheye's rim good enough to start from, not more.
    """
    bent = np.asarray(bent, np.float64)
    rays = bent.copy()
    for _ in range(50):
        rays = rays + (bent - distort(lens, rays))
    return rays


def largest_radius(lens: Lens, limit: float = 20.0) -> float:
    """Largest ray radius up to which distorted radius still grows with the true one, at most `limit`.

    Beyond it the polynomial folds back and would show parts of the picture twice.
    """
    if lens.ideal:
        return limit
    angles = np.linspace(0, np.arctan(limit), 4097)
    radii = np.tan(angles)
    straight = lens._replace(tangential=(0.0, 0.0))
    bent = distort(straight, np.stack([radii, np.zeros_like(radii)], axis=-1))[:, 0]
    falling = np.flatnonzero(~(np.diff(bent) > 0))
    return float(radii[falling[0]]) if len(falling) else limit


# COLMAP's camera models: how many of fx[, fy], cx, cy lead, then the names of the rest.
_MODELS: dict[str, tuple[int, tuple[str, ...], bool]] = {
    "SIMPLE_PINHOLE": (1, (), False),
    "PINHOLE": (2, (), False),
    "SIMPLE_RADIAL": (1, ("k1",), False),
    "RADIAL": (1, ("k1", "k2"), False),
    "OPENCV": (2, ("k1", "k2", "p1", "p2"), False),
    "FULL_OPENCV": (2, ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"), False),
    "OPENCV_FISHEYE": (2, ("k1", "k2", "k3", "k4"), True),
    "SIMPLE_RADIAL_FISHEYE": (1, ("k1",), True),
    "RADIAL_FISHEYE": (1, ("k1", "k2"), True),
}
SUPPORTED_MODELS = tuple(_MODELS)


def parameter_count(model: str) -> int:
    """Number of parameters that COLMAP stores for one of `SUPPORTED_MODELS`."""
    focals, names, _ = _MODELS[model]
    return focals + 2 + len(names)


def from_colmap(model: str, params: tuple[float, ...]) -> tuple[tuple[float, float, float, float], Lens]:
    """((fx, fy, cx, cy) in pixels, lens) of one of `SUPPORTED_MODELS` with its parameters in COLMAP's order."""
    focals, names, fisheye = _MODELS[model]
    fx, fy = params[0], params[focals - 1]
    cx, cy = params[focals : focals + 2]
    named = dict(zip(names, params[focals + 2 :], strict=True))
    radial = tuple(named.get(f"k{i}", 0.0) for i in range(1, 7))
    return (fx, fy, cx, cy), Lens(radial, (named.get("p1", 0.0), named.get("p2", 0.0)), fisheye)
