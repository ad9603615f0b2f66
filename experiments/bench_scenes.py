"""Scenes to time the rasterizer with: trained-looking ones of any size, hard cases, trained ones.

Every function gives Gaussians and a camera.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ipsm_jax.scene import Camera, Gaussians
from ipsm_jax.trained import EXPECTED_ERRORS, SourceOptions, open_trained

WIDTH, HEIGHT, FOCAL = 504, 378, 407.0


def builtin_scene(count: int, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> tuple[Gaussians, Camera]:
    """A wavy wall of flat Gaussians about one pixel spacing apart, a few layers deep."""
    rng = np.random.default_rng(seed)
    focal = FOCAL * width / WIDTH
    u, v = ((rng.random(count) - 0.5) * size for size in (1.15 * width, 1.15 * height))
    x, y = u / focal, v / focal
    z = 4 + np.sin(5 * x) * np.cos(4 * y) + rng.exponential(0.4, count)
    pixels = np.sqrt(width * height / count) * np.exp(0.65 * rng.standard_normal(count))
    scales = (pixels * z / focal)[:, None] * np.exp(0.4 * rng.standard_normal((count, 3))) * [1, 0.7, 0.12]
    fields = [
        np.stack([x * z, y * z, z], 1),
        np.log(scales),
        rng.standard_normal((count, 4)),
        rng.choice([-1.6, 2.2], count) + 1.2 * rng.standard_normal(count),
        0.8 * rng.standard_normal((count, 3)),
        0.04 * rng.standard_normal((count, 15, 3)),
    ]
    camera = Camera(jnp.eye(4), jnp.array([focal, focal, width / 2, height / 2]), width, height)
    return Gaussians(*(jnp.asarray(f, jnp.float32) for f in fields)), camera


def in_one_tile(count: int) -> tuple[Gaussians, Camera]:
    """All in the middle of one tile, faint enough that many of them are blended."""
    gaussians, camera = builtin_scene(count)
    z = np.asarray(gaussians.means[:, 2])
    rng = np.random.default_rng(1)
    # pixels 248 +- 1 and 184 +- 1: the middle of a 16 x 16 tile
    pixels = np.array([248, 184]) + rng.standard_normal((count, 2)) - [camera.width / 2, camera.height / 2]
    means = np.concatenate([pixels * z[:, None] / FOCAL, z[:, None]], 1)
    return gaussians._replace(
        means=jnp.asarray(means, jnp.float32),
        log_scales=jnp.full((count, 3), np.log(1.2 * 4 / FOCAL), jnp.float32),
        opacity_logits=jnp.asarray(-3 + rng.standard_normal(count), jnp.float32),
    ), camera


def over_the_image(count: int) -> tuple[Gaussians, Camera]:
    """A trained-looking scene behind one faint Gaussian that covers every tile."""
    gaussians, camera = builtin_scene(count)
    return gaussians._replace(
        means=gaussians.means.at[0].set(jnp.array([0, 0, 1.0])),
        log_scales=gaussians.log_scales.at[0].set(2.0),
        opacity_logits=gaussians.opacity_logits.at[0].set(-1.0),
    ), camera


def yardstick_scene(folder: Path, count: int, width: int = WIDTH, height: int = HEIGHT) -> tuple[Gaussians, Camera]:
    """The scene of FOLDER/scene.py, in unconstrained parameters."""
    spec = importlib.util.spec_from_file_location("yardstick_scene", folder / "scene.py")
    if spec is None or spec.loader is None or not (folder / "scene.py").exists():
        raise SystemExit(f"{folder} holds no scene.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    s = module.make(count, W=width, H=height, f=FOCAL * width / WIDTH)
    opacity = np.clip(s["opac"][:, 0].astype(np.float64), 1e-6, 1 - 1e-6)
    fields = (
        s["means"],
        np.log(s["scales"]),
        s["quats"],
        np.log(opacity / (1 - opacity)),
        s["sh"][:, 0],
        s["sh"][:, 1:],
    )
    gaussians = Gaussians(*(jnp.asarray(x, jnp.float32) for x in fields))
    k = s["K"]
    intrinsics = jnp.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])
    return gaussians, Camera(jnp.asarray(s["viewmat"]), intrinsics, s["W"], s["H"])


def trained_scene(run: Path | None, ply: Path | None, scene: str, data_root: Path | None) -> tuple[Gaussians, Camera]:
    """The living Gaussians of a training run or PLY file, from its scene's first test view."""
    try:
        trained = open_trained(SourceOptions(run=run, ply=ply, scene=scene, data_root=data_root))
    except EXPECTED_ERRORS as error:
        raise SystemExit(str(error)) from error
    alive = np.asarray(trained.alive)
    cameras, view = trained.scene.cameras, (trained.scene.test or trained.scene.train)[0]
    camera = Camera(
        jnp.asarray(cameras.camera_from_world[view]),
        jnp.asarray(cameras.intrinsics[view]),
        cameras.width,
        cameras.height,
    )
    return Gaussians(*(jnp.asarray(np.asarray(a)[alive]) for a in trained.gaussians)), camera
