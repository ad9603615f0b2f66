"""How many pixels a frame may have, so that it does not take longer than somebody is willing to wait.

Every size is compiled once, so there are only a few: steps of half the pixels from the window's own size down.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SMALLEST = 128
"""Longer side of the smallest frame in pixels, about."""
GRAIN = 16
"""Sides are multiples of it: windows of nearly the same size share their compiled programs."""
MEMORY = 40
"""Frames after which a time is forgotten: it may be that of another view, or of a machine that was busy."""

_GUESS = 2e-7  # seconds per pixel, before any frame was drawn
_SMOOTHING = 0.5  # weight of a new time for a size beside what is known of it


def frame_sizes(width: int, height: int, largest: int) -> list[tuple[int, int]]:
    """Sizes of frames for a window, ascending; the last is the window's own, or as large as allowed.

    Args:
      width, height: of the window in pixels.
      largest: most pixels that the longer side may have.
    """
    scale = min(1.0, largest / max(width, height))
    sizes: list[tuple[int, int]] = []
    while not sizes or scale * max(width, height) >= SMALLEST:
        sizes.append((_rounded(width * scale), _rounded(height * scale)))
        scale /= np.sqrt(2)
    return sorted(set(sizes), key=_area)


def _rounded(side: float) -> int:
    return max(1, round(side / GRAIN)) * GRAIN


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


class Pace:
    """What frames have cost, and with that the size of the next one.

    A frame takes some time for its Gaussians and some for its pixels, so between two sizes with known times the time is
    interpolated; beyond the largest known size it is taken as proportional to the pixels, which is never too little.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}  # by number of pixels
        self._noted: dict[int, int] = {}  # when, in frames
        self._frames = 0

    def record(self, size: tuple[int, int], seconds: float) -> None:
        """A frame of this size took so long."""
        area = _area(size)
        self._frames += 1
        before = self._seconds.get(area, seconds)
        self._seconds[area] = before + _SMOOTHING * (seconds - before)
        self._noted[area] = self._frames
        for known in [a for a, frame in self._noted.items() if self._frames - frame > MEMORY]:
            del self._noted[known], self._seconds[known]

    def expected(self, size: tuple[int, int]) -> float:
        """Seconds that a frame of this size will take, about."""
        area = _area(size)
        if not self._seconds:
            return _GUESS * area
        areas = sorted(self._seconds)
        if area > areas[-1]:
            return self._seconds[areas[-1]] * area / areas[-1]
        return float(np.interp(area, areas, [self._seconds[a] for a in areas]))

    def choose(self, sizes: Sequence[tuple[int, int]], budget: float) -> tuple[int, int]:
        """The largest of some ascending sizes that takes at most `budget` seconds, or else the smallest."""
        affordable = [size for size in sizes if self.expected(size) <= budget]
        return affordable[-1] if affordable else sizes[0]
