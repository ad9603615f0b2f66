"""Tables of a ledger: per scene and over all scenes, mean ± std over seeds, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from grid.ledger import Entry

METRICS = {
    "psnr": ("PSNR", 2, True),
    "ssim": ("SSIM", 3, True),
    "lpips_vgg": ("LPIPS (VGG)", 3, False),
    "lpips_vgg_unscaled": ("LPIPS, unscaled", 3, False),
    "avge": ("AVGE", 3, False),
}
"""Columns: title, digits, and whether more is better."""
ALL = "all scenes"
UP, DOWN = r"\uparrow", r"\downarrow"


class Row(NamedTuple):
    """A method on a scene, or the average of all scenes.

    Attributes:
      values: by metric, one for each seed; an average has the seeds that every scene has.
      seeds: of the values.
      unfinished: how many of its runs are not finished.
    """

    scene: str
    method: str
    values: dict[str, list[float]]
    seeds: list[int]
    unfinished: int


def rows_of(entries: Sequence[Entry]) -> list[Row]:
    """Rows scene by scene, methods in the order in which they were planned; at the end the averages, if several scenes.

    A metric that a run lacks leaves the whole row without it, for a mean of the others would be of something else.
    """
    scenes, methods = (list(dict.fromkeys(getattr(entry, name) for entry in entries)) for name in ("scene", "method"))
    rows = []
    for scene in scenes:
        for method in methods:
            mine = [entry for entry in entries if (entry.scene, entry.method) == (scene, method)]
            if mine:
                rows.append(_row(scene, method, mine))
    if len(scenes) > 1:
        rows += [_average(method, [row for row in rows if row.method == method], len(scenes)) for method in methods]
    return rows


def _row(scene: str, method: str, entries: list[Entry]) -> Row:
    done = [entry for entry in entries if entry.state == "finished" and entry.metrics is not None]
    values = {}
    for name in METRICS:
        found = [entry.metrics.get(name) for entry in done if entry.metrics is not None]
        if found and None not in found:
            values[name] = found
    return Row(scene, method, values, [entry.seed for entry in done], len(entries) - len(done))


def _average(method: str, rows: list[Row], scenes: int) -> Row:
    """Equal weight for every scene, seed by seed."""
    common = sorted(set.intersection(*(set(row.seeds) for row in rows))) if len(rows) == scenes else []
    values = {
        name: [float(np.mean([row.values[name][row.seeds.index(seed)] for row in rows])) for seed in common]
        for name in METRICS
        if common and all(name in row.values for row in rows)
    }
    return Row(ALL, method, values, common, sum(row.unfinished for row in rows))


def best_of(rows: Sequence[Row], row: Row, name: str) -> bool:
    """Whether the row has the best mean of its scene's."""
    means = [np.mean(other.values[name]) for other in rows if other.scene == row.scene and name in other.values]
    return len(means) > 1 and np.mean(row.values[name]) == (max(means) if METRICS[name][2] else min(means))


def cell(row: Row, name: str, between: str) -> str:
    """'mean ± std', without ± for a single seed, or a dash where a figure is missing."""
    if name not in row.values:
        return "-"
    values, digits = row.values[name], METRICS[name][1]
    text = f"{np.mean(values):.{digits}f}"
    return f"{text}{between}{np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else text


def markdown(rows: Sequence[Row]) -> str:
    """The best mean of each scene is bold."""
    lines = [f"| scene | method | seeds | {' | '.join(title for title, *_ in METRICS.values())} |"]
    lines.append("|" + "---|" * (len(METRICS) + 3))
    for row in rows:
        seeds = f"{len(row.seeds)}" + (f" ({row.unfinished} runs unfinished)" if row.unfinished else "")
        cells = [cell(row, name, " ± ") for name in METRICS]
        marked = [
            f"**{text}**" if name in row.values and best_of(rows, row, name) else text
            for name, text in zip(METRICS, cells, strict=True)
        ]
        lines.append(f"| {' | '.join([row.scene, row.method, seeds, *marked])} |")
    return "\n".join(lines)


def latex(rows: Sequence[Row]) -> str:
    """A tabular for the package booktabs; arrows show which way is better."""
    arrows = [f"{title} ${UP if more else DOWN}$" for title, _, more in METRICS.values()]
    head = " & ".join(["scene", "method", *arrows])
    lines = [rf"\begin{{tabular}}{{ll{'c' * len(METRICS)}}}", r"\toprule", head + r" \\"]
    scene = None
    for row in rows:
        if row.scene != scene:
            lines.append(r"\midrule")
        cells = []
        for name in METRICS:
            text = cell(row, name, r" $\pm$ ") if name in row.values else "--"
            cells.append(rf"\textbf{{{text}}}" if name in row.values and best_of(rows, row, name) else text)
        names = ["" if row.scene == scene else row.scene, row.method]
        lines.append(" & ".join([*(name.replace("_", r"\_") for name in names), *cells]) + r" \\")
        scene = row.scene
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def comma_separated(entries: Sequence[Entry]) -> str:
    """CSV, a line per run, every figure in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    facts = ("gaussians", "seconds_of_batch", "runs_in_batch", "predicted_mib", "peak_memory_mib")
    writer.writerow(["scene", "method", "seed", "state", *METRICS, *facts, "hash", "folder"])
    for entry in entries:
        metrics, known = entry.metrics or {}, entry.facts or {}
        figures = [*(metrics.get(name) for name in METRICS), *(known.get(name) for name in facts)]
        writer.writerow([entry.scene, entry.method, entry.seed, entry.state, *figures, entry.hash, entry.folder])
    return text.getvalue()
