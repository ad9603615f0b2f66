"""COLMAP's binary files: cameras.bin, images.bin, points3D.bin (little endian).

No count is believed before the file is seen to be long enough for it, so that a damaged file costs an error message and
not the memory of the machine.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from ipsm_jax.data.colmap_model import (
    MODEL_NAMES,
    ModelCamera,
    ModelImage,
    ModelPoints,
    check_camera_model,
    checked_camera,
    checked_images,
    checked_points,
)
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.lenses import parameter_count

_CAMERA = struct.Struct("<IiQQ")  # id, model, width, height; then the parameters as doubles
_IMAGE = struct.Struct("<I4d3dI")  # id, quaternion wxyz, translation, camera id; then name, 0 and the observations
_OBSERVATION_BYTES = 24  # x, y, point id
_POINT = struct.Struct("<Q3d3BdQ")  # id, position, color, error, track length; then the track
_TRACK_BYTES = 8  # image id, observation index


class _Cursor:
    """Reads a file front to back and knows how much is left."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        self.at = 0

    def need(self, size: int, what: str) -> None:
        """Check that `size` more bytes are there."""
        if size > len(self.data) - self.at:
            raise DataError(
                f"{self.path}: cut short or damaged: {what} needs {size} bytes at offset {self.at}, "
                f"but only {len(self.data) - self.at} are left"
            )

    def take(self, layout: struct.Struct, what: str) -> tuple:
        """Unpack one structure."""
        self.need(layout.size, what)
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values

    def count(self, smallest: int, what: str) -> int:
        """A 64-bit count of records that take at least `smallest` bytes each."""
        (count,) = self.take(struct.Struct("<Q"), f"the number of {what}")
        if count * smallest > len(self.data) - self.at:
            raise DataError(
                f"{self.path}: damaged: it claims {count} {what}, but only {len(self.data) - self.at} bytes follow"
            )
        return count

    def text(self, what: str) -> str:
        """A zero-terminated name."""
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise DataError(f"{self.path}: cut short or damaged: {what} at offset {self.at} has no end")
        raw = self.data[self.at : end]
        self.at = end + 1
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{self.path}: damaged: {what} is no readable text ({raw[:40]!r})") from None

    def finish(self, what: str) -> None:
        """Complain about bytes after the last record."""
        if self.at != len(self.data):
            raise DataError(
                f"{self.path}: damaged: {len(self.data) - self.at} bytes follow after the last of its {what}"
            )


def read_cameras(path: Path) -> dict[int, ModelCamera]:
    """Cameras by id.

    Raises:
      DataError: for a truncated or damaged file or a camera model that is not supported.
    """
    cursor = _Cursor(path)
    cameras = {}
    for _ in range(cursor.count(_CAMERA.size, "cameras")):
        camera_id, number, width, height = cursor.take(_CAMERA, "a camera")
        where = f"{path}, camera {camera_id}"
        model = MODEL_NAMES.get(number, f"number {number}")
        check_camera_model(model, where)
        params = cursor.take(struct.Struct(f"<{parameter_count(model)}d"), "the parameters of a camera")
        cameras[camera_id] = checked_camera(ModelCamera(camera_id, model, width, height, params), where)
    cursor.finish("cameras")
    return cameras


def read_images(path: Path) -> list[ModelImage]:
    """Registered images in file order; their 2D observations are skipped.

    Raises:
      DataError: for a truncated or damaged file, NaN poses, or images listed twice.
    """
    cursor = _Cursor(path)
    images = []
    for _ in range(cursor.count(_IMAGE.size + 1 + 8, "images")):
        image_id, *numbers, camera_id = cursor.take(_IMAGE, "an image")
        name = cursor.text("the name of an image")
        observations = cursor.count(_OBSERVATION_BYTES, f"observations of image {name!r}")
        cursor.at += observations * _OBSERVATION_BYTES
        images.append(ModelImage(image_id, tuple(numbers[:4]), tuple(numbers[4:]), camera_id, name))
    cursor.finish("images")
    return checked_images(images, path)


def read_points(path: Path) -> ModelPoints:
    """All points with the images that see them.

    Raises:
      DataError: for a truncated or damaged file or points that are not finite.
    """
    cursor = _Cursor(path)
    count = cursor.count(_POINT.size, "points")
    positions, colors, errors = np.empty((count, 3)), np.empty((count, 3), np.uint8), np.empty(count)
    lengths = np.empty(count, np.int64)
    tracks = []
    for i in range(count):
        _, *values, errors[i], length = cursor.take(_POINT, "a point")
        cursor.need(length * _TRACK_BYTES, f"the track of point {i}")
        positions[i], colors[i], lengths[i] = values[:3], values[3:6], length
        end = cursor.at + length * _TRACK_BYTES
        tracks.append(cursor.data[cursor.at : end])
        cursor.at = end
    cursor.finish("points")
    pairs = np.frombuffer(b"".join(tracks), "<u4").reshape(-1, 2)
    return checked_points(
        ModelPoints(positions, colors, errors, pairs[:, 0].astype(np.int64), np.repeat(np.arange(count), lengths)), path
    )
