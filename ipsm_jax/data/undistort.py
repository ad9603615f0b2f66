"""From photos through a lens to photos through a pinhole.

The undistorted photo has the same size and the same principal point. Its focal lengths are the lens's, times one common
factor chosen so that the picture shows as much as it can without any pixel that the photo does not cover: no black rim
enters training. The factor is kept between 0.5 and 2, so that a fisheye's outermost part does not shrink the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import map_coordinates

from ipsm_jax.data.lenses import Lens, distort, largest_radius

FACTORS = (0.5, 2.0)


class Undistortion(NamedTuple):
    """How to undistort one camera's photos at one size."""

    intrinsics: tuple[float, float, float, float]  # of the pinhole, in pixels
    source: np.ndarray  # (H, W, 2) float64: where (x, y) in the photo each pixel center comes from, in pixels
    covered: bool  # False if even the largest factor leaves pixels that the photo does not cover


def plan_undistortion(
    intrinsics: tuple[float, float, float, float], lens: Lens, width: int, height: int
) -> Undistortion:
    """The pinhole camera and the sampling positions for one lens (see the module's text).

    Args:
      intrinsics: (fx, fy, cx, cy) of the lens in pixels of the photo.
      lens: its distortion.
      width, height: size of the photo.
    """
    limit = largest_radius(lens)
    border = _border(width, height)

    def valid(factor: float) -> bool:
        rays = _rays(border, intrinsics, factor)
        photo = _pixels(distort(lens, rays), intrinsics)
        inside = (photo >= 0).all(axis=-1) & (photo[..., 0] <= width) & (photo[..., 1] <= height)
        return bool((inside & (np.hypot(rays[..., 0], rays[..., 1]) <= limit)).all())

    low, high = FACTORS
    if valid(low):
        factor = low
    else:
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if valid(middle) else (middle, high)
        factor = high
    covered = valid(factor)
    fx, fy, cx, cy = intrinsics
    v, u = np.mgrid[:height, :width] + 0.5
    rays = _rays(np.stack([u, v], axis=-1), intrinsics, factor)
    source = _pixels(distort(lens, rays), intrinsics)
    source[np.hypot(rays[..., 0], rays[..., 1]) > limit] = -1e6  # outside of what the polynomial describes
    return Undistortion((fx * factor, fy * factor, cx, cy), source, covered)


def _border(width: int, height: int) -> Float[np.ndarray, "n 2"]:
    """Points along the four edges of the image, a pixel apart or less."""
    x, y = np.linspace(0, width, width + 1), np.linspace(0, height, height + 1)
    sides = [(x, 0 * x), (x, 0 * x + height), (0 * y, y), (0 * y + width, y)]
    return np.concatenate([np.stack(side, axis=-1) for side in sides])


def _rays(pixels: np.ndarray, intrinsics: tuple[float, float, float, float], factor: float) -> np.ndarray:
    fx, fy, cx, cy = intrinsics
    return (pixels - (cx, cy)) / (fx * factor, fy * factor)


def _pixels(rays: np.ndarray, intrinsics: tuple[float, float, float, float]) -> np.ndarray:
    fx, fy, cx, cy = intrinsics
    return rays * (fx, fy) + (cx, cy)


def undistort_image(image: UInt8[np.ndarray, "h w c"], plan: Undistortion) -> UInt8[np.ndarray, "h w c"]:
    """Bilinear samples of a photo at the plan's positions; black where the photo does not reach."""
    # Pixel centers are at +0.5, array positions at whole numbers.
    rows, columns = plan.source[..., 1] - 0.5, plan.source[..., 0] - 0.5
    height, width = image.shape[:2]
    outside = (rows < -0.5) | (rows > height - 0.5) | (columns < -0.5) | (columns > width - 0.5)
    result = np.empty_like(image)
    for channel in range(image.shape[2]):
        sampled = map_coordinates(image[..., channel].astype(np.float32), [rows, columns], order=1, mode="nearest")
        result[..., channel] = np.where(outside, 0, np.round(sampled)).astype(image.dtype)
    return result
