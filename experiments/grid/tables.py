"""Tables of a ledger: per scene and over all scenes, mean ± std over seeds, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from runs import mean_and_deviation

from grid.identity import settings_of
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
      versions: of the program that trained the finished ones, each once.
    """

    scene: str
    method: str
    values: dict[str, list[float]]
    seeds: list[int]
    unfinished: int
    versions: list[str]


def told_apart(entries: Sequence[Entry]) -> list[Entry]:
    """Entries of the same method with different settings get names that say so: "base (iterations=1000)".

    A prior with other weights is another setting too. Otherwise one row would be the mean of different things. What
    differs on one scene is named on all, so that the average finds the same names.
    """
    settings = [settings_of(entry.config) for entry in entries]
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry, own in zip(entries, settings, strict=True):
        rows.setdefault((entry.method, entry.scene), []).append(own)
    differing: dict[str, dict[str, None]] = {}
    for (method, _), row in rows.items():
        names = dict.fromkeys(name for own in row for name in own)
        several = {name: None for name in names if any(own.get(name) != row[0].get(name) for own in row)}
        differing[method] = differing.get(method, {}) | several
    named = []
    for entry, own in zip(entries, settings, strict=True):
        parts = [f"{name}={own.get(name, 'unknown')}" for name in differing[entry.method]]
        named.append(entry._replace(method=f"{entry.method} ({', '.join(parts)})" if parts else entry.method))
    return named


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
        found = [value for entry in done if entry.metrics and (value := entry.metrics.get(name)) is not None]
        if found and len(found) == len(done):
            values[name] = found
    versions = dict.fromkeys(_version(entry.environment) for entry in done if entry.environment)
    return Row(scene, method, values, [entry.seed for entry in done], len(entries) - len(done), sorted(versions))


def _version(environment: Mapping[str, Any]) -> str:
    """Of the package, with the revision of its sources where these are known; + if they were changed."""
    revision = environment["git"] or ""
    short = revision[:8] + ("+" if revision.endswith("+") else "")
    return f"{environment['ipsm_jax']} ({short})" if short else environment["ipsm_jax"]


def _average(method: str, rows: list[Row], scenes: int) -> Row:
    """Equal weight for every scene, seed by seed."""
    common = sorted(set.intersection(*(set(row.seeds) for row in rows))) if len(rows) == scenes else []
    values = {
        name: [float(np.mean([row.values[name][row.seeds.index(seed)] for row in rows])) for seed in common]
        for name in METRICS
        if common and all(name in row.values for row in rows)
    }
    versions = sorted({version for row in rows for version in row.versions})
    return Row(ALL, method, values, common, sum(row.unfinished for row in rows), versions)


def mixed_versions(rows: Sequence[Row]) -> str | None:
    """A line on the rows whose runs are of several versions of the program; None if there are none."""
    mixed = [f"{row.scene} {row.method}: {', '.join(row.versions)}" for row in rows if len(row.versions) > 1]
    return f"Runs of different versions of ipsm_jax are averaged here: {'; '.join(mixed)}." if mixed else None


def best_of(rows: Sequence[Row], row: Row, name: str) -> bool:
    """Whether the row has the best mean of its scene's."""
    means = [np.mean(other.values[name]) for other in rows if other.scene == row.scene and name in other.values]
    return len(means) > 1 and np.mean(row.values[name]) == (max(means) if METRICS[name][2] else min(means))


def cell(row: Row, name: str, between: str) -> str:
    """'mean ± std', without ± for a single seed, or a dash where a figure is missing."""
    if name not in row.values:
        return "-"
    return mean_and_deviation(row.values[name], METRICS[name][1], between=between)


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
    facts = ("gaussians", "seconds_of_batch", "runs_in_batch", "predicted_mib", "taken_mib")
    writer.writerow(["scene", "method", "seed", "state", *METRICS, *facts, "hash", "folder"])
    for entry in entries:
        metrics, known = entry.metrics or {}, entry.facts or {}
        figures = [*(metrics.get(name) for name in METRICS), *(known.get(name) for name in facts)]
        writer.writerow([entry.scene, entry.method, entry.seed, entry.state, *figures, entry.hash, entry.folder])
    return text.getvalue()
