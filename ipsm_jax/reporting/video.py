"""MP4 files that every browser and phone plays: H.264, yuv420p, even sides, index at the front."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import imageio.v2 as iio
import numpy as np

from ipsm_jax.reporting.files import atomic_write, to_uint8

_QUALITY = 18  # libx264's constant rate factor: 0 lossless, 18 visually so, 51 worst


def pad_to_even(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) with the last row or column repeated where a side is odd, which yuv420p cannot hold."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def write_video(path: str | os.PathLike, frames: Iterable[Any], *, fps: float = 30.0) -> None:
    """Encode frames as they come; the file appears when the last one is in.

    Args:
      path: ends in .mp4.
      frames: (H, W, 3) pictures of one size, float in [0, 1] or uint8; at least one.
      fps: frames per second > 0.

    Raises:
      ValueError: for no frames, frames of different shapes, an fps that is not positive, or another file ending.
    """
    if not str(path).endswith(".mp4"):
        raise ValueError(f"a video's name ends in .mp4, got {os.fspath(path)!r}")
    if not fps > 0:
        raise ValueError(f"a video needs a positive number of frames per second, got {fps}")
    shape: tuple[int, ...] | None = None
    with atomic_write(path) as temporary:
        writer = iio.get_writer(
            temporary,
            format="FFMPEG",
            fps=fps,
            codec="libx264",
            pixelformat="yuv420p",
            quality=None,
            macro_block_size=1,  # sides are padded here; imageio would rescale the picture instead
            ffmpeg_log_level="error",
            output_params=["-crf", str(_QUALITY), "-movflags", "+faststart"],
        )
        try:
            for frame in frames:
                pixels = to_uint8(frame)
                shape = pixels.shape if shape is None else shape
                if pixels.shape != shape or pixels.ndim != 3 or pixels.shape[2] != 3:
                    raise ValueError(
                        f"a video's frames are all (H, W, 3) of one size, got {pixels.shape} after {shape}"
                    )
                writer.append_data(pad_to_even(pixels))
        finally:
            writer.close()
        if shape is None:
            raise ValueError("a video needs at least one frame, got none")
