"""Time `render`, forward and backward, on trained-looking scenes, hard cases and trained scenes.

    python experiments/bench_rasterizer.py [--sizes 50000 200000] [--hard] [--scaling] [--run FOLDER]
        [--ply FILE --scene SCENE] [--repeats 20] [--json out.json] [--yardstick FOLDER]

Prints one JSON row per case and number of cores: milliseconds of a jitted render at 504 x 378 and of render + gradient
with respect to all Gaussian fields (minimum and median over the repeats), pairs, peak memory; then a table. Each row is
measured in a process of its own. --hard adds all Gaussians in one tile, one Gaussian over the whole image, 1920 x 1080
and 2 million Gaussians. --scaling measures each case on one core too and prints how much faster all cores are.

With --yardstick, a folder that holds scene.py and cpu_yardstick/run.py, its scenes are used for --sizes and the
yardstick is timed in turns with ours in the same run, so that the ratio survives a noisy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_scenes import builtin_scene, in_one_tile, over_the_image, trained_scene, yardstick_scene

from ipsm_jax.rasterizer import render
from ipsm_jax.scene import Camera, Gaussians

HARD = {
    "one tile": lambda scale: in_one_tile(50_000 // scale),
    "one over the image": lambda scale: over_the_image(50_000 // scale),
    "1920 x 1080": lambda scale: builtin_scene(200_000 // scale, width=1920, height=1080),
    "2 million": lambda scale: builtin_scene(2_000_000 // scale),
}


def scene_of(case: str, args: argparse.Namespace) -> tuple[Gaussians, Camera]:
    """The scene of a case: a number of Gaussians, a name among HARD, or "trained"."""
    if case == "trained":
        return trained_scene(args.run, args.ply, args.scene, args.data_root)
    if case in HARD:
        return HARD[case](args.shrink)
    return yardstick_scene(args.yardstick, int(case)) if args.yardstick else builtin_scene(int(case))


def run_yardstick(folder: Path, count: int, repeats: int) -> dict[str, Any]:
    """One JSON line of the yardstick, in a process of its own, on the cores that this one may use."""
    command = [sys.executable, str(folder / "cpu_yardstick/run.py"), "--repeats", str(repeats), "--sizes", str(count)]
    command += ["--threads", str(len(os.sched_getaffinity(0)))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def milliseconds(function: Any, *args: Any) -> float:
    """Wall time of one call, waiting for the result."""
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    return (time.perf_counter() - start) * 1e3


def peak_memory_mib() -> float:
    """Largest resident size of this process so far; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def measure(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Times of one case in this process; with a yardstick that has the case, `args.rounds` turns of each."""
    gaussians, camera = scene_of(case, args)
    with_yardstick = args.yardstick is not None and case.isdigit()
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal((camera.height, camera.width, 3)), jnp.float32)
    forward = jax.jit(lambda g: render(g, camera).color)
    both = jax.jit(jax.value_and_grad(lambda g: jnp.vdot(render(g, camera).color, cotangent)))
    pairs = int(jax.jit(lambda g: render(g, camera).pair_count)(gaussians))
    before = peak_memory_mib()
    for function in (forward, both):
        milliseconds(function, gaussians)
    forward_ms, both_ms, theirs = [], [], []
    for _ in range(args.rounds):
        forward_ms += [milliseconds(forward, gaussians) for _ in range(args.repeats)]
        both_ms += [milliseconds(both, gaussians) for _ in range(args.repeats)]
        if with_yardstick:
            theirs.append(run_yardstick(args.yardstick, int(case), args.repeats))
    row: dict[str, Any] = {
        "case": case,
        "gaussians": gaussians.capacity,
        "width": camera.width,
        "height": camera.height,
        "threads": len(os.sched_getaffinity(0)),
        "pairs": pairs,
        "peak_memory_mib": round(peak_memory_mib()),
        "peak_memory_before_gradient_mib": round(before),
    }
    for name, values in (("forward", forward_ms), ("forward_backward", both_ms)):
        row |= {f"{name}_ms_min": round(min(values), 2), f"{name}_ms_median": round(float(np.median(values)), 2)}
    for kind in ("min", "median") if theirs else ():
        reduce = min if kind == "min" else np.median
        yard_forward = float(reduce([t[f"forward_ms_{kind}"] for t in theirs]))
        yard_both = yard_forward + float(reduce([t[f"backward_ms_{kind}"] for t in theirs]))
        row |= {
            f"yardstick_forward_ms_{kind}": round(yard_forward, 2),
            f"yardstick_forward_backward_ms_{kind}": round(yard_both, 2),
            f"ratio_forward_{kind}": round(row[f"forward_ms_{kind}"] / yard_forward, 3),
            f"ratio_forward_backward_{kind}": round(row[f"forward_backward_ms_{kind}"] / yard_both, 3),
        }
    return row


def measure_in_child(case: str, cores: int) -> dict[str, Any]:
    """`measure` in a process that may use `cores` cores: XLA's pool has as many threads, and memory starts afresh."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only-case", case, "--cores", str(cores)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"measuring {case} on {cores} cores failed with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict[str, Any]]) -> str:
    """One line per row; the ratios are to the yardstick, the speed-up is over one core, both by minima."""
    head = "case|Gaussians|image|cores|pairs|forward ms|+ backward ms|ratio|speed-up|peak MiB"
    lines = [f"| {head.replace('|', ' | ')} |", "|" + "---|" * 10]
    one_core = {row["case"]: row["forward_backward_ms_min"] for row in rows if row["threads"] == 1}
    for row in rows:
        cells = [row["case"], row["gaussians"], f"{row['width']} x {row['height']}", row["threads"], row["pairs"]]
        cells += [
            f"{row[f'{name}_ms_min']:.1f} (median {row[f'{name}_ms_median']:.1f})"
            for name in ("forward", "forward_backward")
        ]
        ratios = [row.get(f"ratio_{name}_min") for name in ("forward", "forward_backward")]
        cells.append(" / ".join(f"{ratio:.2f}" for ratio in ratios if ratio is not None))
        single = one_core.get(row["case"]) if row["threads"] > 1 else None
        cells.append(f"{single / row['forward_backward_ms_min']:.2f}" if single else "")
        cells.append(row["peak_memory_mib"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[50_000, 200_000])
    parser.add_argument("--hard", action="store_true", help="the hard cases too")
    parser.add_argument("--shrink", type=int, default=1, help="divide the hard cases' Gaussians by this, to try it out")
    parser.add_argument("--scaling", action="store_true", help="each case on one core too")
    parser.add_argument("--run", type=Path, help="a trained scene: folder of a training run")
    parser.add_argument("--ply", type=Path, help="a trained scene: PLY file, with --scene")
    parser.add_argument("--scene", default="", help="the scene whose camera looks at the PLY file")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="turns between ours and the yardstick")
    parser.add_argument("--yardstick", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-case", help=argparse.SUPPRESS)  # in the child
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.only_case is not None:
        # JAX has not started its threads yet: they come with the first operation.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
        print(json.dumps(measure(args.only_case, args)))
        return
    cases = [str(size) for size in args.sizes] + (list(HARD) if args.hard else [])
    cases += ["trained"] if args.run or args.ply else []
    most = len(os.sched_getaffinity(0))
    rows = []
    for case in cases:
        for cores in sorted({1, most}) if args.scaling else [most]:
            rows.append(measure_in_child(case, cores))
            print(json.dumps(rows[-1]), flush=True)
            if args.json:
                args.json.write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
