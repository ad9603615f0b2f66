"""Depth maps that were computed beforehand: one .npy or .png file per photo, under the photo's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float
from PIL import Image

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.npy import read_npy
from ipsm_jax.data.pictures import fits, read_levels

SUFFIXES = (".npy", ".png")

_NAMED = 5  # names listed in a message


def read_depth_maps(folder: Path, names: Sequence[str], width: int, height: int) -> Float[np.ndarray, "v h w"]:
    """The maps of the named photos, as large as the photos are in training; 0 = unknown.

    Values are taken as they are: depth or inverse depth, in any unit. A map of another size is resized, smoothly
    where it is complete; a map with unknown pixels by nearest neighbor, so that they do not mix with known ones.

    Args:
      folder: holds photo.npy, an array of numbers (H, W), or photo.png, 8 or 16 bits of gray, for photo.jpg. 0 and
        what is not finite is unknown.
      names: file names of the photos, with their sub-folder if they have one.
      width, height: of the result, in pixels.

    Raises:
      DataError: if maps are missing (by name), doubled, damaged, not a map, of another aspect ratio, or empty.
    """
    folder = Path(folder)
    return np.stack([_read(file, width, height) for file in _find(folder, names)])


def _find(folder: Path, names: Sequence[str]) -> list[Path]:
    """The file of each photo."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; it should hold a depth map (.npy or .png) per photo")
    if not names:
        raise DataError(f"{folder}: no photos were named to look for depth maps of")
    found: list[Path] = []
    missing: list[str] = []
    for name in names:
        stem = folder / PurePosixPath(name)
        files = [file for suffix in SUFFIXES if (file := stem.with_suffix(suffix)).is_file()]
        if len(files) > 1:
            raise DataError(f"{folder}: both {' and '.join(f.name for f in files)} are there; remove one of them")
        found += files
        if not files:
            missing.append(stem.relative_to(folder).with_suffix("").as_posix())
    if missing:
        present = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        raise DataError(
            f"{folder} has no depth map for {len(missing)} of {len(names)} photos; missing: {_some(missing)} (each as "
            f".npy or .png). Maps that are there: {_some(present) or 'none'}. They are found by the photos' names"
        )
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _read(path: Path, width: int, height: int) -> Float[np.ndarray, "h w"]:
    """One map at (width, height)."""
    values = read_levels(path) if path.suffix == ".png" else read_npy(path)
    shape = values.shape
    if values.ndim == 3 and 1 in (shape[0], shape[2]):  # networks' outputs are often saved with an axis of length 1
        values = values[0] if shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.dtype.kind == "b" or 0 in shape:
        raise DataError(f"{path}: a depth map is an array of numbers (height, width), found {shape} of {values.dtype}")
    if not fits((values.shape[1], values.shape[0]), (width, height)):
        raise DataError(
            f"{path}: the depth map has {values.shape[1]}x{values.shape[0]} pixels, the photo {width}x{height}: the "
            "aspect ratios differ. Compute it from the whole photo"
        )
    with np.errstate(over="ignore"):  # beyond float32's range is as good as infinite
        values = values.astype(np.float32)
    values = np.where(np.isfinite(values), values, np.float32(0))
    if not values.any():
        raise DataError(f"{path}: all pixels of this depth map are unknown (0 or not finite); replace or leave it out")
    if values.shape != (height, width):
        # bilinear in Pillow covers the whole area of a pixel when it makes a picture smaller
        way = Image.Resampling.BILINEAR if values.all() else Image.Resampling.NEAREST
        values = np.asarray(Image.fromarray(values).resize((width, height), way), np.float32)
    return values
