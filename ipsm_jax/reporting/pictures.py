"""Pictures of numbers: depth and error as color, several pictures side by side with captions.

Pictures are float32 (H, W, 3) in [0, 1]; depth is in world units, alpha a fraction in [0, 1]. Plain numpy, on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from ipsm_jax.reporting.files import to_uint8

ERROR_RANGE = 0.5  # the mean absolute difference drawn as the brightest color
EMPTY_COLOR = (0.16, 0.17, 0.19)  # where nothing solid was rendered
_MINIMUM_ALPHA = 0.5
_PERCENTILES = (2.0, 98.0)

# Ten stops from near black over purple and orange to pale yellow, evenly spaced in perceived lightness.
COLOR_STOPS = (
    "000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4",
)  # fmt: skip


class DepthRange(NamedTuple):
    """Inverse depths (1 / world units) that are drawn darkest (far) and brightest (near)."""

    far: float
    near: float


def color_map(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
    """Values in [0, 1] (others are clipped) as colors whose lightness grows with the value; readable in gray too."""
    table = np.array([[int(stop[i : i + 2], 16) / 255 for i in (0, 2, 4)] for stop in COLOR_STOPS])
    positions = np.linspace(0, 1, len(table))
    values = np.clip(np.asarray(values, np.float64), 0, 1)
    return np.stack([np.interp(values, positions, table[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def depth_range(depth: Any, alpha: Any) -> DepthRange | None:
    """The 2nd and 98th percentile of the inverse depth where something solid is; None where nothing is.

    Args:
      depth, alpha: (..., H, W) as the rasterizer gives them (depth not divided by alpha).
    """
    inverse, solid = _inverse_depth(depth, alpha)
    if not solid.any():
        return None
    far, near = np.percentile(inverse[solid], _PERCENTILES)
    return DepthRange(float(far), float(near))


def depth_picture(depth: Any, alpha: Any, limits: DepthRange | None = None) -> Float[np.ndarray, "h w 3"]:
    """Depth as color, near is bright; gray where alpha is 0.5 or less and the depth means little.

    The scale is linear in inverse depth, which spends the colors on near things, where depth can be judged.

    Args:
      depth: (H, W) sum of z x alpha x T; divided by alpha here.
      alpha: (H, W).
      limits: what the darkest and the brightest color mean; default: this picture's own range. Give the same to all
        frames of a video.
    """
    inverse, solid = _inverse_depth(depth, alpha)
    limits = depth_range(depth, alpha) if limits is None else limits
    picture = np.broadcast_to(np.asarray(EMPTY_COLOR, np.float32), (*inverse.shape, 3)).copy()
    if limits is not None and solid.any():
        width = limits.near - limits.far
        scaled = (inverse - limits.far) / width if width > 0 else np.full_like(inverse, 0.5)
        picture[solid] = color_map(scaled[solid])
    return picture


def _inverse_depth(depth: Any, alpha: Any) -> tuple[np.ndarray, np.ndarray]:
    """The inverse depth alpha / depth, and where it is a number worth drawing."""
    depth, alpha = np.asarray(depth, np.float64), np.asarray(alpha, np.float64)
    solid = (alpha > _MINIMUM_ALPHA) & (depth > 0) & np.isfinite(depth)
    return np.divide(alpha, depth, out=np.zeros_like(depth), where=solid), solid


def error_picture(image: Any, target: Any) -> Float[np.ndarray, "h w 3"]:
    """Mean absolute difference over the channels as color: black 0, brightest `ERROR_RANGE` = 0.5 and more."""
    error = np.abs(np.asarray(image, np.float64) - np.asarray(target, np.float64)).mean(-1)
    return color_map(error / ERROR_RANGE)


def strip(pictures: Sequence[Any], captions: Sequence[str], *, gap: int = 4) -> np.ndarray:
    """Pictures of one size side by side on white, each with a caption below; uint8 (H', W', 3).

    Args:
      pictures: float in [0, 1] or uint8, (H, W, 3), all of one size.
      captions: as many short texts; what does not fit under its picture is cut off.
      gap: white pixels between the pictures.

    Raises:
      ValueError: if there are none, the sizes differ, or the captions are not as many.
    """
    tiles = [to_uint8(picture) for picture in pictures]
    if not tiles or len({tile.shape for tile in tiles}) != 1 or len(tiles) != len(captions):
        shapes = [tile.shape for tile in tiles]
        raise ValueError(f"need pictures of one size and a caption for each, got {shapes} and {len(captions)} captions")
    height, width = tiles[0].shape[:2]
    size = max(10, min(height, width) // 22)
    font = ImageFont.load_default(size)
    line = int(1.6 * size)
    canvas = Image.new("RGB", (len(tiles) * (width + gap) - gap, height + line), "white")
    for index, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        framed = Image.new("RGB", (width, height + line), "white")  # a tile of its own cuts its caption off
        framed.paste(Image.fromarray(tile))
        ImageDraw.Draw(framed).text((2, height + line // 2), caption, fill=(40, 40, 40), font=font, anchor="lm")
        canvas.paste(framed, (index * (width + gap), 0))
    return np.asarray(canvas)
