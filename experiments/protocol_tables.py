"""The tables of a protocol (protocol.py) from its JSON: averages over scenes beside the published ones, and each scene.

A seed's figure is the mean over scenes with equal weight; a method's is the mean ± standard deviation over seeds. AVGE
is taken of a seed's mean figures. The published LPIPS, and so AVGE, is the unscaled one (METHOD section 8).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from published import PUBLISHED, Published
from runs import mean_and_deviation

from ipsm_jax.metrics.pixelwise import average_error

Run = dict[str, Any]
FIGURES = {
    "ssim": ("SSIM", 3),
    "lpips_vgg_unscaled": ("LPIPS, unscaled", 3),
    "lpips_vgg": ("LPIPS", 3),
    "psnr": ("PSNR", 2),
    "avge": ("AVGE, unscaled", 3),
}
"""Columns: entry, title, digits."""


def tables(saved: dict[str, Any]) -> str:
    """Markdown of what a protocol's JSON holds: what is averaged, the averages, the scenes."""
    return "\n\n".join([*sentences(saved), average_table(saved), scene_table(saved)])


def complete_seeds(saved: dict[str, Any], method: str) -> list[int]:
    """Seeds for which every scene that is there is finished with this method: only these can be averaged."""
    seeds = {run["seed"] for run in saved["runs"] if run["method"] == method}
    return sorted(seed for seed in seeds if not _unfinished(saved, method, seed))


def average_over_scenes(saved: dict[str, Any], method: str, seed: int) -> dict[str, float | None]:
    """Mean figures of a complete seed; None if a scene does not have the figure."""
    runs = _runs(saved, method=method, seed=seed)
    means: dict[str, float | None] = {}
    for name in ("ssim", "lpips_vgg_unscaled", "lpips_vgg", "psnr"):
        values = [run[name] for run in runs]
        means[name] = None if None in values else float(np.mean(values))
    return means | {"avge": _average_error(means)}


def sentences(saved: dict[str, Any]) -> list[str]:
    """What has to be known before the averages are compared with anything."""
    present, missing, total = list(saved["folders"]), saved["missing"], len(saved["scenes"])
    lines = [f"{saved['title']}, {saved['views']} training views, {len(present)} of {total} scenes."]
    if missing:
        lines.append(
            f"**The averages are over {', '.join(present)} only and do not compare with the published ones, which are "
            f"over all {total}.** Missing: {', '.join(missing)}."
        )
    if saved["unmasked"]:
        lines.append(
            f"**{', '.join(saved['unmasked'])}: no object masks were found, so these figures are over whole pictures "
            "and do not compare with the published ones, which are over the object.**"
        )
    if saved["extra"]:
        lines.append(
            f"All trainings had further options, which may not be the published ones: {_code(saved['extra'])}."
        )
    lines += [f"{remark}." for remark in saved["remarks"]]
    for method in saved["methods"]:
        for seed in sorted({run["seed"] for run in saved["runs"]}):
            if unfinished := _unfinished(saved, method, seed):
                lines.append(f"{method}: seed {seed} is not averaged, {', '.join(unfinished)} is not finished.")
    return lines


def average_table(saved: dict[str, Any]) -> str:
    """Markdown: the published rows, each followed by ours of the same method; then our other methods."""
    published = PUBLISHED.get((saved["protocol"], saved["views"]), ())
    lines = _head(["method", *(title for title, _ in FIGURES.values()), "scenes", "seeds"])
    left = list(saved["methods"])
    for row in published:
        lines.append(_published_row(row, len(saved["scenes"])))
        if row.method is not None and row.method in left:
            left.remove(row.method)
            lines.append(_own_row(saved, row.method))
    return "\n".join([*lines, *(_own_row(saved, method) for method in left)])


def scene_table(saved: dict[str, Any]) -> str:
    """Markdown: each scene that is there, with each method."""
    lines = _head(["scene", "method", *(title for title, _ in FIGURES.values()), "seeds", "minutes"])
    for scene in saved["folders"]:
        for method in saved["methods"]:
            runs = [run | {"avge": _average_error(run)} for run in _runs(saved, method=method, scene=scene)]
            if runs:
                minutes = mean_and_deviation([run["minutes"] for run in runs], 1)
                lines.append(_row([scene, method, *_cells(runs), str(len(runs)), minutes]))
    return "\n".join(lines)


def _own_row(saved: dict[str, Any], method: str) -> str:
    seeds = complete_seeds(saved, method)
    scenes = f"{len(saved['folders'])} of {len(saved['scenes'])}"
    averages = [average_over_scenes(saved, method, seed) for seed in seeds]
    cells = _cells(averages) if averages else ["not finished"] * len(FIGURES)
    return _row([f"**ours: {method}**", *cells, scenes, str(len(seeds))])


def _published_row(row: Published, scenes: int) -> str:
    avge = "" if row.avge is None else f"{row.avge:.3f}"
    figures = [f"{row.ssim:.3f}", f"{row.lpips:.3f}", "", f"{row.psnr:.2f}", avge]
    return _row([f"{row.title} (published)", *figures, str(scenes), str(row.seeds or "")])


def _cells(figures: list[Run]) -> list[str]:
    return [mean_and_deviation([each[name] for each in figures], digits) for name, (_, digits) in FIGURES.items()]


def _average_error(means: dict[str, Any]) -> float | None:
    parts = [means[name] for name in ("psnr", "ssim", "lpips_vgg_unscaled")]
    return None if None in parts else float(average_error(*parts))


def _runs(saved: dict[str, Any], **wanted: Any) -> list[Run]:
    return [run for run in saved["runs"] if all(run[name] == value for name, value in wanted.items())]


def _unfinished(saved: dict[str, Any], method: str, seed: int) -> list[str]:
    return [scene for scene in saved["folders"] if not _runs(saved, method=method, seed=seed, scene=scene)]


def _code(options: list[str]) -> str:
    return f"`{' '.join(options)}`"


def _head(titles: list[str]) -> list[str]:
    return [_row(titles), "|" + "---|" * len(titles)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
