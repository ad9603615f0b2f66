"""Gaussians and colored points as PLY files, in the layout that Gaussian-splatting viewers open.

Per Gaussian 62 floats: x y z, nx ny nz (0), f_dc_0..2, f_rest_0..44 (all red, then all green, then all blue), opacity
(logit), scale_0..2 (logarithms), rot_0..3 (quaternion wxyz): exactly the unconstrained fields of `Gaussians`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.ply_format import header_text, read_header, read_vertices
from ipsm_jax.data.scene import PointCloud
from ipsm_jax.reporting.files import atomic_write
from ipsm_jax.scene.gaussians import SH_C0, Gaussians

_XYZ = ("x", "y", "z")
_RGB = ("red", "green", "blue")
_NORMAL = ("nx", "ny", "nz")
_DC = tuple(f"f_dc_{i}" for i in range(3))
_REST = tuple(f"f_rest_{i}" for i in range(45))
_SHAPE = ("opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4)))
_REST_COUNTS = (0, 9, 24, 45)  # spherical harmonics of degree 0, 1, 2, 3 without the constant


def write_gaussians_ply(path: str | os.PathLike, gaussians: Gaussians, alive: Any) -> int:
    """Write the Gaussians that are alive, in slot order; the file appears whole or not at all.

    Those with NaN or infinity in a field, which nothing draws, are left out: readers refuse the whole file for one.

    Args:
      path: file to write.
      gaussians: N Gaussians.
      alive: (N,) bool.

    Returns:
      How many were left out.

    Raises:
      ValueError: if `alive` does not have one entry per Gaussian.
    """
    alive = np.asarray(alive, bool)
    if alive.shape != (gaussians.capacity,):
        raise ValueError(f"alive has shape {alive.shape}, needs ({gaussians.capacity},)")
    fields = [np.asarray(field, np.float32)[alive] for field in gaussians]
    whole = np.all([np.isfinite(field).all(axis=tuple(range(1, field.ndim))) for field in fields], axis=0)
    means, log_scales, quaternions, opacity, dc, rest = (field[whole] for field in fields)
    count = len(means)
    columns = [means, np.zeros_like(means), dc, rest.transpose(0, 2, 1).reshape(count, 45), opacity[:, None]]
    table = np.concatenate([*columns, log_scales, quaternions], axis=1).astype("<f4")
    with atomic_write(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write(header_text(count, (*_XYZ, *_NORMAL, *_DC, *_REST, *_SHAPE)))
        file.write(np.ascontiguousarray(table).tobytes())
    return int((~whole).sum())


def read_gaussians_ply(path: str | os.PathLike) -> Gaussians:
    """Gaussians of a PLY file, all of them alive, as many slots as vertices.

    Properties may come in any order and type, ASCII or binary; spherical harmonics of lower degree are padded with 0.

    Raises:
      DataError: for files that are missing, cut short, malformed, empty, without the needed properties, or with NaN.
    """
    path = Path(path)
    names = read_header(path).names
    rest_count = sum(name.startswith("f_rest_") for name in names)
    if rest_count not in _REST_COUNTS:
        raise DataError(f"{path}: {rest_count} properties f_rest_*, but 0, 9, 24 or 45 make a full degree")
    rest_names = _REST[:rest_count]
    table = read_vertices(path, (*_XYZ, *_DC, *rest_names, *_SHAPE))
    count = len(table["x"])
    if count == 0:
        raise DataError(f"{path}: holds no Gaussians")
    with np.errstate(over="ignore"):  # what overflows float32 becomes infinite and is reported below
        columns = {name: np.asarray(values, np.float32) for name, values in table.items()}
    for name, values in columns.items():
        if not np.isfinite(values).all():
            raise DataError(
                f"{path}: {int((~np.isfinite(values)).sum())} of {count} values of {name} are NaN or infinite"
            )

    def stack(keys: tuple[str, ...]) -> np.ndarray:
        return np.stack([columns[key] for key in keys], axis=1)

    rest = np.zeros((count, 15, 3), np.float32)
    if rest_count:
        rest[:, : rest_count // 3] = stack(rest_names).reshape(count, 3, rest_count // 3).transpose(0, 2, 1)
    quaternions = stack(_SHAPE[4:])
    zero = ~(np.abs(quaternions).max(axis=1) > 0)
    if zero.any():
        raise DataError(f"{path}: {int(zero.sum())} of {count} rotations are the zero quaternion, which is no rotation")
    fields = (stack(_XYZ), stack(_SHAPE[1:4]), quaternions, columns["opacity"], stack(_DC), rest)
    return Gaussians(*(jnp.asarray(field) for field in fields))


def write_points_ply(path: str | os.PathLike, points: PointCloud) -> None:
    """Write colored points, colors as bytes, as programs for point clouds read them; whole or not at all."""
    table = np.zeros(len(points.positions), [(name, "<f4") for name in _XYZ] + [(name, "u1") for name in _RGB])
    for axis, name in enumerate(_XYZ):
        table[name] = points.positions[:, axis]
    for channel, name in enumerate(_RGB):
        table[name] = np.round(255 * np.clip(points.colors[:, channel], 0, 1))
    with atomic_write(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write(header_text(len(table), _XYZ, _RGB))
        file.write(table.tobytes())


def ply_kind(path: str | os.PathLike) -> str:
    """What a PLY file holds: "gaussians" if its vertices carry opacity, scales and rotations, else "points".

    Raises:
      DataError: if the file is missing or no PLY.
    """
    names = read_header(Path(path)).names
    return "gaussians" if set(_SHAPE) <= set(names) else "points"


def read_points_ply(path: str | os.PathLike) -> PointCloud:
    """Colored points of a PLY file of points or of Gaussians (then their constant colors, clipped to [0, 1]).

    Colors are red, green, blue (bytes 0..255, or floats 0..1) or f_dc_0..2; without any, points are mid-gray.

    Raises:
      DataError: for files that are missing, cut short, malformed, empty, or with positions or colors not finite.
    """
    path = Path(path)
    header = read_header(path)
    rgb = next((keys for keys in (_RGB, ("r", "g", "b"), _DC) if set(keys) <= set(header.names)), ())
    table = read_vertices(path, (*_XYZ, *rgb))
    count = len(table["x"])
    if count == 0:
        raise DataError(f"{path}: holds no points")
    with np.errstate(over="ignore"):
        positions = np.stack([np.asarray(table[key], np.float32) for key in _XYZ], axis=1)
    bad = int((~np.isfinite(positions)).any(axis=1).sum())
    if bad:
        raise DataError(f"{path}: {bad} of {count} points have NaN or infinite coordinates")
    if not rgb:
        return PointCloud(positions, np.full_like(positions, 0.5))
    colors = np.stack([np.asarray(table[key], np.float64) for key in rgb], axis=1)
    if not np.isfinite(colors).all():
        raise DataError(f"{path}: colors hold NaN or infinity")
    if rgb == _DC:
        colors = 0.5 + SH_C0 * colors
    else:
        kind = dict(header.properties)[rgb[0]]
        colors = colors / {"u1": 255.0, "u2": 65535.0}.get(kind, 1.0)
        if kind not in ("u1", "u2") and colors.max() > 1:
            colors = colors / 255.0
    return PointCloud(positions, np.clip(colors, 0, 1).astype(np.float32))
