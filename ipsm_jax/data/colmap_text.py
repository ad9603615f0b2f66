"""COLMAP's text files: cameras.txt, images.txt, points3D.txt.

Lines that start with "#" are comments. An image takes two lines, of which the second (its observations) may be empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ipsm_jax.data.colmap_model import (
    ModelCamera,
    ModelImage,
    ModelPoints,
    check_camera_model,
    checked_camera,
    checked_images,
    checked_points,
)
from ipsm_jax.data.errors import DataError


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, content) of all lines but comments; empty lines included."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.lstrip().startswith("#"):
            yield number, line.strip()


def _int(word: str, where: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise DataError(f"{where}: {word!r} should be a whole number") from None


def _floats(words: list[str], where: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def read_cameras(path: Path) -> dict[int, ModelCamera]:
    """Cameras by id.

    Raises:
      DataError: for malformed lines or a camera model that is not supported.
    """
    cameras = {}
    for number, line in _lines(path):
        if not line:
            continue
        where = f"{path}, line {number}"
        words = line.split()
        if len(words) < 4:
            raise DataError(f"{where}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS..., found {line[:80]!r}")
        check_camera_model(words[1], where)
        camera = ModelCamera(
            _int(words[0], where), words[1], _int(words[2], where), _int(words[3], where), _floats(words[4:], where)
        )
        cameras[camera.id] = checked_camera(camera, where)
    return cameras


def read_images(path: Path) -> list[ModelImage]:
    """Registered images in file order; their 2D observations are skipped.

    Raises:
      DataError: for malformed lines, NaN poses, or images listed twice.
    """
    images = []
    lines = _lines(path)
    for number, line in lines:
        if not line:
            continue
        where = f"{path}, line {number}"
        words = line.split(maxsplit=9)
        if len(words) < 10:
            raise DataError(f"{where}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, found {line[:80]!r}")
        numbers = _floats(words[1:8], where)
        image_id, camera_id = _int(words[0], where), _int(words[8], where)
        images.append(ModelImage(image_id, numbers[:4], numbers[4:], camera_id, words[9]))
        observations = next(lines, None)
        if observations is None:
            raise DataError(f"{path}: cut short: the line with the observations of image {words[9]} is missing")
        if len(observations[1].split()) % 3:
            raise DataError(
                f"{path}, line {observations[0]}: observations come as X Y POINT3D_ID, but their numbers are not a "
                "multiple of 3; is the second line of an image missing?"
            )
    return checked_images(images, path)


def read_points(path: Path) -> ModelPoints:
    """All points with the images that see them.

    Raises:
      DataError: for malformed lines or points that are not finite.
    """
    positions: list[tuple[float, ...]] = []
    colors: list[list[int]] = []
    errors: list[float] = []
    images: list[int] = []
    points: list[int] = []
    for number, line in _lines(path):
        if not line:
            continue
        where = f"{path}, line {number}"
        words = line.split()
        if len(words) < 8 or len(words) % 2:
            raise DataError(f"{where}: expected POINT3D_ID X Y Z R G B ERROR TRACK..., found {line[:80]!r}")
        color = [_int(word, where) for word in words[4:7]]
        if not all(0 <= channel <= 255 for channel in color):
            raise DataError(f"{where}: color {color} is outside 0..255")
        track = [_int(word, where) for word in words[8::2]]
        images.extend(track)
        points.extend([len(positions)] * len(track))
        *position, error = _floats([*words[1:4], words[7]], where)
        positions.append(tuple(position))
        errors.append(error)
        colors.append(color)
    try:
        seen_by = np.asarray(images, np.int64)
    except OverflowError:
        raise DataError(f"{path}: a track holds an image id that is far too large") from None
    return checked_points(
        ModelPoints(
            np.asarray(positions, np.float64).reshape(-1, 3),
            np.asarray(colors, np.uint8).reshape(-1, 3),
            np.asarray(errors, np.float64),
            seen_by,
            np.asarray(points, np.int64),
        ),
        path,
    )
