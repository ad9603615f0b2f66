"""Time this project's rasterizer on a GPU: one size, one JSON line. See gpu_check.py.

Milliseconds per call of back-to-back calls, so that what the host does is hidden where a training step would hide it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_scenes import builtin_scene, yardstick_scene

from ipsm_jax.rasterizer import render

CALLS = 20  # between two looks at the clock


def milliseconds(function: Any, argument: Any, repeats: int) -> dict[str, float]:
    """Minimum and median over `repeats` of the time of one call among CALLS in a row."""
    jax.block_until_ready([function(argument) for _ in range(5)])
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready([function(argument) for _ in range(CALLS)][-1])
        times.append((time.perf_counter() - start) * 1e3 / CALLS)
    return {"min": min(times), "median": float(np.median(times))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gaussians", type=int, required=True)
    parser.add_argument("--width", type=int, default=504)
    parser.add_argument("--height", type=int, default=378)
    parser.add_argument("--yardstick", type=Path)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    size = (args.width, args.height)
    if args.yardstick:
        gaussians, camera = yardstick_scene(args.yardstick, args.gaussians, *size)
    else:
        gaussians, camera = builtin_scene(args.gaussians, width=args.width, height=args.height)
    pairs = int(render(gaussians, camera).pair_count)
    capacity = pairs + pairs // 4  # as training does: room for what was seen, and a quarter
    shape = (camera.height, camera.width, 3)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(shape), jnp.float32)
    forward = jax.jit(lambda g: render(g, camera, pair_capacity=capacity).color)
    both = jax.jit(jax.grad(lambda g: jnp.vdot(render(g, camera, pair_capacity=capacity).color, cotangent)))
    row: dict[str, Any] = {"gaussians": args.gaussians, "width": args.width, "height": args.height, "pairs": pairs}
    for name, function in (("forward", forward), ("forward_backward", both)):
        for kind, value in milliseconds(function, gaussians, args.repeats).items():
            row[f"{name}_ms_{kind}"] = round(value, 4)
    statistics = jax.devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    row["peak_mib"] = None if peak is None else peak / 2**20
    row["device"] = jax.devices()[0].device_kind
    print(json.dumps(row))


if __name__ == "__main__":
    main()
