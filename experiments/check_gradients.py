"""How far the native rasterizer is from the reference in float64, in every mode: relative L2 errors of all images and
all gradients.

    python experiments/check_gradients.py [--gaussians 50000] [--modes plain antialiased] [--yardstick FOLDER]

Random cotangents on all images together, at 504 x 378. Scenes as in bench_rasterizer.py. Each mode takes the reference
a minute or two and about 1 GB at 50 000 Gaussians. The exit code is 1 when an error exceeds 1e-4.

A pixel draws a Gaussian or does not, at alpha = 1/255 and at transmittance 1e-4. Where the last digits decide, float32
and float64 may decide differently and both be right; a handful of such pixels would drown everything else. Pixels that
change when the reference moves its thresholds by a little are therefore left out, and counted; --all-pixels keeps them.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from bench_scenes import builtin_scene, yardstick_scene

from ipsm_jax.rasterizer import projection, reference, render
from ipsm_jax.rasterizer.projection import TILE, Footprint, project
from ipsm_jax.rasterizer.reference import _blend, _select_for_tile, _sort_by_depth, render_reference
from ipsm_jax.scene import Camera, Gaussians

TOLERANCE = 1e-4
ALPHA_MARGIN, TRANSMITTANCE_MARGIN = 1e-4, 1e-3  # relative; rounding in float32 is about 1e-6 and 1e-4 at most
ABSOLUTE = "mean2d_absolute"


class Mode(NamedTuple):
    """What to render; hashable, so that a compiled program can depend on it."""

    channels: int = 0
    antialiased: bool = False
    footprint: Footprint = "exact"
    absolute: bool = False


MODES = {
    "plain": Mode(),
    "features": Mode(channels=8),
    "antialiased": Mode(antialiased=True),
    "absolute": Mode(absolute=True),
    "3sigma": Mode(footprint="3sigma"),
}


def inputs_of(gaussians: Gaussians, camera: Camera, mode: Mode) -> dict[str, np.ndarray]:
    """Everything that has a gradient, by name."""
    n = gaussians.capacity
    named = {name: np.asarray(value) for name, value in gaussians._asdict().items()}
    named |= {
        "camera_from_world": np.asarray(camera.camera_from_world),
        "intrinsics": np.asarray(camera.intrinsics),
        "background": np.array([0.2, 0.4, 0.7], np.float32),
        "mean2d_offset": np.zeros((n, 2), np.float32),
    }
    if mode.channels:
        named["features"] = np.random.default_rng(1).standard_normal((n, mode.channels)).astype(np.float32)
    if mode.absolute:
        named[ABSOLUTE] = np.zeros((n, 2), np.float32)
    return named


def split(x: dict[str, Any], size: tuple[int, int]) -> tuple[Gaussians, Camera]:
    """Gaussians and camera of named inputs."""
    gaussians = Gaussians(*(x[name] for name in Gaussians._fields))
    return gaussians, Camera(x["camera_from_world"], x["intrinsics"], *size)


def native_images(x: dict[str, Any], size: tuple[int, int], mode: Mode) -> dict[str, Any]:
    """What the native rasterizer gives, by name."""
    gaussians, camera = split(x, size)
    named: dict[str, Any] = {name: x.get(name) for name in ("background", "mean2d_offset", "features", ABSOLUTE)}
    return render(gaussians, camera, **named, antialiased=mode.antialiased, footprint=mode.footprint)._asdict()


def reference_images(x: dict[str, Any], size: tuple[int, int], mode: Mode, per_tile: int) -> dict[str, Any]:
    """What the reference gives, by name."""
    gaussians, camera = split(x, size)
    everyone = jnp.ones(gaussians.capacity, bool)
    return render_reference(
        *(gaussians, camera, everyone, x["background"], jnp.int32(3), x["mean2d_offset"], mode.footprint),
        max_per_tile=per_tile,
        features=x.get("features"),
        antialiased=mode.antialiased,
    )._asdict()


@partial(jax.jit, static_argnames=("size", "mode", "per_tile"))
def images_and_gradients(
    inputs: dict[str, Any], cotangents: Any, size: tuple[int, int], mode: Mode, per_tile: int | None
) -> tuple[Any, Any]:
    """All images and the gradients of their product with the cotangents; by the reference if `per_tile` is given."""

    def images(x: dict[str, Any]) -> dict[str, Any]:
        every = native_images(x, size, mode) if per_tile is None else reference_images(x, size, mode, per_tile)
        return {name: every[name] for name in cotangents}

    values, pull_back = jax.vjp(images, inputs)
    return values, pull_back(cotangents)[0]


def undecided_pixels(inputs: dict[str, Any], size: tuple[int, int], mode: Mode, per_tile: int) -> np.ndarray:
    """(h, w) bool, where the reference's image changes when its thresholds are moved up or down by the margins."""
    alpha, transmittance = projection.MIN_ALPHA, reference.MIN_TRANSMITTANCE
    images = []
    for sign in (-1, 1):
        try:
            projection.MIN_ALPHA = reference.MIN_ALPHA = alpha * (1 + sign * ALPHA_MARGIN)
            reference.MIN_TRANSMITTANCE = transmittance * (1 + sign * TRANSMITTANCE_MARGIN)
            images.append(jax.jit(lambda x: reference_images(x, size, mode, per_tile))(inputs))
        finally:
            projection.MIN_ALPHA = reference.MIN_ALPHA = alpha
            reference.MIN_TRANSMITTANCE = transmittance
    low, high = (np.asarray(image["alpha"]) for image in images)
    return np.abs(low - high) > 1e-9


@partial(jax.jit, static_argnames=("size", "mode", "per_tile"))
def absolute_gradient(
    inputs: dict[str, Any], cotangents: Any, size: tuple[int, int], mode: Mode, per_tile: int
) -> jax.Array:
    """(n, 2) sums over the pixels of |dL/d(mean2d)|: the reference's gradient of one pixel after another."""
    gaussians, camera = split(inputs, size)
    n, (width, height) = gaussians.capacity, size
    everyone = jnp.ones(n, bool)
    projected = project(
        gaussians, camera, everyone, jnp.int32(3), inputs["mean2d_offset"], mode.footprint, mode.antialiased
    )
    # Each Gaussian's number rides along as a feature, to be found again.
    number = jnp.arange(n, dtype=gaussians.means.dtype)[:, None]
    features = jnp.concatenate([inputs.get("features", number[:, :0]), number], axis=1)
    splats = _sort_by_depth(projected, features)
    across, down = -(-width // TILE), -(-height // TILE)
    # Red, green, blue, depth, features, number, alpha, transmittance left: what `_blend` gives. Beyond the image, 0.
    color, depth, alpha = (cotangents[name] for name in ("color", "depth", "alpha"))
    of_features = cotangents.get("features", color[..., :0])
    rest = jnp.stack([0 * depth, alpha, color @ inputs["background"]], axis=-1)
    by_channel = jnp.concatenate([color, depth[..., None], of_features, rest], axis=-1)
    by_channel = jnp.pad(by_channel, ((0, down * TILE - height), (0, across * TILE - width), (0, 0)))

    def add_tile(total: jax.Array, tile: jax.Array) -> tuple[jax.Array, None]:
        x0, y0 = tile % across * TILE, tile // across * TILE
        chosen, _ = _select_for_tile(splats, x0, y0, per_tile)

        def of_pixel(column: jax.Array, row: jax.Array) -> jax.Array:
            def loss(means: jax.Array) -> jax.Array:
                values = jnp.concatenate([means, chosen.values[:, 2:]], axis=1)
                pixel = _blend(chosen._replace(values=values), column[None], row[None])[0]
                return jnp.vdot(pixel, by_channel[row, column])

            return jnp.abs(jax.grad(loss)(chosen.values[:, :2]))

        pixel = jnp.arange(TILE * TILE)
        sums = jnp.sum(jax.vmap(of_pixel)(x0 + pixel % TILE, y0 + pixel // TILE), axis=0)
        return total.at[chosen.values[:, -1].astype(jnp.int32)].add(sums), None

    start = jnp.zeros((n, 2), gaussians.means.dtype)
    return jax.lax.scan(add_tile, start, jnp.arange(across * down))[0]


def most_per_tile(inputs: dict[str, Any], size: tuple[int, int], mode: Mode) -> int:
    """How many Gaussians the reference has to consider in the fullest tile."""
    gaussians, camera = split(inputs, size)
    everyone = jnp.ones(gaussians.capacity, bool)
    offset = inputs["mean2d_offset"]
    projected = project(gaussians, camera, everyone, jnp.int32(3), offset, mode.footprint, mode.antialiased)
    x0, y0, x1, y1 = np.asarray(projected.boxes)[np.asarray(projected.radii) > 0].T
    # Corners of the rectangles of tiles; their running sums count the rectangles over each tile.
    corners = np.zeros((-(-size[1] // TILE) + 1, -(-size[0] // TILE) + 1), np.int64)
    left, top, right, bottom = x0 // TILE, y0 // TILE, -(-x1 // TILE), -(-y1 // TILE)
    for rows, columns, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(corners, (rows, columns), sign)
    return int(corners.cumsum(0).cumsum(1).max())


def compare(gaussians: Gaussians, camera: Camera, mode: Mode, all_pixels: bool = False) -> tuple[dict[str, float], int]:
    """Relative L2 error by name of image or input; and how many pixels were left out."""
    size = (camera.width, camera.height)
    rng = np.random.default_rng(0)
    shapes = {"color": (3,), "depth": (), "alpha": ()} | ({"features": (mode.channels,)} if mode.channels else {})
    cotangents = {
        name: rng.standard_normal((size[1], size[0], *shape)).astype(np.float32) for name, shape in shapes.items()
    }
    inputs = inputs_of(gaussians, camera, mode)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), inputs)
        per_tile = max(1, most_per_tile(wide, size, mode))
        left_out = np.zeros(size[::-1], bool) if all_pixels else undecided_pixels(wide, size, mode, per_tile)
    for array in cotangents.values():
        array[left_out] = 0
    ours = jax.tree.map(np.asarray, images_and_gradients(inputs, cotangents, size, mode, None))
    with jax.enable_x64(True):
        wide_cotangents = jax.tree.map(lambda a: np.asarray(a, np.float64), cotangents)
        exact = jax.tree.map(np.asarray, images_and_gradients(wide, wide_cotangents, size, mode, per_tile))
        if mode.absolute:
            exact[1][ABSOLUTE] = np.asarray(absolute_gradient(wide, wide_cotangents, size, mode, per_tile))
    pairs = {name: (ours[0][name][~left_out], exact[0][name][~left_out]) for name in cotangents}
    pairs |= {f"d/d {name}": (ours[1][name], exact[1][name]) for name in inputs}
    errors = {name: float(np.linalg.norm(a - b) / np.linalg.norm(b)) for name, (a, b) in pairs.items()}
    return errors, int(np.count_nonzero(left_out))


def print_table(errors: dict[str, dict[str, float]]) -> None:
    """One row per image or input, one column per mode."""
    rows = dict.fromkeys(name for of_mode in errors.values() for name in of_mode)
    print(f"{'':22}" + "".join(f"{mode:>13}" for mode in errors))
    for name in rows:
        cells = (f"{of_mode[name]:.1e}" if name in of_mode else "" for of_mode in errors.values())
        print(f"{name:22}" + "".join(f"{cell:>13}" for cell in cells))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=50_000)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--all-pixels", action="store_true", help="keep pixels where the last digits decide")
    parser.add_argument("--yardstick", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    scene = yardstick_scene(args.yardstick, args.gaussians) if args.yardstick else builtin_scene(args.gaussians)
    errors = {}
    for name in args.modes:
        errors[name], left_out = compare(*scene, MODES[name], args.all_pixels)
        largest = max(errors[name].values())
        print(f"{name}: largest relative error {largest:.1e}, {left_out} pixels left out", file=sys.stderr, flush=True)
    if args.json:
        args.json.write_text(json.dumps(errors, indent=2) + "\n")
    print_table(errors)
    worst = max(max(of_mode.values()) for of_mode in errors.values())
    print(f"largest relative error {worst:.1e}, allowed {TOLERANCE:.0e}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
