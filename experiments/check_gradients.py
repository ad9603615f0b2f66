"""How far the native rasterizer is from the reference in float64: relative L2 errors of images and all gradients.

    python experiments/check_gradients.py [--gaussians 50000] [--yardstick FOLDER] [--json out.json]

Random cotangents on color, depth and alpha together, at 504 x 378. The reference takes a minute or two and about 1 GB.
Scenes as in bench_rasterizer.py. The exit code is 1 when an error exceeds 1e-4.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_scenes import builtin_scene, yardstick_scene

from ipsm_jax.rasterizer import render
from ipsm_jax.rasterizer.reference import render_reference
from ipsm_jax.scene import Camera, Gaussians

TOLERANCE = 1e-4
MOST_PER_TILE = 2048  # Gaussians that the reference considers in a tile; it gives NaN if there are more


def inputs_of(gaussians: Gaussians, camera: Camera) -> dict[str, Any]:
    """Everything that has a gradient, by name."""
    offset = np.zeros((gaussians.capacity, 2), np.float32)
    pose, intrinsics = np.asarray(camera.camera_from_world), np.asarray(camera.intrinsics)
    background = np.float32([0.2, 0.4, 0.7])
    named = {name: np.asarray(value) for name, value in gaussians._asdict().items()}
    return named | {
        "camera_from_world": pose,
        "intrinsics": intrinsics,
        "background": background,
        "mean2d_offset": offset,
    }


def images_and_gradients(
    inputs: dict[str, Any], size: tuple[int, int], cotangents: Any, native: bool
) -> tuple[Any, Any]:
    """(color, depth, alpha) and the gradients of their product with the cotangents."""

    def images(x: dict[str, Any]) -> tuple[Any, ...]:
        gaussians = Gaussians(*(x[name] for name in Gaussians._fields))
        camera = Camera(x["camera_from_world"], x["intrinsics"], *size)
        if native:
            result = render(gaussians, camera, background=x["background"], mean2d_offset=x["mean2d_offset"])
        else:
            everyone = jnp.ones(gaussians.capacity, bool)
            result = render_reference(
                *(gaussians, camera, everyone, x["background"], jnp.int32(3), x["mean2d_offset"], "exact"),
                max_per_tile=MOST_PER_TILE,
            )
        return tuple(result[:3])

    values, pull_back = jax.vjp(images, inputs)
    return values, pull_back(cotangents)[0]


def compare(gaussians: Gaussians, camera: Camera) -> dict[str, float]:
    """Relative L2 error by name of image or input."""
    size = (camera.width, camera.height)
    rng = np.random.default_rng(0)
    shapes = [(size[1], size[0], 3), (size[1], size[0]), (size[1], size[0])]
    cotangents = tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    inputs = inputs_of(gaussians, camera)
    run = jax.jit(images_and_gradients, static_argnums=(1, 3))
    ours = jax.tree.map(np.asarray, run(inputs, size, cotangents, True))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (inputs, cotangents))
        exact = jax.tree.map(np.asarray, run(wide[0], size, wide[1], False))
    pairs = dict(zip(("color", "depth", "alpha"), zip(ours[0], exact[0], strict=True), strict=True))
    pairs |= {f"d/d {name}": (ours[1][name], exact[1][name]) for name in inputs}
    return {name: float(np.linalg.norm(a - b) / np.linalg.norm(b)) for name, (a, b) in pairs.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=50_000)
    parser.add_argument("--yardstick", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    scene = yardstick_scene(args.yardstick, args.gaussians) if args.yardstick else builtin_scene(args.gaussians)
    errors = compare(*scene)
    if args.json:
        args.json.write_text(json.dumps(errors, indent=2) + "\n")
    for name, error in errors.items():
        print(f"{name:22} {error:.1e}")
    worst = max(errors.values())
    print(f"largest relative error {worst:.1e}, allowed {TOLERANCE:.0e}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
