"""A sparse model as COLMAP's text files; `colmap_text.py` and every tool of the field read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation


class SparsePoints(NamedTuple):
    """P points, and T observations of them in V images, in pixels of these images as they are, distortion included.

    Attributes:
      positions: (P, 3) in world units.
      colors: (P, 3) uint8.
      errors: (P,) mean reprojection errors in pixels, of smaller copies where these were what was measured in.
      views: (T,) index of the image, 0 to V - 1.
      points: (T,) index of the point.
      pixels: (T, 2) float64 where, the corner of the image at (0, 0).
    """

    positions: np.ndarray
    colors: np.ndarray
    errors: np.ndarray
    views: np.ndarray
    points: np.ndarray
    pixels: np.ndarray


NO_POINTS = SparsePoints(
    np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2))
)


def write_colmap_text(
    folder: Path,
    names: Sequence[str],
    camera_from_world: Float[np.ndarray, "v 4 4"],
    intrinsics: Float[np.ndarray, "v 4"],
    size: tuple[int, int],
    points: SparsePoints = NO_POINTS,
) -> None:
    """Write cameras.txt, images.txt and points3D.txt into a folder, which is made.

    Args:
      folder: for instance ``scene/sparse/0``.
      names: V image names, without spaces.
      camera_from_world: OpenCV axes.
      intrinsics: fx, fy, cx, cy in pixels; views with equal ones share a camera.
      size: (width, height) of all images.
      points: seen by them; there may be none.

    Raises:
      ValueError: for a name that is empty or has a space in it.
    """
    if any(name.split() != [name] for name in names):
        raise ValueError("names with spaces cannot be told from what follows them in COLMAP's text files")
    folder.mkdir(parents=True, exist_ok=True)
    keys = [tuple(float(number) for number in row) for row in intrinsics]
    cameras = {key: i + 1 for i, key in enumerate(dict.fromkeys(keys))}
    lines = ["# camera id, model, width, height, fx, fy, cx, cy"]
    lines += [f"{i} PINHOLE {size[0]} {size[1]} {_numbers(key)}" for key, i in cameras.items()]
    (folder / "cameras.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    order = np.lexsort((points.points, points.views))
    views, seen, pixels = points.views[order], points.points[order], points.pixels[order]
    starts = np.searchsorted(views, np.arange(len(names) + 1))
    places = np.arange(len(views)) - starts[views] if len(views) else views  # position within the image's list
    lines = ["# image id, qw, qx, qy, qz, tx, ty, tz, camera id, name; then x, y, point id of its observations"]
    for i, (name, matrix, key) in enumerate(zip(names, camera_from_world, keys, strict=True)):
        x, y, z, w = Rotation.from_matrix(matrix[:3, :3]).as_quat()
        lines.append(f"{i + 1} {_numbers((w, x, y, z, *matrix[:3, 3]))} {cameras[key]} {name}")
        mine = slice(starts[i], starts[i + 1])
        lines.append(" ".join(f"{x:.2f} {y:.2f} {k + 1}" for (x, y), k in zip(pixels[mine], seen[mine], strict=True)))
    (folder / "images.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    tracks: list[list[str]] = [[] for _ in points.positions]
    for view, point, place in zip(views, seen, places, strict=True):
        tracks[point].append(f"{view + 1} {place}")
    lines = ["# point id, x, y, z, red, green, blue, error, then image id and number of the observation in it"]
    for i, (position, color, error) in enumerate(zip(points.positions, points.colors, points.errors, strict=True)):
        lines.append(f"{i + 1} {_numbers(position)} {' '.join(map(str, color))} {error:.4f} {' '.join(tracks[i])}")
    (folder / "points3D.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    """As text that reads back as the same float64 numbers."""
    return " ".join(repr(float(value)) for value in values)
