"""Time gsplat on the same scene and in the same way as time_ours.py: one size, one JSON line. See gpu_check.py.

Needs torch and gsplat, which are no dependencies of this project.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the scene alone comes from there; the GPU's memory is for gsplat
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CALLS = 20  # between two looks at the clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gaussians", type=int, default=1000)
    parser.add_argument("--width", type=int, default=504)
    parser.add_argument("--height", type=int, default=378)
    parser.add_argument("--packed", choices=["off", "on"], default="off")
    parser.add_argument("--yardstick", type=Path)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--compile-only", action="store_true", help="import gsplat, which compiles it the first time")
    args = parser.parse_args()
    try:
        import gsplat
        import torch
        from gsplat.cuda._backend import _C
    except ImportError as e:
        raise SystemExit(f"gsplat cannot be imported ({e}): pip install torch gsplat==1.5.3") from e
    if _C is None:
        raise SystemExit("gsplat has no CUDA extension here (it needs nvcc and ninja to compile it)")
    if args.compile_only:
        return
    from bench_scenes import builtin_scene, yardstick_scene

    size = (args.width, args.height)
    if args.yardstick:
        gaussians, camera = yardstick_scene(args.yardstick, args.gaussians, *size)
    else:
        gaussians, camera = builtin_scene(args.gaussians, width=args.width, height=args.height)
    logits = np.asarray(gaussians.opacity_logits)
    activated = [
        gaussians.means,
        gaussians.quaternions,
        np.exp(gaussians.log_scales),
        1 / (1 + np.exp(-logits)),
        np.concatenate([np.asarray(gaussians.sh_dc)[:, None], gaussians.sh_rest], axis=1),
    ]
    inputs = [torch.tensor(np.asarray(x), device="cuda", requires_grad=True) for x in activated]
    view = torch.tensor(np.asarray(camera.camera_from_world), device="cuda")[None]
    fx, fy, cx, cy = np.asarray(camera.intrinsics)
    intrinsics = torch.tensor([[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]], device="cuda")
    cotangent = torch.randn(1, camera.height, camera.width, 3, device="cuda")
    options = {"near_plane": 0.2, "sh_degree": 3, "packed": args.packed == "on"}

    def forward() -> Any:
        return gsplat.rasterization(*inputs, view, intrinsics, camera.width, camera.height, **options)[0]

    def forward_only() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        for x in inputs:
            x.grad = None
        forward().backward(cotangent)

    torch.cuda.reset_peak_memory_stats()
    row: dict[str, Any] = {"gaussians": args.gaussians, "width": args.width, "height": args.height}
    for name, function in (("forward", forward_only), ("forward_backward", both)):
        for _ in range(5):
            function()
        times = []
        for _ in range(args.repeats):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(CALLS):
                function()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) * 1e3 / CALLS)
        row |= {f"{name}_ms_min": round(min(times), 4), f"{name}_ms_median": round(float(np.median(times)), 4)}
    row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    row["gsplat"] = gsplat.__version__
    print(json.dumps(row))


if __name__ == "__main__":
    main()
