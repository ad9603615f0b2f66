"""Trainings for tables, each in a process of its own, finished ones not done again; and their figures."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ipsm_jax.config import ConfigError, check_resumable, load_config, parse_command_line
from ipsm_jax.training.recorder import read_log

METRICS = {
    "psnr": ("PSNR", 2),
    "ssim": ("SSIM", 3),
    "lpips_vgg": ("LPIPS", 3),
    "lpips_vgg_unscaled": ("LPIPS unscaled", 3),
}
"""Columns of the tables: name in metrics.json, title, digits."""


def train_once(folder: Path, scene: str, seed: int, data_root: Path | None, options: list[str]) -> None:
    """Train into `folder` unless that is done.

    Raises:
      SystemExit: with the run's own message if it fails, or if the folder holds a run with other settings.
    """
    arguments = ["--scene", scene, "--seed", str(seed), "--out", str(folder.parent), "--name", folder.name]
    arguments += ["--no-video", *options, *([] if data_root is None else ["--data-root", str(data_root)])]
    if (folder / "config.json").exists():
        wanted, saved = parse_command_line(arguments), load_config(folder / "config.json")
        if wanted.density.max_gaussians is None:  # a run fills it in
            limit = saved.density.max_gaussians
            wanted = dataclasses.replace(wanted, density=dataclasses.replace(wanted.density, max_gaussians=limit))
        try:
            check_resumable(saved, wanted)
        except ConfigError as error:
            raise SystemExit(f"{folder} holds a run with other settings; choose another --out. {error}") from error
    if (folder / "metrics.json").exists():
        print(f"{folder} is finished", flush=True)
        return
    command = [sys.executable, "-m", "ipsm_jax.train", *arguments]
    if (folder / "config.json").exists():
        command.append("--resume")
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(f"training failed: {' '.join(command)}")


def read_run(folder: Path) -> dict[str, Any]:
    """Figures of one finished run; peak_memory_gib is None where the system does not tell."""
    last = [line for line in read_log(folder) if "loss" in line][-1]
    metrics = json.loads((folder / "metrics.json").read_text())["mean"]
    return {
        **{name: metrics.get(name) for name in (*METRICS, "avge")},
        "gaussians": last["gaussians"],
        "minutes": last["seconds"] / 60,
        "peak_memory_gib": None if (peak := last.get("peak_memory_mib")) is None else peak / 1024,
    }


def mean_and_deviation(values: Sequence[float | None], digits: int, sign: str = "", between: str = " ± ") -> str:
    """'mean ± std' (of the sample; a single value has none), or 'not computed' if any is missing.

    Sign '+' shows that of positive means too.
    """
    numbers = [v for v in values if v is not None]
    if len(numbers) < len(values):
        return "not computed"
    mean = f"{np.mean(numbers):{sign}.{digits}f}"
    return f"{mean}{between}{np.std(numbers, ddof=1):.{digits}f}" if len(numbers) > 1 else mean


def table(results: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """Markdown, one row per result.

    Args:
      results: each with the columns' entries and `runs`, one `read_run` per seed.
      columns: first columns, entry -> title.
    """
    titles = [*columns.values(), "seeds", *(title for title, _ in METRICS.values()), "Gaussians", "minutes", "peak GiB"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for result in results:
        runs = result["runs"]
        cells = [*(str(result[name]) for name in columns), str(len(runs))]
        cells += [mean_and_deviation([run[name] for run in runs], digits) for name, (_, digits) in METRICS.items()]
        cells.append(f"{np.mean([run['gaussians'] for run in runs]):.0f}")
        cells.append(mean_and_deviation([run["minutes"] for run in runs], 1))
        peaks = [run["peak_memory_gib"] for run in runs if run["peak_memory_gib"] is not None]
        cells.append(f"{max(peaks):.1f}" if peaks else "not known")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
