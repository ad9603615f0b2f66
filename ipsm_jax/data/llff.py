"""LLFF captures: `poses_bounds.npy` beside `images` and `images_8` (METHOD section 1).

The file holds (N, 17) numbers, one row per photo in sorted order: a (3, 5) matrix, row by row, whose columns are the
camera's down, right and backwards axes in world coordinates, its position, and (height, width, focal length) in
full-size pixels; then the nearest and the farthest depth in world units. The principal point is the middle of the
picture and lens distortion is ignored, as in the published protocol.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from ipsm_jax.data.capture import Capture, PosedPhoto, checked_intrinsics, checked_pose, rigid_inverse
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.images import image_names, levels
from ipsm_jax.data.lenses import PINHOLE
from ipsm_jax.data.npy import read_npy

FILE = "poses_bounds.npy"


def read_poses_bounds(path: Path) -> Float[np.ndarray, "v 17"]:
    """(V, 17) float64 content of a `poses_bounds.npy`.

    Raises:
      DataError: if it is no such array, truncated, or holds NaN or infinity.
    """
    table = read_npy(path)
    if table.ndim != 2 or table.shape[-1] != 17 or len(table) == 0:
        raise DataError(
            f"{path}: expected an (N, 17) array of numbers, one row per photo, found {table.shape} {table.dtype}"
        )
    numbers = table.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(bad):
        raise DataError(
            f"{path}: row {bad[0]} holds NaN or infinity ({len(bad)} rows do); the poses must be recomputed"
        )
    return numbers


def read_bounds(path: Path) -> Float[np.ndarray, "v 2"]:
    """(V, 2) nearest and farthest depth, 0 < near < far.

    Raises:
      DataError: as `read_poses_bounds`, and for bounds out of order.
    """
    bounds = read_poses_bounds(path)[:, 15:17]
    bad = np.flatnonzero(~((bounds[:, 0] > 0) & (bounds[:, 1] > bounds[:, 0])))
    if len(bad):
        raise DataError(f"{path}: row {bad[0]} has depth bounds {bounds[bad[0]].tolist()}; 0 < near < far is needed")
    return bounds


def camera_from_world(matrix: Float[np.ndarray, "3 4"], where: str) -> Float[np.ndarray, "4 4"]:
    """OpenCV camera_from_world of a world-from-camera matrix with columns down, right, backwards, position."""
    down, right, back, position = np.asarray(matrix, np.float64).T
    return rigid_inverse(checked_pose(np.stack([right, down, -back, position], axis=1), where))


def read_llff(root: Path) -> Capture:
    """The capture in a folder with `poses_bounds.npy`.

    Raises:
      DataError: for a broken file, no photos, or as many photos as rows are needed and there are not.
    """
    path = root / FILE
    table = read_poses_bounds(path)
    bounds = read_bounds(path)
    folder = root / "images"
    names = _names(root, folder, len(table), path)
    photos = []
    for row, (name, numbers) in enumerate(zip(names, table, strict=True)):
        where = f"{path}, row {row} ({name})"
        matrix = numbers[:15].reshape(3, 5)
        height, width, focal = matrix[:, 4]
        intrinsics = (focal, focal, width / 2, height / 2)
        checked_intrinsics(intrinsics, width, height, PINHOLE, where)
        photos.append(PosedPhoto(folder, name, camera_from_world(matrix[:, :4], where), width, height, intrinsics))
    return Capture(root, "llff", tuple(photos), bounds=bounds, ignore_distortion=True)


def _names(root: Path, folder: Path, count: int, path: Path) -> tuple[str, ...]:
    """Names of the photos, from the largest set that has one photo per row."""
    sets = {level.name: image_names(level) for level in levels(folder).values()}
    if not any(sets.values()):
        raise DataError(f"{root}: no photos found; expected {folder.name}/ or {folder.name}_8/ beside {path.name}")
    for names in sets.values():
        if len(names) == count:
            return names
    counts = ", ".join(f"{name}/ has {len(names)}" for name, names in sets.items())
    raise DataError(
        f"{path} has {count} rows, one per photo, but {counts}. Restore the missing photos or remove the extra ones: "
        "rows and photos correspond by sorted order, so a wrong count would give wrong poses"
    )
