"""What some captures have beside their photos: exact depth maps and object masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ipsm_jax.data.capture import Capture
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.images import image_names, match_names
from ipsm_jax.data.npy import read_npy
from ipsm_jax.data.pictures import read_mask
from ipsm_jax.scene.camera import Camera

MASK_FOLDERS = ("mask", "masks", "idrmasks")


def read_depths(capture: Capture, names: tuple[str, ...], cameras: Camera) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(V, H, W) float32 depth maps from `depths/<stem>.npy`, or None, and notes.

    They hold exact camera-space z, 0 where it is unknown, and are used only at exactly the size of the photos: depth
    must not be averaged across edges.

    Raises:
      DataError: for a damaged file, or one with NaN or negative depth.
    """
    shape = (cameras.height, cameras.width)
    folder = capture.path / "depths"
    if not folder.is_dir():
        return None, ()
    if not capture.ignore_distortion and any(not photo.lens.ideal for photo in capture.photos):
        return None, ("depths/ is not used: the photos were undistorted and the depth maps were not",)
    maps = []
    for name in names:
        path = folder / f"{Path(name).stem}.npy"
        if not path.is_file():
            return None, (f"depths/ is not used: it has no {path.name}",)
        depth = read_npy(path)
        if depth.shape != shape:
            size = "x".join(str(n) for n in reversed(depth.shape))
            return None, (f"depths/ is not used: its maps have {size} pixels, the photos {shape[1]}x{shape[0]}",)
        if depth.dtype.kind != "f" or not np.isfinite(depth).all() or depth.min() < 0:
            raise DataError(f"{path}: depth maps hold finite floats >= 0 (0 = unknown), this one does not")
        maps.append(depth.astype(np.float32))
    return np.stack(maps), ()


def _mask_folder(capture: Capture) -> Path | None:
    """The folder of object masks: inside the scene, or the collection's `idrmasks/<scene>` beside it."""
    root = capture.path.resolve()
    beside = [root.parent / "idrmasks" / root.name, root.parent / "submission_data" / "idrmasks" / root.name]
    for folder in [*(root / name for name in MASK_FOLDERS), *(b / "mask" for b in beside), *beside]:
        if image_names(folder):
            return folder
    return None


def read_masks(
    capture: Capture, names: tuple[str, ...], cameras: Camera, *, wanted: bool
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(V, H, W) object masks for evaluation (METHOD section 1, DTU), or None, and notes.

    Args:
      capture: the photos.
      names: names of the views.
      cameras: for the size.
      wanted: whether the protocol evaluates on masks; other scenes' mask folders are left alone.

    Raises:
      DataError: for broken masks, or masks for some photos only.
    """
    if not wanted:
        return None, ()
    found = mask_files(capture, names)
    if found is None:
        looked = ", ".join(f"{name}/" for name in MASK_FOLDERS)
        return None, (f"no object masks ({looked}) were found: figures are over whole images, not over the object",)
    size = (cameras.width, cameras.height)
    return np.stack([read_mask(file, size) for file in found]), (f"object masks come from {found[0].parent}",)


def mask_files(capture: Capture, names: tuple[str, ...]) -> list[Path] | None:
    """File of the object mask of each photo, by the names of the views; None if there is no folder of masks.

    Raises:
      DataError: for masks of some photos only.
    """
    folder = _mask_folder(capture)
    if folder is None:
        return None
    files = match_names(names, folder, order=names)
    lost = [name for name, file in zip(names, files, strict=True) if file is None]
    if lost:
        raise DataError(
            f"{folder}: no mask for {lost[0]} ({len(lost)} of {len(names)} have none); masks carry the names of the "
            "photos, or are as many as the photos and in the same order"
        )
    return [file for file in files if file is not None]
