"""The figure of toy_modes.py, drawn from its JSON: a panel per method, the class's density below the trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ipsm_jax.reporting.files import atomic_write

VIEW = 11.0  # the panels show coordinates from -VIEW to VIEW
PANEL, CAPTION, LEGEND, GAP, COLUMNS = 440, 58, 40, 12, 3  # in pixels of the file
FINER = 2  # drawn so many times larger, then reduced
SHADES = 7
INK, GRAY, WARP = (30, 32, 38), (110, 114, 122), (214, 140, 20)
COLORS = ((120, 90, 200), (60, 100, 210), (20, 140, 190), (20, 140, 80), (190, 60, 110), (205, 70, 40))
"""One for each method, in order."""
END_COLORS = {"target": (20, 150, 70), "failure": (205, 40, 40), "elsewhere": (20, 20, 20)}


class Canvas(NamedTuple):
    """A panel of PANEL pixels and where it is in the figure."""

    draw: ImageDraw.ImageDraw
    left: int
    top: int

    def at(self, point: Any) -> tuple[float, float]:
        """Pixels of a point; the second coordinate points up."""
        scale = FINER * PANEL / (2 * VIEW)
        return self.left + (point[0] + VIEW) * scale, self.top + (VIEW - point[1]) * scale

    def dot(self, point: Any, radius: float, fill: Any, outline: Any = None) -> None:
        x, y = self.at(point)
        radius *= FINER
        self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=outline, width=FINER)


def draw_modes(path: Path, setting: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Draw the saved paths of each result into one picture, three panels a row.

    Args:
      path: of the PNG.
      setting: the entry of that name in the JSON.
      results: of one world, with paths.
    """
    rows = -(-len(results) // COLUMNS)
    width = COLUMNS * PANEL + (COLUMNS + 1) * GAP
    height = rows * (PANEL + CAPTION + GAP) + GAP + LEGEND
    figure = Image.new("RGB", (width * FINER, height * FINER), "white")
    background = _density(setting)
    for i, result in enumerate(results):
        left = FINER * (GAP + i % COLUMNS * (PANEL + GAP))
        top = FINER * (GAP + CAPTION + i // COLUMNS * (PANEL + CAPTION + GAP))
        panel = background.copy()
        _draw_paths(Canvas(ImageDraw.Draw(panel), 0, 0), setting, result, COLORS[i % len(COLORS)])
        figure.paste(panel, (left, top))
        draw = ImageDraw.Draw(figure)
        draw.rectangle((left, top, left + PANEL * FINER, top + PANEL * FINER), outline=GRAY, width=FINER)
        _write(draw, (left, top - 55 * FINER), result["method"], 24, COLORS[i % len(COLORS)])
        shares = {name: 100 * np.mean([ends[name] for ends in result["seeds"]]) for name in END_COLORS}
        position: float = left
        for name, share in shares.items():
            text = f"{name} {share:.0f} %     "
            _write(draw, (position, top - 27 * FINER), text, 20, END_COLORS[name])
            position += draw.textlength(text, ImageFont.load_default(20 * FINER))
    _draw_legend(Canvas(ImageDraw.Draw(figure), 0, 0), (height - LEGEND) * FINER)
    with atomic_write(path) as temporary:
        small = figure.resize((width, height), Image.Resampling.LANCZOS)
        small.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(temporary, optimize=True)


def _density(setting: dict[str, Any]) -> Image.Image:
    """The density of the prompt's class as contours, each a factor of e below the one inside it."""
    size = PANEL * FINER
    axis = (np.arange(size) + 0.5) / size * 2 * VIEW - VIEW
    total = np.zeros((size, size))
    for mean, deviation, weight in zip(
        setting["means"], setting["deviations"][: len(setting["means"])], setting["weights"][: len(setting["means"])],
        strict=True,
    ):  # fmt: skip
        squares = ((axis - mean[0]) / deviation[0]) ** 2 + ((-axis[:, None] - mean[1]) / deviation[1]) ** 2
        total += weight / (deviation[0] * deviation[1]) * np.exp(-0.5 * squares)
    levels = np.clip(np.floor(np.log(total / total.max() + 1e-300)) + SHADES, 0, SHADES).astype(int)
    shades = np.linspace((250, 251, 253), (176, 188, 208), SHADES + 1).round().astype(np.uint8)[levels]
    edge = (levels != np.roll(levels, 1, 0)) | (levels != np.roll(levels, 1, 1))
    shades[edge] = (160, 170, 188)
    return Image.fromarray(shades)


def _draw_paths(canvas: Canvas, setting: dict[str, Any], result: dict[str, Any], color: tuple[int, ...]) -> None:
    seen, error = setting["means"][0][0], setting["warp_error"]
    if "IPSM" in result["method"]:  # SDS does not get to see the warped photo
        for x in (seen - error, seen + error):
            canvas.draw.line((canvas.at((x, VIEW)), canvas.at((x, -VIEW))), fill=WARP, width=FINER)
    mean, deviation = setting["other_means"][result["world"]], setting["deviations"][-1]
    corners = [canvas.at((mean[0] + s * deviation[0], mean[1] - s * deviation[1])) for s in (-3, 3)]
    canvas.draw.ellipse([*corners[0], *corners[1]], outline=GRAY, width=FINER)
    _write(canvas.draw, canvas.at(mean), "not the\nprompt", 18, GRAY, anchor="mm")
    pale = tuple(round(0.45 * c + 0.55 * 255) for c in color)
    for path in result["paths"]:
        canvas.draw.line([canvas.at(point) for point in path], fill=pale, width=2 * FINER, joint="curve")
    for path in result["paths"]:
        canvas.dot(path[0], 2.5, "white", color)
    for path in result["paths"]:
        canvas.dot(path[-1], 4.5, color, "white")
    for kind, mean, deviation in zip(setting["kinds"], setting["means"], setting["deviations"], strict=False):
        x, y = canvas.at((mean[0], mean[1] + 3 * deviation[1]))
        _write(canvas.draw, (x, y - 26 * FINER), kind, 20, END_COLORS[kind], anchor="ma")


def _draw_legend(canvas: Canvas, top: float) -> None:
    x, middle = float(FINER * GAP), top + FINER * (LEGEND - GAP) / 2
    draw = canvas.draw

    def text(words: str) -> None:
        nonlocal x
        x += 12 * FINER
        _write(draw, (x, middle), words, 20, INK, anchor="lm")
        x += draw.textlength(words, ImageFont.load_default(20 * FINER)) + 30 * FINER

    def circle(radius: float, fill: Any, outline: Any) -> None:
        nonlocal x
        draw.ellipse((x, middle - radius, x + 2 * radius, middle + radius), fill=fill, outline=outline, width=FINER)
        x += 2 * radius

    circle(4 * FINER, "white", INK)
    text("start")
    circle(6 * FINER, INK, "white")
    text("end")
    draw.rectangle((x, middle - 9 * FINER, x + 24 * FINER, middle + 9 * FINER), fill=(176, 188, 208), outline=GRAY)
    x += 24 * FINER
    text("density of the prompt's class")
    for offset in (0, 8 * FINER):
        draw.line((x + offset, middle - 10 * FINER, x + offset, middle + 10 * FINER), fill=WARP, width=2 * FINER)
    x += 8 * FINER
    text("what the warped photo shows, ± its error")


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], words: str, size: int, color: Any, anchor: str = "la"
) -> None:
    draw.text(at, words, fill=color, font=ImageFont.load_default(size * FINER), anchor=anchor)
