"""The base method (no priors) on real scenes: PSNR, SSIM, LPIPS, time and memory as mean ± std over seeds.

    python experiments/base.py --scenes fern fountain-P11 --data-root data [--inits triangulated random] [--seeds 3]

Runs `python -m ipsm_jax.train` once per scene, start and seed, each in a process of its own; a run that is finished is
not done again and one that was interrupted goes on. Writes <out>/base.json first, then prints a Markdown table made
from it. Further options after `--` go to every training, for example `-- --iterations 2000`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ipsm_jax.reporting.files import write_json

METRICS = ("psnr", "ssim", "lpips_vgg", "lpips_vgg_unscaled", "avge")


def train_once(folder: Path, scene: str, init: str, seed: int, data_root: Path | None, extra: list[str]) -> None:
    """Train into `folder` unless that is done; raises SystemExit with the run's own message if it fails."""
    if (folder / "metrics.json").exists():
        print(f"{folder} is finished", flush=True)
        return
    command = [sys.executable, "-m", "ipsm_jax.train", "--scene", scene, "--init", init, "--seed", str(seed)]
    command += ["--out", str(folder.parent), "--name", folder.name, "--no-video", *extra]
    if data_root is not None:
        command += ["--data-root", str(data_root)]
    if (folder / "config.json").exists():
        command.append("--resume")
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(f"training failed: {' '.join(command)}")


def read_run(folder: Path) -> dict[str, Any]:
    """Figures of one finished run; peak_memory_gib is None where the system does not tell."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    last = [line for line in lines if "loss" in line][-1]
    metrics = json.loads((folder / "metrics.json").read_text())["mean"]
    return {
        **{name: metrics.get(name) for name in METRICS},
        "gaussians": last["gaussians"],
        "minutes": last["seconds"] / 60,
        "peak_memory_gib": None if (peak := last.get("peak_memory_mib")) is None else peak / 1024,
    }


def mean_and_deviation(values: list[float | None], digits: int) -> str:
    """'mean ± std' (of the sample), or 'not computed' if any is missing."""
    numbers = [v for v in values if v is not None]
    if len(numbers) < len(values):
        return "not computed"
    deviation = np.std(numbers, ddof=1) if len(numbers) > 1 else 0.0
    return f"{np.mean(numbers):.{digits}f} ± {deviation:.{digits}f}"


def table(results: list[dict[str, Any]]) -> str:
    """One row per scene and start."""
    lines = ["| scene | start | seeds | PSNR | SSIM | LPIPS | LPIPS unscaled | Gaussians | minutes | peak GiB |"]
    lines.append("|" + "---|" * 10)
    for result in results:
        runs = result["runs"]
        cells = [result["scene"], result["init"], str(len(runs))]
        for name, digits in (("psnr", 2), ("ssim", 3), ("lpips_vgg", 3), ("lpips_vgg_unscaled", 3)):
            cells.append(mean_and_deviation([run[name] for run in runs], digits))
        cells.append(f"{np.mean([run['gaussians'] for run in runs]):.0f}")
        cells.append(mean_and_deviation([run["minutes"] for run in runs], 1))
        peaks = [run["peak_memory_gib"] for run in runs if run["peak_memory_gib"] is not None]
        cells.append(f"{max(peaks):.1f}" if peaks else "not known")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", required=True)
    parser.add_argument("--inits", nargs="+", default=["triangulated", "random"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/base"))
    parser.add_argument("extra", nargs="*", help="options for every training, after --")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    for scene in args.scenes:
        for init in args.inits:
            folders = [args.out / f"{Path(scene).name}-{Path(init).stem}-seed{seed}" for seed in range(args.seeds)]
            for seed, folder in enumerate(folders):
                train_once(folder, scene, init, seed, args.data_root, args.extra)
            results.append({"scene": Path(scene).name, "init": init, "runs": [read_run(f) for f in folders]})
            write_json(args.out / "base.json", results)
    print(table(results))


if __name__ == "__main__":
    main()
