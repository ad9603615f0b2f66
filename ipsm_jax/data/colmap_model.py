"""What a COLMAP sparse model holds, and the checks that its binary and its text form share."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ipsm_jax.data.capture import checked_name
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.lenses import SUPPORTED_MODELS, parameter_count

# Models that COLMAP knows, by the number its binary files use.
MODEL_NAMES = {
    0: "SIMPLE_PINHOLE",
    1: "PINHOLE",
    2: "SIMPLE_RADIAL",
    3: "RADIAL",
    4: "OPENCV",
    5: "OPENCV_FISHEYE",
    6: "FULL_OPENCV",
    7: "FOV",
    8: "SIMPLE_RADIAL_FISHEYE",
    9: "RADIAL_FISHEYE",
    10: "THIN_PRISM_FISHEYE",
    11: "RAD_TAN_THIN_PRISM_FISHEYE",
    12: "SIMPLE_DIVISION",
    13: "DIVISION",
    14: "SIMPLE_FISHEYE",
    15: "FISHEYE",
    16: "EUCM",
    17: "EQUIRECTANGULAR",
}


class ModelCamera(NamedTuple):
    """A camera: COLMAP's model name, size in pixels, parameters in COLMAP's order."""

    id: int
    model: str
    width: int
    height: int
    params: tuple[float, ...]


class ModelImage(NamedTuple):
    """A registered image: camera_from_world as wxyz quaternion and translation."""

    id: int
    quaternion: tuple[float, ...]
    translation: tuple[float, ...]
    camera_id: int
    name: str


class ModelPoints(NamedTuple):
    """P points: positions (P, 3) float64, colors (P, 3) uint8, mean reprojection errors (P,) float64 in pixels, and who
    sees them as T (image id, point index) pairs.
    """

    positions: np.ndarray
    colors: np.ndarray
    errors: np.ndarray
    track_images: np.ndarray
    track_points: np.ndarray

    def by_image(self) -> dict[int, np.ndarray]:
        """Indices of the points that each image sees, by image id."""
        order = np.argsort(self.track_images, kind="stable")
        ids, starts = np.unique(self.track_images[order], return_index=True)
        parts = np.split(self.track_points[order], starts[1:])
        return {int(i): np.unique(part) for i, part in zip(ids, parts, strict=True)} if len(ids) else {}


class ColmapModel(NamedTuple):
    """Cameras by id and images in file order."""

    cameras: dict[int, ModelCamera]
    images: list[ModelImage]


def check_camera_model(model: str, where: str) -> None:
    """Refuse camera models that cannot be undistorted here.

    Raises:
      DataError: naming the model and the remedy.
    """
    if model not in SUPPORTED_MODELS:
        raise DataError(
            f"{where}: the camera model {model} is not supported (supported: {', '.join(SUPPORTED_MODELS)}). "
            "Convert the model and its photos with `colmap image_undistorter --image_path images --input_path sparse/0 "
            "--output_path undistorted` and use the folder undistorted"
        )


def checked_camera(camera: ModelCamera, where: str) -> ModelCamera:
    """The camera itself, if its model and parameters are fine.

    Raises:
      DataError: for an unsupported model, a wrong number of parameters or numbers that are not finite.
    """
    check_camera_model(camera.model, where)
    expected = parameter_count(camera.model)
    if len(camera.params) != expected:
        raise DataError(f"{where}: {camera.model} has {expected} parameters, found {len(camera.params)}")
    if not np.isfinite(camera.params).all():
        raise DataError(f"{where}: camera {camera.id} has NaN or infinite parameters {camera.params}")
    return camera


def checked_images(images: list[ModelImage], path: Path) -> list[ModelImage]:
    """The images themselves, if their numbers are finite and their names and ids unique.

    Raises:
      DataError: naming the first image that is not fine.
    """
    names: set[str] = set()
    ids: set[int] = set()
    for image in images:
        if not np.isfinite((*image.quaternion, *image.translation)).all():
            raise DataError(f"{path}: image {image.name!r} has NaN or infinity in its pose")
        if not image.name or image.name in names or image.id in ids:
            raise DataError(f"{path}: image {image.id} {image.name!r} is listed twice or has no name")
        checked_name(image.name, str(path))
        names.add(image.name)
        ids.add(image.id)
    return images


def checked_points(points: ModelPoints, path: Path) -> ModelPoints:
    """The points themselves, if all are finite.

    Raises:
      DataError: with the number of points that are not.
    """
    bad = np.flatnonzero(~(np.abs(points.positions) < 1e30).all(axis=1))  # what float32 cannot hold is infinite
    if len(bad):
        raise DataError(
            f"{path}: {len(bad)} of {len(points.positions)} points are NaN or infinite, the first is point {bad[0]}"
        )
    return points
