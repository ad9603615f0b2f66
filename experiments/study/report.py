"""Tables, curves and pictures of the study, made from the result.json of its batches and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import matplotlib

matplotlib.use("Agg")  # no display
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from runs import mean_and_deviation

from ipsm_jax.reporting.files import atomic_write, write_png
from ipsm_jax.reporting.pictures import strip
from study.claims import CLAIMS, LEVEL, judge
from study.methods import METHODS, SCHEDULE, published

COLUMNS = {
    "psnr": ("PSNR", 2),
    "ssim": ("SSIM", 3),
    "lpips_vgg": ("LPIPS (VGG)", 3),
    "lpips_vgg_unscaled": ("LPIPS, unscaled", 3),
}
"""Figures by name: title and digits."""
COLORS = dict(zip(METHODS, ("#444444", "#e08214", "#b2182b", "#7fbf7b", "#1b7837", "#762a83"), strict=True))
"""Of the methods, in all pictures."""

TESTS = (
    f"Differences are taken seed by seed. A star, like a verdict, is a paired t test's at {LEVEL:.0%}, each for "
    f"itself: one in {1 / LEVEL:.0f} tells a difference where there is none."
)

Results = dict[str, dict[str, dict[str, Any]]]
"""result.json by scene and method."""


def read_results(folder: Path, scenes: Sequence[str], methods: Sequence[str]) -> Results:
    """The batches that are there."""
    return {
        scene: {
            method: json.loads(path.read_text())
            for method in methods
            if (path := folder / scene / method / "result.json").exists()
        }
        for scene in scenes
    }


def write_study(folder: Path, scenes: Sequence[str], methods: Sequence[str]) -> str:
    """Write study.md, curves.png and modes_<scene>.png; returns the text of study.md."""
    results = read_results(folder, scenes, methods)
    parts = [published_table(methods), SCHEDULE, TESTS]
    for scene, batches in results.items():
        parts += [f"## {scene}", facts(batches), figures_table(batches), claims_table(batches)]
        write_png(folder / f"modes_{scene}.png", modes_picture(folder, scene, list(batches)))
    figure = curves(results)
    with atomic_write(folder / "curves.png") as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
    text = "\n\n".join(parts) + "\n"
    with atomic_write(folder / "study.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def figures_table(batches: dict[str, dict[str, Any]]) -> str:
    """Markdown: figures at the end of training, mean ± std over seeds, and the difference to Base, starred if told."""
    titles = ["method", *(title for title, _ in COLUMNS.values()), "PSNR - Base", "Gaussians", "seconds"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for method, result in batches.items():
        last = result["looks"][-1]
        cells = [METHODS[method].title]
        cells += [mean_and_deviation(last[name], digits) for name, (_, digits) in COLUMNS.items()]
        difference = ""
        if method != "base" and "base" in batches:
            base = batches["base"]["looks"][-1]["psnr"]
            verdict = judge(last["psnr"], base)
            difference = mean_and_deviation(verdict.gains, 2, "+") + (" *" if verdict.told else "")
        cells += [difference, f"{np.mean(last['gaussians']):.0f}", f"{result['seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def published_table(methods: Sequence[str]) -> str:
    """Markdown: the paper's figures of the methods, on LLFF with 3 views and Stable Diffusion."""
    lines = ["| the paper, LLFF, 3 views | PSNR | SSIM | LPIPS, unscaled | PSNR - Base |", "|---|---|---|---|---|"]
    base = published("base")
    for method in methods:
        found = published(method)
        cells = [METHODS[method].title]
        if found is None or base is None:
            cells += ["not published"] * 4
        else:
            cells += [f"{found.psnr:.2f}", f"{found.ssim:.3f}", f"{found.lpips:.3f}", f"{found.psnr - base.psnr:+.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def claims_table(batches: dict[str, dict[str, Any]]) -> str:
    """Markdown: what paper and code say of each pair of methods, what is seen here, and whether that agrees."""
    lines = ["| claim | the paper's PSNR | here | agrees |", "|---|---|---|---|"]
    for claim in CLAIMS:
        if claim.better not in batches or claim.worse not in batches:
            continue
        verdict = judge(*(batches[method]["looks"][-1]["psnr"] for method in (claim.better, claim.worse)))
        theirs = "not given" if claim.published is None else f"{claim.published:+.2f}"
        lines.append(f"| {claim.text} | {theirs} | {mean_and_deviation(verdict.gains, 2, '+')} | {verdict.word} |")
    return "\n".join(lines)


def facts(batches: dict[str, dict[str, Any]]) -> str:
    """A sentence on what the figures were made with."""
    if not batches:
        return "Nothing was trained."
    first = next(iter(batches.values()))
    weights = ", ".join(f"{term} {value:g}" for term, value in first["guidance_weights"].items())
    return (
        f"{first['width']}x{first['height']} pixels, {first['iterations']} iterations, {first['seeds']} seeds in one "
        f"program, prior {first['prior']}, weights {weights}. Seconds are of all seeds together, without measuring. "
        f"{first['points']}{_what_cancels(batches)}"
    )


def _what_cancels(batches: dict[str, dict[str, Any]]) -> str:
    """The paper's sign makes G1 and G2 of equal weights g (e_i - e) + g (e_p - e_i) = g (e_p - e), which is SDS."""
    if (result := batches.get("ipsm-paper-sign")) is None:
        return ""
    weights = result["guidance_weights"]
    if weights["g1"] != weights["g2"]:
        return ""
    return (
        f" With equal weights, the inpainting model cancels out of {METHODS['ipsm-paper-sign'].title}: what is left is "
        f"SDS with weight {weights['g1']:g}, ramped."
    )


def curves(results: Results) -> Figure:
    """PSNR, SSIM and LPIPS over iterations: a row per scene, a line per method, a band of one standard deviation."""
    names = list(COLUMNS)[:3]
    figure, axes = plt.subplots(
        len(results), len(names), figsize=(4.2 * len(names), 3.0 * len(results)), squeeze=False, layout="constrained"
    )
    for row, (scene, batches) in zip(axes, results.items(), strict=True):
        for axis, name in zip(row, names, strict=True):
            for method, result in batches.items():
                looks = [look for look in result["looks"] if None not in look[name]]
                xs = [look["iteration"] for look in looks]
                values = np.array([look[name] for look in looks])
                mean, spread = values.mean(1), values.std(1, ddof=min(1, values.shape[1] - 1))
                axis.plot(xs, mean, color=COLORS[method], label=METHODS[method].title)
                axis.fill_between(xs, mean - spread, mean + spread, color=COLORS[method], alpha=0.15, linewidth=0)
            axis.set_title(f"{scene}: {COLUMNS[name][0]}", fontsize=10)
            axis.set_xlabel("iteration", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.2)
    handles = {line.get_label(): line for axis in axes[:, 0] for line in axis.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles) or 1, fontsize=8)
    return figure


def modes_picture(folder: Path, scene: str, methods: Sequence[str]) -> np.ndarray:
    """What became of the same test views: a row per view, a column per method, the first seed."""
    names = sorted(path.name for path in (folder / scene / methods[0]).glob("run0_*.png"))
    rows = []
    for name in names[:3]:
        pictures = [iio.imread(folder / scene / method / name) for method in methods]
        rows.append(strip(pictures, [METHODS[method].title for method in methods]))
    return np.concatenate(rows)
