"""Camera paths for videos: through the given cameras, a spiral before the scene, an ellipse around it.

A path is a batch of cameras (numpy float32 arrays) whose width and height are those of the cameras it was made from.
Everything follows from the cameras themselves: "up" is their mean up (-y of the camera axes), so any world frame will
do, and a scene moved rigidly gets the same path, moved with it. Lengths are in world units, parameters without unit.
Computed on the host in float64.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline, interp1d
from scipy.spatial.transform import Rotation, RotationSpline

from ipsm_jax.scene.camera import Camera, look_at

SPIRAL_TURNS = 2
SPREAD_PERCENTILE = 90


def interpolated_path(cameras: Camera, frames: int) -> Camera:
    """A smooth path through all cameras in their order, from the first to the last.

    Positions follow a cubic spline, rotations a spline of rotations, intrinsics change linearly. The time between two
    cameras is in proportion to how far they are apart (distance / mean distance, plus the turn in radians); a camera
    equal to its predecessor takes none. One camera, or equal ones: all frames are that camera.

    Args:
      cameras: batch of V >= 1.
      frames: number of frames >= 1; the first frame is the first camera, the last frame the last.

    Raises:
      ValueError: for no cameras, or fewer than one frame.
    """
    rotations, centers, intrinsics = _unpack(cameras, frames)
    times, kept = _times(rotations, centers)
    if len(kept) == 1:
        return _pack(cameras, [_matrix(rotations[0], centers[0])] * frames, np.repeat(intrinsics[:1], frames, 0))
    rotations, centers, intrinsics = rotations[kept], centers[kept], intrinsics[kept]
    at = np.linspace(0.0, times[-1], frames)
    positions = CubicSpline(times, centers, bc_type="natural")(at)
    turned = RotationSpline(times, Rotation.from_matrix(rotations))(at).as_matrix()
    matrices = [_matrix(turn, position) for turn, position in zip(turned, positions, strict=True)]
    return _pack(cameras, matrices, interp1d(times, intrinsics, axis=0)(at))


def spiral_path(cameras: Camera, bounds: Float[np.ndarray, "v 2"], frames: int, turns: int = SPIRAL_TURNS) -> Camera:
    """A closed spiral around the average camera that keeps looking at one point, for captures that face one way (LLFF).

    Its half-axes are the 90th percentile of the cameras' distances from their mean along the average camera's x, y
    and z (x and y at least 2 % of the focus depth, so that a single camera gets a moving picture too).

    Args:
      cameras: batch of V >= 1 that look in roughly one direction.
      bounds: (V, 2) or (1, 2) nearest and farthest depth in world units, 0 < nearest <= farthest.
      frames: number of frames >= 1; the frame after the last would be the first again.
      turns: times around; along z the path swings half as often, so an even number closes it.

    Raises:
      ValueError: for no cameras or frames, bounds out of order, or cameras whose view directions cancel out.
    """
    _, centers, intrinsics = _unpack(cameras, frames)
    pose = average_pose(cameras)
    rotation, center = pose[:3, :3], pose[:3, 3]
    depth = focus_depth(bounds)
    radii = np.percentile(np.abs((centers - center) @ rotation), SPREAD_PERCENTILE, axis=0)
    radii = np.maximum(radii, (0.02 * depth, 0.02 * depth, 0.0))
    target = center + depth * rotation[:, 2]
    angles = 2 * np.pi * turns * np.arange(frames) / frames
    offsets = np.stack([np.cos(angles), np.sin(angles), -np.sin(angles / 2)], axis=1) * radii
    matrices = [look_at(center + rotation @ offset, target, up=-rotation[:, 1]) for offset in offsets]
    return _pack(cameras, matrices, np.repeat(intrinsics.mean(0, keepdims=True), frames, 0))


def ellipse_path(cameras: Camera, frames: int, bounds: Float[np.ndarray, "v 2"] | None = None) -> Camera:
    """An ellipse around the point that all cameras look at, at their mean height, looking at it (mip-NeRF 360's idea).

    The ellipse has the shape of the cameras' spread in the plane across their mean up and is as large as the 90th
    percentile of it; cameras along a line or a single one give a circle. Frames have equal distances and start at the
    azimuth of the first camera.

    Args:
      cameras: batch of V >= 1.
      frames: number of frames >= 1; the frame after the last would be the first again.
      bounds: (V, 2) or (1, 2) nearest and farthest depth; says how far away the focus is when the view directions
        are parallel, and is not needed otherwise.

    Raises:
      ValueError: for no cameras or frames, parallel view directions without bounds, or cameras right above the focus.
    """
    _, centers, intrinsics = _unpack(cameras, frames)
    focus = focus_point(cameras)
    if focus is None:
        if bounds is None:
            raise ValueError(
                "the cameras look in parallel directions and share no point to circle around: "
                "use a spiral or interpolated path, or give depth bounds"
            )
        pose = average_pose(cameras)
        focus = pose[:3, 3] + focus_depth(bounds) * pose[:3, 2]
    up = _mean_up(cameras)
    offsets = centers - focus
    height = float(np.mean(offsets @ up))
    across = offsets - np.outer(offsets @ up, up)
    first = across[np.argmax(np.linalg.norm(across, axis=1) > 1e-6 * np.linalg.norm(offsets))]
    if not np.linalg.norm(first) > 1e-6 * np.abs(offsets).max():
        raise ValueError("the cameras are right above or below the point they look at: there is no ellipse around it")
    e1 = first / np.linalg.norm(first)
    plane = np.stack([e1, np.cross(up, e1)])  # (2, 3): first axis towards the first camera
    shape = _ellipse_shape(across @ plane.T)
    start = np.linalg.solve(shape, np.array([1.0, 0.0]))
    angles = _even_angles(shape, np.arctan2(start[1], start[0]), frames)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ shape @ plane
    matrices = [look_at(focus + height * up + point, focus, up=up) for point in points]
    return _pack(cameras, matrices, np.repeat(intrinsics.mean(0, keepdims=True), frames, 0))


def choose_path(cameras: Camera) -> Literal["spiral", "interpolated", "ellipse"]:
    """The kind of path that stays near what the cameras saw.

    A spiral if all of them face one way within 35 degrees, an ellipse if they look from all around, otherwise (an
    arc, a walk) the way through them.
    """
    directions = _unpack(cameras, 1)[0][:, :, 2]
    mean = directions.mean(0)
    if np.linalg.norm(mean) < 0.4:
        return "ellipse"
    cosines = directions @ mean / np.linalg.norm(mean)
    return "spiral" if cosines.min() > np.cos(np.radians(35)) else "interpolated"


def average_pose(cameras: Camera) -> Float[np.ndarray, "4 4"]:
    """``world_from_camera`` at the mean center, along the mean view direction, with the mean up upright.

    Raises:
      ValueError: if the view directions or the ups cancel out, or are parallel.
    """
    rotations, centers, _ = _unpack(cameras, 1)
    forward = rotations[:, :, 2].mean(0)
    if np.linalg.norm(forward) < 0.1:
        raise ValueError("the cameras look in all directions and have no mean view direction: use an ellipse path")
    camera_from_world = look_at(centers.mean(0), centers.mean(0) + forward, up=_mean_up(cameras)).astype(np.float64)
    pose = np.eye(4)
    pose[:3, :3] = camera_from_world[:3, :3].T
    pose[:3, 3] = centers.mean(0)
    return pose


def upright_axes(rotations: Float[np.ndarray, "v 3 3"]) -> Float[np.ndarray, "3 3"]:
    """Rows right, forward, up: up is the mean of the V cameras' ups, forward is how the first one looks, made level."""
    up = -rotations[:, 1].mean(axis=0)
    if np.linalg.norm(up) < 0.2:  # the cameras are turned every way: no up is better than another
        up = -rotations[0, 1]
    up = up / np.linalg.norm(up)
    forward = rotations[0, 2] - (rotations[0, 2] @ up) * up
    if np.linalg.norm(forward) < 1e-3:  # the first camera looks straight down
        forward = rotations[0, 1] - (rotations[0, 1] @ up) * up
    forward = forward / np.linalg.norm(forward)
    return np.stack([np.cross(forward, up), forward, up])


def focus_depth(bounds: Float[np.ndarray, "v 2"]) -> float:
    """Depth to look at: 1 / (0.25 / close + 0.75 / far), close = 0.9 x nearest, far = 5 x farthest (METHOD section 5).

    Raises:
      ValueError: unless 0 < nearest <= farthest and both are finite.
    """
    near, far = float(np.min(bounds)), float(np.max(bounds))
    if not (0 < near <= far < np.inf):
        raise ValueError(f"depth bounds must be finite and 0 < nearest <= farthest, got {near} and {far}")
    return 1.0 / (0.25 / (0.9 * near) + 0.75 / (5.0 * far))


def focus_point(cameras: Camera) -> Float[np.ndarray, " 3"] | None:
    """The point nearest to all optical axes (least squares), or None where they are parallel within about 2 degrees."""
    rotations, centers, _ = _unpack(cameras, 1)
    directions = rotations[:, :, 2]
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]  # removes the part along each axis
    matrix = across.mean(0)
    if np.linalg.eigvalsh(matrix)[0] < 1e-3:  # = mean squared sine of the angles to the common direction
        return None
    return np.linalg.solve(matrix, np.einsum("vij,vj->vi", across, centers).mean(0))


def _mean_up(cameras: Camera) -> np.ndarray:
    """(3,) unit mean of the cameras' up directions."""
    up = -np.asarray(cameras.camera_from_world, np.float64)[:, 1, :3].mean(0)
    if np.linalg.norm(up) < 0.1:
        raise ValueError("the cameras' up directions cancel out: there is no common up to keep the path upright")
    return up / np.linalg.norm(up)


def _ellipse_shape(points: np.ndarray) -> np.ndarray:
    """Symmetric (2, 2) matrix that maps the unit circle to an ellipse spread like the (V, 2) points around 0."""
    moments = points.T @ points / len(points)
    values, vectors = np.linalg.eigh(moments)
    if values[0] < 0.05 * values[1]:  # a line: its ellipse would all but pass through the focus
        return np.percentile(np.linalg.norm(points, axis=1), SPREAD_PERCENTILE) * np.eye(2)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    return root * np.percentile(np.linalg.norm(np.linalg.solve(root, points.T), axis=0), SPREAD_PERCENTILE)


def _even_angles(shape: np.ndarray, start: float, frames: int) -> np.ndarray:
    """Angles from `start`, once around, whose images under `shape` lie at equal distances along the ellipse."""
    fine = start + np.linspace(0, 2 * np.pi, 1024 + 1)
    points = np.stack([np.cos(fine), np.sin(fine)], axis=1) @ shape
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return np.interp(np.arange(frames) / frames * length[-1], length, fine)


def _times(rotations: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Increasing times of the cameras that differ from their predecessor, and those cameras' indices."""
    distances = np.linalg.norm(np.diff(centers, axis=0), axis=1)
    scale = distances.mean() if len(distances) and distances.mean() > 0 else 1.0
    orientation = Rotation.from_matrix(rotations)
    turns = (orientation[:-1].inv() * orientation[1:]).magnitude() if len(centers) > 1 else np.zeros(0)
    steps = distances / scale + turns
    kept = np.concatenate([[True], steps > 1e-5])
    return np.concatenate([[0.0], np.cumsum(steps)])[kept], np.flatnonzero(kept)


def _unpack(cameras: Camera, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float64 world-from-camera rotations (V, 3, 3), centers (V, 3) and intrinsics (V, 4)."""
    matrices = np.asarray(cameras.camera_from_world, np.float64)
    if matrices.ndim != 3 or len(matrices) == 0:
        raise ValueError(f"a path needs a batch of at least one camera, got matrices of shape {matrices.shape}")
    if frames < 1:
        raise ValueError(f"a path needs at least 1 frame, got {frames}")
    rotations = np.swapaxes(matrices[:, :3, :3], 1, 2)
    centers = -np.einsum("vij,vj->vi", rotations, matrices[:, :3, 3])
    return rotations, centers, np.asarray(cameras.intrinsics, np.float64)


def _matrix(rotation: np.ndarray, center: np.ndarray) -> np.ndarray:
    """(4, 4) ``camera_from_world`` from a world-from-camera rotation and a center."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation.T
    matrix[:3, 3] = -rotation.T @ center
    return matrix


def _pack(like: Camera, matrices: list[np.ndarray], intrinsics: np.ndarray) -> Camera:
    return Camera(
        camera_from_world=np.stack(matrices).astype(np.float32),
        intrinsics=np.asarray(intrinsics, np.float32),
        width=like.width,
        height=like.height,
    )
