"""What a layout's reader hands to `load.py`: posed photos as their source describes them, no pixels yet."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath

import numpy as np

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.lenses import PINHOLE, Lens


@dataclasses.dataclass(frozen=True)
class PosedPhoto:
    """One photo and its camera.

    Attributes:
      folder: the folder of full-size images that `name` is relative to; `<folder>_8` would hold them at 1/8.
      name: file name as the source gives it, "/" between folders.
      camera_from_world: (4, 4) float64, OpenCV axes.
      width, height: size in pixels that `intrinsics` refers to.
      intrinsics: (fx, fy, cx, cy) in those pixels, corner of the image at (0, 0).
      lens: distortion.
    """

    folder: Path
    name: str
    camera_from_world: np.ndarray
    width: float
    height: float
    intrinsics: tuple[float, float, float, float]
    lens: Lens = PINHOLE


@dataclasses.dataclass(frozen=True)
class Capture:
    """All photos of one scene folder, sorted by name.

    Attributes:
      path: the scene folder.
      layout: "llff", "colmap" or "transforms".
      photos: the photos, those that do not exist on disk already left out.
      bounds: (V, 2) nearest and farthest depth, or None.
      listed: indices of the photos in "train" and "test" where the source itself lists a split, else None.
      ignore_distortion: True where the published protocol ignores the lenses (METHOD section 1).
      notes: sentences for the person.
    """

    path: Path
    layout: str
    photos: tuple[PosedPhoto, ...]
    bounds: np.ndarray | None = None
    listed: dict[str, tuple[int, ...]] | None = None
    ignore_distortion: bool = False
    notes: tuple[str, ...] = ()


def rigid_inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of one (4, 4) rigid transform in float64."""
    inverse = np.eye(4)
    inverse[:3, :3] = matrix[:3, :3].T
    inverse[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return inverse


_LARGEST = 1e12  # of any coordinate or coefficient: far beyond any capture, far below what float32 holds


def checked_name(name: str, where: str) -> str:
    """The name of a file itself, if it can be one and stays inside the folder it is relative to.

    Raises:
      DataError: for absolute names, "..", unprintable characters or parts that no file system takes.
    """
    parts = PurePosixPath(name).parts
    if (
        not parts
        or ".." in parts
        or parts[0] == "/"
        or not name.isprintable()
        or max(len(part.encode()) for part in parts) > 200
        or len(parts) > 20
    ):
        raise DataError(
            f"{where}: {name[:80]!r} cannot be the name of a file inside the scene folder; names are relative, without "
            "'..', printable, and not longer than file systems take"
        )
    return name


def checked_pose(matrix: np.ndarray, where: str) -> np.ndarray:
    """The (4, 4) rigid transform itself, its rotation made exactly orthonormal.

    Args:
      matrix: (3, 4) or (4, 4), rotation and translation.
      where: file and image, for the message.

    Raises:
      DataError: for numbers that are not finite or a 3x3 part that is no rotation (scaled, mirrored or skewed).
    """
    matrix = np.asarray(matrix, np.float64)
    if not np.isfinite(matrix).all():
        raise DataError(f"{where}: the pose holds NaN or infinity: {matrix[:3].tolist()}")
    if np.abs(matrix).max() > _LARGEST:
        raise DataError(f"{where}: the pose holds impossibly large numbers: {matrix[:3].tolist()}")
    rotation = matrix[:3, :3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if error > 1e-2 or np.linalg.det(rotation) < 0:
        raise DataError(
            f"{where}: the 3x3 part of the pose is no rotation (R R^T is off by {error:.3g}, determinant "
            f"{np.linalg.det(rotation):.3g}); poses must be rigid: a rotation and a translation"
        )
    u, _, vt = np.linalg.svd(rotation)
    rigid = np.eye(4)
    rigid[:3, :3] = u @ vt
    rigid[:3, 3] = matrix[:3, 3]
    return rigid


def checked_intrinsics(
    intrinsics: tuple[float, float, float, float], width: float, height: float, lens: Lens, where: str
) -> None:
    """Refuse a camera that cannot be one.

    Raises:
      DataError: for a size, focal length, principal point or coefficient that is not finite or out of range.
    """
    numbers = (*intrinsics, width, height, *lens.radial, *lens.tangential)
    if not (np.abs(numbers) < _LARGEST).all():
        raise DataError(f"{where}: the camera holds NaN, infinity or impossibly large numbers: {numbers}")
    if not (1 <= width <= 1e6 and 1 <= height <= 1e6):
        raise DataError(f"{where}: image size {width:g}x{height:g} is not possible")
    fx, fy, cx, cy = intrinsics
    if not (min(fx, fy) > 1e-3 * max(width, height) and max(fx, fy) < 1e4 * max(width, height)):
        raise DataError(f"{where}: focal lengths {fx:g}, {fy:g} pixels are not possible at {width:g}x{height:g}")
    if not (-width <= cx <= 2 * width and -height <= cy <= 2 * height):
        raise DataError(f"{where}: principal point ({cx:g}, {cy:g}) is far outside the {width:g}x{height:g} image")
