"""Everything worth knowing about the CUDA part on one machine, by one command, within ten minutes and without network.

    python experiments/gpu_check.py [--scene FOLDER] [--out gpu_check] [--skip training ...] [--yardstick FOLDER]

Builds the package with its CUDA kernels, compares them with the CPU kernels, runs a small case under compute-sanitizer,
times forward and backward against gsplat (where that is installed), trains a scene. Each part runs in a process of its
own with a time limit; what fails or is missing is written down and the next part goes on. Leaves <out>/gpu_check.json
(rewritten after each part), <out>/*.log, and prints a short table. The exit code is 1 if a part failed.

Needs nvcc and, in the Python environment, jax with its CUDA plugin, pybind11, setuptools and this project's
dependencies; gsplat and torch only for the comparison. --yardstick takes the scenes from FOLDER/scene.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SIZES = [(504, 378), (1920, 1080)]
COUNTS = [50_000, 200_000, 1_000_000]


class PartFailedError(Exception):
    """A part of the check did not work; the message says what and where its log is."""


class Check:
    """The parts' common ground: folder, environment, results."""

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.site = self.out / "site"
        path = os.pathsep.join(filter(None, [str(self.site), os.environ.get("PYTHONPATH", "")]))
        # Off: JAX would take three quarters of the memory and leave gsplat little; what is used could not be measured.
        self.env = {**os.environ, "PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self.results: dict[str, Any] = {"date": date.today().isoformat()}

    def start(self, name: str, command: list[str], **env: str) -> subprocess.Popen[bytes]:
        """A process that writes to <out>/<name>.log, away from the checkout so that the installed package is used."""
        with (self.out / f"{name}.log").open("wb") as log:
            return subprocess.Popen(command, cwd=self.out, env={**self.env, **env}, stdout=log, stderr=log)

    def finish(self, name: str, process: subprocess.Popen[bytes], limit: float) -> str:
        """The log of a process that must end well within `limit` seconds."""
        log = self.out / f"{name}.log"
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired as e:
            process.kill()
            raise PartFailedError(f"not done after {limit:.0f} s, see {log}") from e
        text = log.read_text(errors="replace")
        if code != 0:
            last = [line for line in text.splitlines() if line.strip()][-1:] or ["no output"]
            raise PartFailedError(f"exit code {code}: {last[0]} (see {log})")
        return text

    def run(self, name: str, command: list[str], limit: float, **env: str) -> str:
        """Start and finish."""
        return self.finish(name, self.start(name, command, **env), limit)

    def save(self) -> None:
        """Write down what is known so far."""
        (self.out / "gpu_check.json").write_text(json.dumps(self.results, indent=2) + "\n")


def last_json(text: str) -> Any:
    """The last line of a log that is a JSON object."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if not lines:
        raise PartFailedError("its output holds no JSON line")
    return json.loads(lines[-1])


def describe(check: Check) -> dict[str, Any]:
    """Device, driver, compiler, versions."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
    for program in ("nvidia-smi", "nvcc"):
        if shutil.which(program) is None:
            raise PartFailedError(f"{program} is not on the PATH; the check needs a CUDA toolkit and a GPU")
    device = check.run("device", query, 30).strip().splitlines()[0]
    compiler = check.run("nvcc", ["nvcc", "--version"], 30).strip().splitlines()[-2:]
    code = "import json, sys, jax; print(json.dumps({'python': sys.version.split()[0], 'jax': jax.__version__}))"
    return {
        "device": device,
        "nvcc": " ".join(compiler),
        **last_json(check.run("versions", [sys.executable, "-c", code], 60)),
    }


def build(check: Check) -> dict[str, Any]:
    """Install this checkout, with the CUDA kernels, into <out>/site."""
    shutil.rmtree(check.site, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    start = time.perf_counter()
    check.run("build", [*command, "--target", str(check.site), str(ROOT)], 240, IPSM_JAX_CUDA="1")
    seconds = time.perf_counter() - start
    check.run("doctor", [sys.executable, "-m", "ipsm_jax.doctor"], 120)
    return {"seconds": round(seconds, 1)}


def agreement(check: Check) -> Any:
    """CUDA against CPU kernels, all modes; and the same bits twice."""
    result = last_json(check.run("agreement", [sys.executable, str(HERE / "gpu/agreement.py")], 240))
    if result["worst"] > result["tolerance"] or not result["deterministic"]:
        raise PartFailedError(f"largest relative error {result['worst']:.1e}, deterministic: {result['deterministic']}")
    return result


def sanitizer(check: Check) -> dict[str, str]:
    """compute-sanitizer on a small case."""
    if shutil.which("compute-sanitizer") is None:
        raise PartFailedError("compute-sanitizer is not on the PATH (it is part of the CUDA toolkit)")
    found = {}
    for tool in ("memcheck", "racecheck"):
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
        text = check.run(f"sanitizer_{tool}", [*command, str(HERE / "gpu/agreement.py"), "--small"], 120)
        summary = [line for line in text.splitlines() if "SUMMARY" in line]
        found[tool] = summary[-1].strip("= ") if summary else "no summary in the log"
    return found


def timing(check: Check, yardstick: Path | None) -> list[dict[str, Any]]:
    """Ours and gsplat's, each size in a process of its own, in turns."""
    rows = []
    options = ["--yardstick", str(yardstick.resolve())] if yardstick else []
    for width, height in SIZES:
        for count in COUNTS:
            size = ["--gaussians", str(count), "--width", str(width), "--height", str(height), *options]
            row = last_json(
                check.run(f"time_{count}_{width}", [sys.executable, str(HERE / "gpu/time_ours.py"), *size], 90)
            )
            for packed in ("off", "on"):
                name = f"gsplat_packed_{packed}"
                command = [sys.executable, str(HERE / "gpu/time_gsplat.py"), *size, "--packed", packed]
                try:
                    theirs = last_json(check.run(f"{name}_{count}_{width}", command, 90))
                except PartFailedError as e:
                    row[name] = str(e)
                    continue
                row[name] = theirs
                row[f"ratio_packed_{packed}"] = theirs["forward_backward_ms_median"] / row["forward_backward_ms_median"]
            rows.append(row)
            check.results["timing so far"] = rows
            check.save()
    check.results.pop("timing so far", None)
    return rows


def training(check: Check, scene: Path) -> dict[str, Any]:
    """A whole training of the base method."""
    command = [sys.executable, "-m", "ipsm_jax.train", "--scene", str(scene.resolve()), "--init", "random"]
    check.run("training", [*command, "--out", str(check.out / "runs"), "--name", "gpu", "--no-video"], 300)
    folder = check.out / "runs/gpu"
    last = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines() if '"loss"' in line][-1]
    metrics = json.loads((folder / "metrics.json").read_text())["mean"]
    return {"iterations": last["iteration"], "seconds": last["seconds"], "gaussians": last["gaussians"], **metrics}


def table(results: dict[str, Any]) -> str:
    """What a person wants to know, as text."""
    lines = [f"{key}: {value}" for key, value in results.items() if key not in ("timing", "agreement")]
    if isinstance(found := results.get("agreement"), dict) and "worst" in found:
        lines.append(
            f"agreement: largest relative error {found['worst']:.1e}, same bits twice: {found['deterministic']}"
        )
    if isinstance(rows := results.get("timing"), list):
        lines.append(
            "\n| Gaussians | image | forward ms | fwd + bwd ms | MiB | gsplat fwd + bwd ms, packed off / on | ratio |"
        )
        lines.append("|" + "---|" * 7)
        for row in rows:
            theirs = [row[f"gsplat_packed_{p}"] for p in ("off", "on")]
            cells = [f"{t['forward_backward_ms_median']:.2f}" if isinstance(t, dict) else "-" for t in theirs]
            ratios = [f"{row[f'ratio_packed_{p}']:.2f}" if f"ratio_packed_{p}" in row else "-" for p in ("off", "on")]
            lines.append(
                f"| {row['gaussians']} | {row['width']}x{row['height']} | {row['forward_ms_median']:.2f} | "
                f"{row['forward_backward_ms_median']:.2f} | {row['peak_mib'] or 0:.0f} | {' / '.join(cells)} | "
                f"{' / '.join(ratios)} |"
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, help="a scene to train on; without one, training is left out")
    parser.add_argument("--out", type=Path, default=Path("gpu_check"))
    parser.add_argument("--yardstick", type=Path)
    parser.add_argument("--skip", nargs="*", default=[], help="parts to leave out")
    args = parser.parse_args()
    check = Check(args.out)
    parts: dict[str, Callable[[], Any]] = {
        "machine": lambda: describe(check),
        "build": lambda: build(check),
        "agreement": lambda: agreement(check),
        "timing": lambda: timing(check, args.yardstick),
        "sanitizer": lambda: sanitizer(check),
    }
    if args.scene is not None:
        parts["training"] = lambda: training(check, args.scene)
    failed = []
    # gsplat compiles itself for minutes when first imported: beside the build, not after it.
    warm_up = check.start("gsplat", [sys.executable, str(HERE / "gpu/time_gsplat.py"), "--compile-only"])
    for name, part in parts.items():
        if name in args.skip:
            continue
        if name == "timing":
            try:
                check.finish("gsplat", warm_up, 300)
            except PartFailedError as e:
                check.results["gsplat"] = str(e)
        start = time.perf_counter()
        try:
            check.results[name] = part()
        except PartFailedError as e:
            check.results[name] = f"FAILED: {e}"
            failed.append(name)
        print(f"{name}: {'failed' if name in failed else 'ok'}, {time.perf_counter() - start:.0f} s", flush=True)
        check.save()
        if name in ("machine", "build") and name in failed:
            break
    if warm_up.poll() is None:
        warm_up.kill()
    print(table(check.results))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
