"""Photos from a video: the sharpest frame of each of several intervals of equal length."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Generator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from ipsm_jax.data.errors import DataError
from ipsm_jax.sfm.progress import Report

SUFFIXES = frozenset((".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".3gp"))
_JUDGED = 480  # pixels of the longer side at which sharpness is compared: noise counts less there


def is_video(path: Path) -> bool:
    """Whether this is a file called like a video."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


def sharpness(image: Image.Image) -> float:
    """Mean squared Laplacian of the gray values in [0, 1]: larger is sharper, for pictures of the same things."""
    shrink = min(1.0, _JUDGED / max(image.size))
    small = image.convert("L").resize((max(3, round(image.width * shrink)), max(3, round(image.height * shrink))))
    gray = np.asarray(small, np.float64) / 255
    middle = gray[1:-1, 1:-1]
    laplacian = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * middle
    return float(np.mean(laplacian**2))


def extract_frames(video: Path, folder: Path, frames: int, report: Report) -> list[Path]:
    """Write the sharpest frame of each of `frames` intervals as PNG; fewer where the video has fewer frames.

    Args:
      video: any file that ffmpeg reads; turned upright as the file says.
      folder: existing, for the pictures, which are called by the number of their frame in the video.
      frames: how many.
      report: told about the frames looked at.

    Raises:
      DataError: if the file cannot be decoded.
    """
    try:
        count, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[-200:]
        raise DataError(f"{video}: ffmpeg cannot read this as a video ({reason}); convert it to MP4") from error
    starts = np.linspace(0, count, min(frames, count) + 1)[:-1]
    written: list[Path] = []
    best: tuple[float, int, Image.Image] | None = None
    interval = 0
    with contextlib.closing(_decoded(video)) as decoded:
        for number, image in enumerate(decoded):
            report("looking at frames", number, count)
            here = int(np.searchsorted(starts, number, side="right")) - 1
            if here != interval and best is not None:
                written.append(_save(folder, best))
                best, interval = None, here
            score = sharpness(image)
            if best is None or score > best[0]:
                best = (score, number, image)
    if best is not None:
        written.append(_save(folder, best))
    if not written:
        raise DataError(f"{video}: there is no frame in this video")
    return written


def _decoded(video: Path) -> Generator[Image.Image, None, None]:
    """All frames, upright, each once. ffmpeg sends them as PPM, which says how large they are."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(video), "-map", "0:v:0"]
    command += ["-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", "ppm", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            while process.stdout.readline() == b"P6\n":
                width, height = (int(word) for word in process.stdout.readline().split())
                process.stdout.readline()  # the largest value, 255
                pixels = process.stdout.read(3 * width * height)
                if len(pixels) < 3 * width * height:
                    return  # the video ends in the middle of a frame
                yield Image.frombytes("RGB", (width, height), pixels)
        finally:
            process.kill()


def _save(folder: Path, best: tuple[float, int, Image.Image]) -> Path:
    path = folder / f"frame_{best[1]:06d}.png"
    best[2].save(path, compress_level=1)
    return path
