"""Time `render`, forward and backward, on trained-looking scenes.

    python experiments/bench_rasterizer.py [--sizes 50000 200000] [--repeats 20] [--json out.json] [--yardstick FOLDER]

Prints one row per size: milliseconds of a jitted render at 504 x 378 and of render + gradient with respect to all
Gaussian fields (minimum and median over the repeats). With --yardstick, a folder that holds scene.py and
cpu_yardstick/run.py, those scenes are used and the yardstick is timed in turns with ours in the same run, so that the
ratio survives a noisy machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ipsm_jax.rasterizer import render
from ipsm_jax.scene import Camera, Gaussians

WIDTH, HEIGHT, FOCAL = 504, 378, 407.0


def builtin_scene(count: int, seed: int = 0) -> tuple[Gaussians, Camera]:
    """A wavy wall of flat Gaussians about one pixel spacing apart, a few layers deep."""
    rng = np.random.default_rng(seed)
    u, v = ((rng.random(count) - 0.5) * size for size in (1.15 * WIDTH, 1.15 * HEIGHT))
    x, y = u / FOCAL, v / FOCAL
    z = 4 + np.sin(5 * x) * np.cos(4 * y) + rng.exponential(0.4, count)
    pixels = np.sqrt(WIDTH * HEIGHT / count) * np.exp(0.65 * rng.standard_normal(count))
    scales = (pixels * z / FOCAL)[:, None] * np.exp(0.4 * rng.standard_normal((count, 3))) * [1, 0.7, 0.12]
    fields = [
        np.stack([x * z, y * z, z], 1),
        np.log(scales),
        rng.standard_normal((count, 4)),
        rng.choice([-1.6, 2.2], count) + 1.2 * rng.standard_normal(count),
        0.8 * rng.standard_normal((count, 3)),
        0.04 * rng.standard_normal((count, 15, 3)),
    ]
    camera = Camera(jnp.eye(4), jnp.array([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]), WIDTH, HEIGHT)
    return Gaussians(*(jnp.asarray(f, jnp.float32) for f in fields)), camera


def yardstick_scene(folder: Path, count: int) -> tuple[Gaussians, Camera]:
    """The scene of FOLDER/scene.py, in unconstrained parameters."""
    spec = importlib.util.spec_from_file_location("yardstick_scene", folder / "scene.py")
    if spec is None or spec.loader is None or not (folder / "scene.py").exists():
        raise SystemExit(f"{folder} holds no scene.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    s = module.make(count)
    opacity = np.clip(s["opac"][:, 0].astype(np.float64), 1e-6, 1 - 1e-6)
    gaussians = Gaussians(
        *(
            jnp.asarray(x, jnp.float32)
            for x in (s["means"], np.log(s["scales"]), s["quats"], np.log(opacity / (1 - opacity)))
        ),
        jnp.asarray(s["sh"][:, 0]),
        jnp.asarray(s["sh"][:, 1:]),
    )
    k = s["K"]
    intrinsics = jnp.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])
    return gaussians, Camera(jnp.asarray(s["viewmat"]), intrinsics, s["W"], s["H"])


def run_yardstick(folder: Path, count: int, repeats: int) -> dict[str, Any]:
    """One JSON line of the yardstick, in a process of its own."""
    command = [sys.executable, str(folder / "cpu_yardstick/run.py"), "--repeats", str(repeats), "--sizes", str(count)]
    command += ["--threads", str(os.cpu_count())]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def milliseconds(function: Any, *args: Any) -> float:
    """Wall time of one call, waiting for the result."""
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    return (time.perf_counter() - start) * 1e3


def measure(count: int, repeats: int, rounds: int, yardstick: Path | None) -> dict[str, Any]:
    """Times of one size; with a yardstick, `rounds` turns of each."""
    gaussians, camera = yardstick_scene(yardstick, count) if yardstick else builtin_scene(count)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal((camera.height, camera.width, 3)), jnp.float32)
    forward = jax.jit(lambda g: render(g, camera).color)
    both = jax.jit(jax.value_and_grad(lambda g: jnp.vdot(render(g, camera).color, cotangent)))
    for function in (forward, both):
        milliseconds(function, gaussians)
    forward_ms, both_ms, theirs = [], [], []
    for _ in range(rounds):
        forward_ms += [milliseconds(forward, gaussians) for _ in range(repeats)]
        both_ms += [milliseconds(both, gaussians) for _ in range(repeats)]
        if yardstick:
            theirs.append(run_yardstick(yardstick, count, repeats))
    row: dict[str, Any] = {
        "gaussians": count,
        "width": camera.width,
        "height": camera.height,
        "threads": os.cpu_count(),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="turns between ours and the yardstick")
    parser.add_argument("--yardstick", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for count in args.sizes:
        rows.append(measure(count, args.repeats, args.rounds, args.yardstick))
        print(json.dumps(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
