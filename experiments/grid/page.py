"""One page of a grid: tables, curves, and test views of any two methods under a slider."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import matplotlib

matplotlib.use("Agg")  # no display
import matplotlib.pyplot as plt
import numpy as np

from grid.ledger import STATES, Entry
from grid.tables import METRICS, Row, best_of, cell, mixed_versions
from ipsm_jax.reporting.files import atomic_write
from ipsm_jax.reporting.html_style import CSS
from ipsm_jax.training.recorder import read_log

_STYLE = """
.choose { display: flex; flex-wrap: wrap; gap: 10px; margin: 0 0 10px; }
.chart { margin-top: 12px; }
select { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--rule); border-radius: 6px; }
"""
_SCRIPT = """
for (const view of document.querySelectorAll(".view")) {
  const data = JSON.parse(view.querySelector("script").textContent);
  const [left, right, which] = view.querySelectorAll("select");
  const [under, over] = [view.querySelector(".under"), view.querySelector(".over")];
  const [leftTag, rightTag] = [view.querySelector(".left"), view.querySelector(".right")];
  const show = () => {
    const pictures = data[which.value];
    over.src = pictures[left.value]; under.src = pictures[right.value];
    leftTag.textContent = left.value; rightTag.textContent = right.value;
  };
  for (const menu of [left, right, which]) menu.addEventListener("change", show);
  const slider = view.querySelector("input");
  slider.addEventListener("input", () => slider.parentElement.style.setProperty("--at", slider.value + "%"));
  show();
}
"""


def write_page(folder: Path, entries: Sequence[Entry], rows: Sequence[Row]) -> Path:
    """Write <folder>/report.html, and the plots beside it; returns its path.

    Pictures are those of the first finished seed of each method; they stay where they are, in the run folders.
    """
    scenes = list(dict.fromkeys(entry.scene for entry in entries))
    counts = {state: sum(entry.state == state for entry in entries) for state in STATES}
    parts = [f"<h1>{len(entries)} runs</h1>"]
    parts.append(f'<p class="soft">{", ".join(f"{count} {state}" for state, count in counts.items() if count)}</p>')
    parts += [
        f"<p>{html.escape(Path(e.folder).name)}: {html.escape(e.error or '')}</p>"
        for e in entries
        if e.state == "failed"
    ]
    parts += ["<h2>Figures</h2>", _table(rows)]
    if (warning := mixed_versions(rows)) is not None:
        parts.append(f'<p class="soft">{html.escape(warning)}</p>')
    plots = {"figures.png": plot_figures(rows), "curves.png": plot_curves(entries)}
    for name, figure in plots.items():
        with atomic_write(folder / name) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
        plt.close(figure)
        parts.append(f'<figure class="chart"><img src="{name}" alt="{name}"></figure>')
    for scene in scenes:
        parts += [f"<h2>{html.escape(Path(scene).name)}</h2>", _comparison(folder, scene, entries)]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Grid</title>'
        f"<style>{CSS}{_STYLE}</style></head>\n<body><main>{''.join(parts)}</main><script>{_SCRIPT}</script></body></html>\n"
    )
    path = folder / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _table(rows: Sequence[Row]) -> str:
    titles = ["scene", "method", "seeds", *(title for title, *_ in METRICS.values())]
    body = []
    for row in rows:
        cells = [html.escape(Path(row.scene).name), html.escape(row.method), str(len(row.seeds))]
        for name in METRICS:
            text = cell(row, name, " ± ")
            cells.append(f"<b>{text}</b>" if name in row.values and best_of(rows, row, name) else text)
        body.append(f"<tr>{''.join(f'<td>{text}</td>' for text in cells)}</tr>")
    head = "".join(f"<th>{title}</th>" for title in titles)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _comparison(folder: Path, scene: str, entries: Sequence[Entry]) -> str:
    """Menus for two methods (or the photo) and a view, and a slider between their pictures."""
    pictures: dict[str, dict[str, str]] = {}
    for entry in entries:
        if entry.scene != scene or entry.state != "finished":
            continue
        renders = Path(entry.folder) / "renders"
        for photo in sorted(renders.glob("*_gt.png")):
            view = photo.name.removesuffix("_gt.png")
            of_view = pictures.setdefault(view, {"photo": _address(photo, folder)})
            of_view.setdefault(entry.method, _address(renders / f"{view}.png", folder))
    if not pictures:
        return '<p class="soft">No pictures of test views yet.</p>'
    names = list(next(iter(pictures.values())))

    def menu(label: str, options: Sequence[str], chosen: str) -> str:
        items = "".join(
            f"<option{' selected' if option == chosen else ''}>{html.escape(option)}</option>" for option in options
        )
        return f'<select aria-label="{label}">{items}</select>'

    menus = (
        menu("left", names, names[-1])
        + menu("right", names, "photo")
        + menu("view", list(pictures), next(iter(pictures)))
    )
    data = json.dumps(pictures).replace("</", "<\\/")
    return (
        f'<section class="view"><div class="choose">{menus}</div>'
        f'<script type="application/json">{data}</script>'
        '<div class="compare"><div class="frame"><img class="under" alt="right"><img class="over" alt="left"></div>'
        '<span class="tag left"></span><span class="tag right"></span>'
        '<input type="range" min="0" max="100" step="0.1" value="50" aria-label="Compare">'
        '<div class="bar"></div></div></section>'
    )


def _address(path: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def plot_figures(rows: Sequence[Row]) -> plt.Figure:
    """PSNR, SSIM and LPIPS of every row: a dot per seed and a bar at the mean."""
    names = [name for name in ("psnr", "ssim", "lpips_vgg") if any(name in row.values for row in rows)]
    figure, axes = plt.subplots(
        1,
        max(1, len(names)),
        figsize=(4.6 * max(1, len(names)), 1.2 + 0.28 * len(rows)),
        squeeze=False,
        layout="constrained",
    )
    for axis, name in zip(axes[0], names, strict=False):
        for place, row in enumerate(rows):
            values = row.values.get(name, [])
            axis.plot(values, [place] * len(values), "o", color="#2f6f9f", alpha=0.5, markersize=4)
            if values:
                axis.plot([np.mean(values)] * 2, [place - 0.3, place + 0.3], color="#b4472e", linewidth=2)
        labels = [f"{Path(row.scene).name}, {row.method}" for row in rows]
        axis.set_yticks(range(len(rows)), labels if name == names[0] else [""] * len(rows), fontsize=8)
        axis.invert_yaxis()
        axis.set_title(METRICS[name][0], fontsize=10)
        axis.grid(axis="x", alpha=0.2)
    return figure


def plot_curves(entries: Sequence[Entry]) -> plt.Figure:
    """PSNR of the training views over iterations, a line per run, a color per method, a picture per scene."""
    scenes, methods = (list(dict.fromkeys(getattr(entry, name) for entry in entries)) for name in ("scene", "method"))
    columns = min(3, len(scenes))
    rows = -(-len(scenes) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(13.8, 3.4 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(scenes) :]:
        axis.set_axis_off()
    colors = {method: f"C{i % 10}" for i, method in enumerate(methods)}
    for axis, scene in zip(axes.flat, scenes, strict=False):
        for entry in (entry for entry in entries if entry.scene == scene):
            points = [(line["iteration"], line["psnr"]) for line in read_log(Path(entry.folder)) if "psnr" in line]
            axis.plot(
                [x for x, _ in points], [y for _, y in points], color=colors[entry.method], alpha=0.7, linewidth=1
            )
        axis.set_title(f"{Path(scene).name}: PSNR of training views", fontsize=10)
        axis.set_xlabel("iteration", fontsize=8)
        axis.grid(alpha=0.2)
    handles = [plt.Line2D([], [], color=colors[method], label=method) for method in methods]
    figure.legend(handles=handles, fontsize=8, loc="outside right upper")
    return figure
