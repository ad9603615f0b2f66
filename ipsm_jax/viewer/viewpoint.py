"""From where somebody looks, as a browser says it, to the camera that the rasterizer takes, and back.

A window may have any shape, and a frame any number of pixels: the frame is stretched over the whole window. So both
focal lengths follow from the window's field of view, and pixels need not be square.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from ipsm_jax.scene.camera import Camera, look_at

LARGEST_WINDOW = 1 << 14
"""Pixels; a window that says it is larger is not believed."""


class Viewpoint(NamedTuple):
    """From where somebody looks.

    Attributes:
      wxyz: unit quaternion, world from camera, OpenCV axes (x right, y down, z forward).
      position: camera center in world units.
      fov: vertical field of view in radians, in (0, pi).
      width, height: of the window in pixels.
    """

    wxyz: tuple[float, float, float, float]
    position: tuple[float, float, float]
    fov: float
    width: int
    height: int

    @property
    def usable(self) -> bool:
        """Whether a picture can be drawn from here: a hidden window has no pixels, and clients may send anything."""
        numbers = np.array([*self.wxyz, *self.position, self.fov], np.float64)
        return bool(
            np.isfinite(numbers).all()
            and np.abs(numbers).max() < 1e9
            and np.linalg.norm(self.wxyz) > 1e-6
            and 1e-3 < self.fov < np.pi - 1e-3
            and 1 <= self.width <= LARGEST_WINDOW
            and 1 <= self.height <= LARGEST_WINDOW
        )


def camera_of(viewpoint: Viewpoint, width: int, height: int) -> Camera:
    """The camera whose picture of width x height pixels, stretched over the window, is what is seen from there."""
    w, x, y, z = viewpoint.wxyz
    rotation = Rotation.from_quat((x, y, z, w)).as_matrix()  # world from camera
    matrix = np.eye(4)
    matrix[:3, :3] = rotation.T
    matrix[:3, 3] = -rotation.T @ np.asarray(viewpoint.position, np.float64)
    half = np.tan(viewpoint.fov / 2)  # of the picture's height at depth 1
    focal_y = height / (2 * half)
    focal_x = width / (2 * half * viewpoint.width / viewpoint.height)
    intrinsics = np.array([focal_x, focal_y, width / 2, height / 2])
    return Camera(matrix.astype(np.float32), intrinsics.astype(np.float32), width, height)


def viewpoint_of(camera: Camera) -> Viewpoint:
    """Where a single camera stands, in a window of its picture's size that shows all of that picture.

    The principal point of a window is in its middle; where the camera's is elsewhere, the window shows more. Where it
    is not, and pixels are square, `camera_of` gives the camera back.
    """
    matrix = np.asarray(camera.camera_from_world, np.float64)
    fx, fy, cx, cy = np.asarray(camera.intrinsics, np.float64)
    x, y, z, w = Rotation.from_matrix(matrix[:3, :3].T).as_quat()
    px, py, pz = -matrix[:3, :3].T @ matrix[:3, 3]
    half_height = max(cy, camera.height - cy) / fy  # at depth 1
    half_width = max(cx, camera.width - cx) / fx
    fov = 2 * np.arctan(max(half_height, half_width * camera.height / camera.width))
    position, wxyz = (float(px), float(py), float(pz)), (float(w), float(x), float(y), float(z))
    return Viewpoint(wxyz, position, float(fov), camera.width, camera.height)


def fitted(viewpoint: Viewpoint, width: int, height: int) -> Viewpoint:
    """The same look in another window, with the smallest field of view that shows all that was seen before."""
    narrower = max(1.0, (viewpoint.width / viewpoint.height) / (width / height))
    fov = 2 * np.arctan(np.tan(viewpoint.fov / 2) * narrower)
    return viewpoint._replace(fov=float(fov), width=width, height=height)


def axes_of(viewpoint: Viewpoint) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors forward and up of a viewpoint, in world coordinates."""
    w, x, y, z = viewpoint.wxyz
    rotation = Rotation.from_quat((x, y, z, w)).as_matrix()
    return rotation[:, 2], -rotation[:, 1]


def looking_at(position: np.ndarray, target: np.ndarray, up: np.ndarray, fov: float) -> Viewpoint:
    """A viewpoint at a (3,) position towards a (3,) target; ValueError as `scene.camera.look_at`."""
    matrix = look_at(position, target, up)
    focal = 1 / (2 * np.tan(fov / 2))
    return viewpoint_of(Camera(matrix, np.array([focal, focal, 0.5, 0.5], np.float32), 1, 1))
