"""A scene from above: cameras by what they are for, and points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.trajectories import upright_axes

PAPER, INK = (251, 250, 248), (70, 74, 80)
_MARGIN = 0.08  # of the picture, empty on each side
_WEDGE = 0.045  # of the picture, length of a camera's symbol
_PERCENTILES = (2.0, 98.0)  # of the points that set the scale; a few lie far away


class CameraRole(NamedTuple):
    """What a camera is for, and its color, RGB in 0..255."""

    name: str
    color: tuple[int, int, int]


TRAIN = CameraRole("training view", (180, 71, 46))
TEST = CameraRole("test view", (47, 111, 159))
SPARE = CameraRole("not used", (150, 154, 160))


def top_view(
    cameras: Camera,
    roles: Sequence[CameraRole],
    positions: Float[np.ndarray, "p 3"],
    colors: Float[np.ndarray, "p 3"],
    size: int = 900,
) -> np.ndarray:
    """Picture, uint8 (size, size, 3), of V cameras and P points (colors in [0, 1]) along the cameras' mean "up".

    The first camera's view goes upwards in the picture.
    """
    matrices = np.asarray(cameras.camera_from_world, np.float64)
    rotations = matrices[:, :3, :3]
    centers = -np.einsum("vji,vj->vi", rotations, matrices[:, :3, 3])
    right, forward, _ = upright_axes(rotations)
    axes = np.stack([right, -forward])  # pictures count rows downwards
    flat_points, flat_centers = np.asarray(positions, np.float64) @ axes.T, centers @ axes.T
    fit = flat_centers if not len(flat_points) else np.concatenate([_inner(flat_points), flat_centers])
    low, high = fit.min(axis=0), fit.max(axis=0)
    scale = size * (1 - 2 * _MARGIN) / max(float((high - low).max()), 1e-9)
    drawn = 2  # drawn at twice the size, then halved: smooth lines

    def place(flat: np.ndarray) -> np.ndarray:
        return drawn * (size / 2 + scale * (flat - (low + high) / 2))

    canvas = Image.new("RGB", (drawn * size, drawn * size), PAPER)
    draw = ImageDraw.Draw(canvas)
    radius = 1.5 * drawn
    for (x, y), color in zip(place(flat_points), np.round(255 * np.clip(colors, 0, 1)).astype(int), strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(color.tolist()))
    length = _WEDGE * drawn * size
    order = sorted(range(len(roles)), key=lambda i: (roles[i] is TRAIN, roles[i] is TEST))  # training views on top
    for i in order:
        (x, y), look = place(flat_centers[i : i + 1])[0], axes @ rotations[i, 2]
        half = 0.5 * cameras.width / float(cameras.intrinsics[i, 0])
        side = half * (axes @ rotations[i, 0])
        corners = [(x, y), *((x + length * v[0], y + length * v[1]) for v in (look + side, look - side))]
        draw.polygon(corners, fill=roles[i].color, outline=PAPER)
    picture = canvas.resize((size, size), Image.Resampling.BOX)
    _legend(picture, roles)
    return np.asarray(picture)


def _inner(flat: np.ndarray) -> np.ndarray:
    """Corners of the box that holds most points."""
    return np.percentile(flat, _PERCENTILES, axis=0)


def _legend(picture: Image.Image, roles: Sequence[CameraRole]) -> None:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for row, role in enumerate(role for role in (TRAIN, TEST, SPARE) if role in roles):
        y = 14 + 24 * row
        draw.rectangle((14, y, 28, y + 14), fill=role.color)
        count = sum(r is role for r in roles)
        draw.text((36, y + 7), f"{count} {role.name}{'s' if count != 1 and role is not SPARE else ''}", INK, font, "lm")
