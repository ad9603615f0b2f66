"""CUDA kernels against CPU kernels, in one process: images and all gradients in all modes; one JSON line.

See gpu_check.py. --small takes a few hundred Gaussians and the CUDA side alone, for compute-sanitizer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cuda,cpu")
import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_scenes import builtin_scene

from ipsm_jax.rasterizer import render
from ipsm_jax.scene import Camera, Gaussians

TOLERANCE = 1e-4
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "3sigma": {"footprint": "3sigma"},
    "antialiased": {"antialiased": True},
    "features": {"channels": 5},
    "many features": {"channels": 37},
    "absolute": {"absolute": True},
    "everything": {"channels": 3, "antialiased": True, "absolute": True, "footprint": "3sigma"},
    "batch": {"batch": 3},
}


def inputs_of(gaussians: Gaussians, camera: Camera, channels: int, batch: int) -> dict[str, np.ndarray]:
    """Everything that has a gradient, by name; `batch` > 0 puts so many moved cameras first."""
    rng = np.random.default_rng(7)
    n = gaussians.capacity
    named = {name: np.asarray(value) for name, value in gaussians._asdict().items()}
    pose = np.asarray(camera.camera_from_world)
    if batch:
        pose = np.repeat(pose[None], batch, 0)
        pose[:, :3, 3] += 0.1 * rng.standard_normal((batch, 3)).astype(np.float32)
    return named | {
        "camera_from_world": pose,
        "intrinsics": np.asarray(camera.intrinsics),
        "background": np.float32([0.2, 0.4, 0.7]),
        "mean2d_offset": np.zeros((n, 2), np.float32),
        "mean2d_absolute": np.zeros((n, 2), np.float32),
        "features": rng.standard_normal((n, channels)).astype(np.float32),
    }


def images_and_gradients(x: dict[str, Any], size: tuple[int, int], mode: dict[str, Any]) -> tuple[Any, Any]:
    """Images, and gradients of their product with fixed random numbers."""

    def images(x: dict[str, Any]) -> tuple[Any, ...]:
        def one(pose: Any) -> tuple[Any, ...]:
            result = render(
                Gaussians(*(x[name] for name in Gaussians._fields)),
                Camera(pose, x["intrinsics"], *size),
                background=x["background"],
                mean2d_offset=x["mean2d_offset"],
                mean2d_absolute=x["mean2d_absolute"] if mode.get("absolute") else None,
                features=x["features"],
                footprint=mode.get("footprint", "exact"),
                antialiased=mode.get("antialiased", False),
            )
            return result.color, result.depth, result.alpha, result.features

        return jax.vmap(one)(x["camera_from_world"]) if mode.get("batch") else one(x["camera_from_world"])

    values, pull_back = jax.vjp(images, x)
    rng = np.random.default_rng(1)
    cotangents = tuple(jnp.asarray(rng.standard_normal(v.shape), jnp.float32) for v in values)
    return values, pull_back(cotangents)[0]


def on(device: jax.Device, x: dict[str, Any], size: tuple[int, int], mode: dict[str, Any]) -> dict[str, np.ndarray]:
    """Results by name, computed on `device`."""
    with jax.default_device(device):
        run = jax.jit(lambda x: images_and_gradients(x, size, mode))
        values, gradients = jax.tree.map(np.asarray, run(jax.device_put(x, device)))
    named = dict(zip(("color", "depth", "alpha", "feature image"), values, strict=True))
    return named | {f"d/d {name}": value for name, value in gradients.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gaussians", type=int, default=20_000)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    try:
        gpu = jax.devices("cuda")[0]
    except RuntimeError as e:
        raise SystemExit(
            f"JAX finds no CUDA device ({e}): install ipsm_jax[cuda13] or [cuda12] on a machine with one"
        ) from e
    size = (100, 75) if args.small else (504, 378)
    gaussians, camera = builtin_scene(300 if args.small else args.gaussians, width=size[0], height=size[1])
    errors: dict[str, dict[str, float]] = {}
    deterministic = True
    for name, mode in MODES.items():
        x = inputs_of(gaussians, camera, mode.get("channels", 0), mode.get("batch", 0))
        ours = on(gpu, x, size, mode)
        if args.small:
            continue
        again, theirs = on(gpu, x, size, mode), on(jax.devices("cpu")[0], x, size, mode)
        deterministic &= all(np.array_equal(ours[key], again[key]) for key in ours)
        errors[name] = {
            key: float(np.linalg.norm(ours[key] - theirs[key]) / (np.linalg.norm(theirs[key]) or 1)) for key in ours
        }
    worst = max((error for mode in errors.values() for error in mode.values()), default=0.0)
    print(json.dumps({"worst": worst, "tolerance": TOLERANCE, "deterministic": deterministic, "errors": errors}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
