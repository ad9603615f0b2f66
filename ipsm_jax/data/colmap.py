"""COLMAP sparse models as captures: `sparse/0` with cameras, images and points3D (.bin or .txt) beside `images`.

COLMAP's poses are camera_from_world in OpenCV axes with wxyz quaternions, its pixels have the corner of the image at
(0, 0): the same conventions as here. File formats: `colmap_binary.py`, `colmap_text.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ipsm_jax.data import colmap_binary, colmap_text
from ipsm_jax.data.capture import Capture, PosedPhoto, checked_intrinsics, checked_pose
from ipsm_jax.data.colmap_model import ColmapModel, ModelImage, ModelPoints
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.images import existing, image_names, levels
from ipsm_jax.data.lenses import from_colmap
from ipsm_jax.data.llff import FILE as POSES_BOUNDS
from ipsm_jax.data.llff import read_bounds
from ipsm_jax.data.scene import PointCloud

MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse")
_PERCENTILES = (0.1, 99.9)  # of the depths of the points that a view sees; the outermost ones are mostly wrong matches


def model_folder(root: Path) -> tuple[Path | None, str | None]:
    """The folder of a complete COLMAP model, and a sentence about an incomplete one that was passed over.

    A model needs cameras and images; points are optional.
    """
    remark = None
    for name in MODEL_FOLDERS:
        folder = root / name
        for ending in ("bin", "txt"):
            have = [part for part in ("cameras", "images") if (folder / f"{part}.{ending}").is_file()]
            if len(have) == 2:
                return folder, None
            if len(have) == 1 and remark is None:
                lacking = "images" if have == ["cameras"] else "cameras"
                remark = f"the COLMAP model in {name} has no {lacking}.{ending}, so its poses are not used"
    return None, remark


def read_model(folder: Path) -> ColmapModel:
    """Cameras and images of a sparse model, binary if they are there, else text.

    Raises:
      DataError: for missing, truncated or malformed files, wrong counts, NaN, and camera models that are not supported.
    """
    reader = colmap_binary if (folder / "images.bin").is_file() and (folder / "cameras.bin").is_file() else colmap_text
    ending = "bin" if reader is colmap_binary else "txt"
    cameras = reader.read_cameras(folder / f"cameras.{ending}")
    images = reader.read_images(folder / f"images.{ending}")
    model = ColmapModel(cameras, images)
    if not images:
        raise DataError(f"{folder}: the COLMAP model has no registered image")
    for image in images:
        if image.camera_id not in cameras:
            raise DataError(
                f"{folder}/images.{ending}: image {image.name} has camera {image.camera_id}, "
                f"which cameras.{ending} does not have (it has {sorted(cameras)[:10]})"
            )
    return model


def read_points(folder: Path) -> ModelPoints | None:
    """Points of a model, None if it has no points3D file."""
    if (folder / "points3D.bin").is_file():
        return colmap_binary.read_points(folder / "points3D.bin")
    if (folder / "points3D.txt").is_file():
        return colmap_text.read_points(folder / "points3D.txt")
    return None


def sparse_points(root: Path) -> PointCloud | None:
    """Points of the COLMAP model in a scene folder, made with all its views; None if there are none.

    A model without images counts too: LLFF's scenes are published in that state.

    Raises:
      DataError: for a broken points3D file.
    """
    for name in MODEL_FOLDERS:
        points = read_points(root / name)
        if points is not None and len(points.positions):
            return PointCloud(points.positions.astype(np.float32), points.colors.astype(np.float32) / 255)
    return None


def pose(image: ModelImage, where: str) -> np.ndarray:
    """(4, 4) camera_from_world of an image of a model."""
    quaternion = np.asarray(image.quaternion, np.float64)
    norm = np.linalg.norm(np.clip(quaternion, -2, 2))  # clipped only so that nonsense cannot overflow
    if not abs(norm - 1) < 0.1:
        raise DataError(
            f"{where}: image {image.name} has the rotation quaternion {quaternion.tolist()}, not of length 1"
        )
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat(quaternion[[1, 2, 3, 0]] / norm).as_matrix()
    matrix[:3, 3] = image.translation
    return checked_pose(matrix, f"{where}, image {image.name}")


def read_colmap(root: Path) -> Capture:
    """The capture in a folder with a complete COLMAP model.

    Depth bounds come from `poses_bounds.npy` where that is there too and has as many rows, else from the points that
    each view sees (0.1 and 99.9 percentiles of their depths).

    Raises:
      DataError: as `read_model`, and when none of the model's photos exist.
    """
    folder, remark = model_folder(root)
    if folder is None:
        raise DataError(f"{root}: no complete COLMAP model in {', '.join(MODEL_FOLDERS)} ({remark or 'none there'})")
    model = read_model(folder)
    images = sorted(model.images, key=lambda image: image.name)
    photos: list[PosedPhoto] = []
    notes: list[str] = []
    for image in images:
        camera = model.cameras[image.camera_id]
        intrinsics, lens = from_colmap(camera.model, camera.params)
        checked_intrinsics(intrinsics, camera.width, camera.height, lens, f"{folder}, camera {camera.id}")
        matrix = pose(image, str(folder))
        photos.append(PosedPhoto(root / "images", image.name, matrix, camera.width, camera.height, intrinsics, lens))
    bounds, llff_bounds = _bounds(root, folder, images, np.stack([p.camera_from_world for p in photos]), notes)
    there = existing(photos)
    if not any(there):
        raise DataError(_nothing_there(root, folder, [p.name for p in photos]))
    if not all(there):
        lost = [photo.name for photo, ok in zip(photos, there, strict=True) if not ok]
        notes.append(
            f"{len(lost)} of {len(photos)} images of the COLMAP model do not exist and are left out: {_few(lost)}"
        )
    keep = np.flatnonzero(there)
    return Capture(
        root,
        "colmap",
        tuple(photos[i] for i in keep),
        bounds=None if bounds is None else bounds[keep],
        # A capture that comes with poses_bounds.npy follows the LLFF protocol, which knows no distortion.
        ignore_distortion=llff_bounds,
        notes=tuple(notes),
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _nothing_there(root: Path, folder: Path, names: list[str]) -> str:
    found = {level.name: len(image_names(level)) for level in levels(root / "images").values()}
    counts = ", ".join(f"{name}/ has {count} pictures" for name, count in found.items()) or "there is no images/ folder"
    return (
        f"{root}: none of the {len(names)} images of the COLMAP model in {folder} exist ({_few(names)}); {counts}. "
        "Put the photos into images/ under the names that the model has"
    )


def _bounds(
    root: Path, folder: Path, images: list[ModelImage], poses: np.ndarray, notes: list[str]
) -> tuple[np.ndarray | None, bool]:
    """(V, 2) depth bounds or None, and whether they are those of a `poses_bounds.npy`; adds to `notes`."""
    if (root / POSES_BOUNDS).is_file():
        bounds = read_bounds(root / POSES_BOUNDS)
        if len(bounds) == len(images):
            return bounds, True
        notes.append(
            f"{POSES_BOUNDS} has {len(bounds)} rows and the COLMAP model {len(images)} images; only the model is used"
        )
    points = read_points(folder)
    if points is None or not len(points.positions):
        notes.append("the COLMAP model has no points, so depth bounds are not known")
        return None, False
    seen = points.by_image()
    bounds = np.full((len(images), 2), np.nan)
    for row, (image, matrix) in enumerate(zip(images, poses, strict=True)):
        visible = points.positions[seen.get(image.id, np.zeros(0, np.int64))]
        depths = visible @ matrix[2, :3] + matrix[2, 3]
        depths = depths[depths > 0]
        if len(depths) >= 2:
            bounds[row] = np.percentile(depths, _PERCENTILES)
    known = (bounds[:, 0] > 0) & (bounds[:, 1] > bounds[:, 0])
    if not known.any():
        notes.append("no image of the COLMAP model sees two points at different depths, so depth bounds are not known")
        return None, False
    if not known.all():
        bounds[~known] = bounds[known, 0].min(), bounds[known, 1].max()
        notes.append(
            f"{int((~known).sum())} images see too few points; their depth bounds are those of all others together"
        )
    return bounds, False
