"""MP4 files that every browser and phone plays: H.264, yuv420p, even sides, index at the front.

The ffmpeg that imageio-ffmpeg brings is started directly: its own helper forks with Python code running in the child,
which may deadlock beside the threads of JAX.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np

from ipsm_jax.reporting.files import atomic_write, to_uint8

_QUALITY = 18  # libx264's constant rate factor: 0 lossless, 18 visually so, 51 worst


class VideoError(RuntimeError):
    """The encoder failed; the message holds what it said."""


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
      VideoError: if the encoder fails, for example because the disk is full.
    """
    if not str(path).endswith(".mp4"):
        raise ValueError(f"a video's name ends in .mp4, got {os.fspath(path)!r}")
    if not fps > 0:
        raise ValueError(f"a video needs a positive number of frames per second, got {fps}")
    remaining = (to_uint8(frame) for frame in frames)
    first = next(remaining, None)
    if first is None:
        raise ValueError("a video needs at least one frame, got none")
    if first.ndim != 3 or first.shape[2] != 3:
        raise ValueError(f"a video's frames are (H, W, 3), got {first.shape}")
    with atomic_write(path) as temporary, tempfile.TemporaryFile() as messages:
        encoder = _start_encoder(temporary, pad_to_even(first).shape, fps, messages)
        assert encoder.stdin is not None
        try:
            encoder.stdin.write(pad_to_even(first).tobytes())
            for number, frame in enumerate(remaining, start=1):
                if frame.shape != first.shape:
                    raise ValueError(f"frame {number} has shape {frame.shape}, the ones before it {first.shape}")
                encoder.stdin.write(pad_to_even(frame).tobytes())
            encoder.stdin.close()
            failed = encoder.wait() != 0
        except BrokenPipeError:  # it stopped reading: what it said tells why
            failed = True
        finally:
            encoder.kill()
            encoder.communicate()
        if failed:
            messages.seek(0)
            said = messages.read().decode("utf-8", "replace").strip()
            raise VideoError(f"writing {path} failed, ffmpeg says: {said or 'nothing'}")


def _start_encoder(path: Path, shape: tuple[int, ...], fps: float, messages: Any) -> subprocess.Popen[bytes]:
    """Ffmpeg, reading raw RGB frames from its standard input."""
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{shape[1]}x{shape[0]}", "-r", f"{fps:g}", "-i", "-"]
    result = ["-an", "-c:v", "libx264", "-crf", str(_QUALITY), "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    return subprocess.Popen(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source, *result, os.fspath(path.absolute())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=messages,
        start_new_session=True,  # Ctrl-C is for this program, which then stops the encoder
    )
