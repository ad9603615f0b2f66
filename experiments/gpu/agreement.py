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
from check_gradients import TOLERANCE, Mode, inputs_of, native_images

MODES = {
    "plain": Mode(),
    "3sigma": Mode(footprint="3sigma"),
    "antialiased": Mode(antialiased=True),
    "features": Mode(channels=5),
    "many features": Mode(channels=37),
    "absolute": Mode(absolute=True),
    "everything": Mode(channels=3, antialiased=True, absolute=True, footprint="3sigma"),
    "batch": Mode(),
}
IMAGES = ("color", "depth", "alpha", "features")


def moved_cameras(pose: np.ndarray, count: int) -> np.ndarray:
    """(count, 4, 4): `pose` from places near by."""
    poses = np.repeat(pose[None], count, 0)
    poses[:, :3, 3] += 0.1 * np.random.default_rng(7).standard_normal((count, 3)).astype(np.float32)
    return poses


def images_and_gradients(x: dict[str, Any], size: tuple[int, int], mode: Mode) -> tuple[Any, Any]:
    """Images by name, and gradients of their product with fixed random numbers; a batch if there are several poses."""

    def images(x: dict[str, Any]) -> dict[str, Any]:
        def one(pose: Any) -> dict[str, Any]:
            every = native_images(x | {"camera_from_world": pose}, size, mode)
            return {name: every[name] for name in IMAGES}

        pose = x["camera_from_world"]
        return jax.vmap(one)(pose) if pose.ndim == 3 else one(pose)

    values, pull_back = jax.vjp(images, x)
    rng = np.random.default_rng(1)
    cotangents = {name: jnp.asarray(rng.standard_normal(v.shape), jnp.float32) for name, v in values.items()}
    return values, pull_back(cotangents)[0]


def on(device: jax.Device, x: dict[str, Any], size: tuple[int, int], mode: Mode) -> dict[str, np.ndarray]:
    """Results by name, computed on `device`."""
    with jax.default_device(device):
        run = jax.jit(lambda x: images_and_gradients(x, size, mode))
        values, gradients = jax.tree.map(np.asarray, run(jax.device_put(x, device)))
    return values | {f"d/d {name}": value for name, value in gradients.items()}


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
        x = inputs_of(gaussians, camera, mode)
        if name == "batch":
            x["camera_from_world"] = moved_cameras(x["camera_from_world"], 3)
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
