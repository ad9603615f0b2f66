"""Training curves as small SVG pictures to stand inside an HTML page, which needs lines and not a plotting library."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 30
_MOST_POINTS = 300


class Series(NamedTuple):
    """One line of a chart: xs ascending; values that are not finite are left out; `marks` draws dots at the points."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    marks: bool = False


def nice_ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers (1, 2 or 5 times a power of ten apart) from the range [low, high], low < high."""
    widest = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(widest))
    step = max(factor * power for factor in (1, 2, 5) if factor * power <= widest * 1.001)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def compact_number(value: float) -> str:
    """A tick's label: 12000 -> 12k, 2500000 -> 2.5M, 0.05 -> 0.05."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def thin_out(series: Series, most: int = _MOST_POINTS) -> Series:
    """The same line with at most `most` points, each the mean of a run of neighbors."""
    xs, ys = np.asarray(series.xs, np.float64), np.asarray(series.ys, np.float64)
    keep = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[keep], ys[keep]
    if len(xs) > most:
        runs = np.array_split(np.arange(len(xs)), most)
        xs, ys = (np.array([values[run].mean() for run in runs]) for values in (xs, ys))
    return series._replace(xs=xs.tolist(), ys=ys.tolist())


def line_chart(title: str, series: Sequence[Series]) -> str:
    """An SVG element with the lines over one pair of axes, x from 0; empty text if no line has a finite point.

    Colors come from the page: line number i has the class ``line-i``.
    """
    lines = [thin for thin in map(thin_out, series) if len(thin.xs)]
    if not lines:
        return ""
    x_low, x_high = _widened(min(0.0, *(min(s.xs) for s in lines)), max(max(s.xs) for s in lines), margin=0.0)
    y_low, y_high = _widened(min(min(s.ys) for s in lines), max(max(s.ys) for s in lines), margin=0.05)

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)

    parts = []
    for tick in nice_ticks(y_low, y_high):
        _, y = at(x_low, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 3.5}" text-anchor="end">{compact_number(tick)}</text>')
    for tick in nice_ticks(x_low, x_high):
        x, _ = at(tick, y_low)
        parts.append(f'<text x="{x}" y="{_HEIGHT - 10}" text-anchor="middle">{compact_number(tick)}</text>')
    for index, line in enumerate(lines):
        points = [at(x, y) for x, y in zip(line.xs, line.ys, strict=True)]
        path = " ".join(f"{x},{y}" for x, y in points)
        parts.append(f'<polyline class="line-{index}" points="{path}"/>')
        if line.marks or len(points) == 1:
            parts += [f'<circle class="line-{index}" cx="{x}" cy="{y}" r="2.6"/>' for x, y in points]
    legend = "".join(
        f'<span class="key line-{index}">{html.escape(line.label)}</span>'
        for index, line in enumerate(lines)
        if line.label
    )
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}{legend}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
        "</figure>"
    )


def _widened(low: float, high: float, margin: float) -> tuple[float, float]:
    """The range with a margin (a fraction of it), and never empty."""
    if high > low:
        return low - margin * (high - low), high + margin * (high - low)
    half = abs(low) * 0.1 or 1.0
    return low - half, high + half
