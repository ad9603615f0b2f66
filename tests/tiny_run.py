"""A scene of a few pixels in LLFF layout, Gaussians that fill it, and a run folder with a checkpoint of them."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ipsm_jax.config import DataConfig, TrainConfig, to_json
from ipsm_jax.data.load import load_scene
from ipsm_jax.data.scene import Scene
from ipsm_jax.reporting.files import write_png
from ipsm_jax.scene.camera import look_at
from ipsm_jax.scene.gaussians import Gaussians, gaussians_from_points
from ipsm_jax.training.checkpoint import save_checkpoint
from ipsm_jax.training.state import init_state

WIDTH, HEIGHT, VIEWS = 40, 34, 9


def write_scene(folder: Path) -> Path:
    """Nine photos of noise blocks from cameras side by side; test views are 0 and 8."""
    rng = np.random.default_rng(0)
    rows = []
    for view in range(VIEWS):
        blocks = rng.integers(40, 220, (HEIGHT // 2 + 1, WIDTH // 2, 3), dtype=np.uint8)
        write_png(folder / "images" / f"view{view}.png", blocks.repeat(2, 0).repeat(2, 1)[:HEIGHT, :WIDTH])
        matrix = look_at((0.1 * view - 0.4, 0.02 * (view % 3), 0), (0, 0, 4)).astype(np.float64)
        right, down, forward = matrix[:3, :3]
        center = -matrix[:3, :3].T @ matrix[:3, 3]
        pose = np.stack([down, right, -forward, center, np.array([HEIGHT, WIDTH, 50.0])], axis=1)
        rows.append(np.concatenate([pose.ravel(), [2.0, 8.0]]))
    np.save(folder / "poses_bounds.npy", np.stack(rows))
    return folder


def tiny_scene(folder: Path) -> Scene:
    return load_scene(str(write_scene(folder)), downscale=1)


def tiny_gaussians(count: int = 40) -> tuple[Gaussians, jax.Array]:
    """Colored blobs at depth 3 to 5, in 64 slots."""
    rng = np.random.default_rng(1)
    points = rng.uniform((-1.5, -1.2, 3), (1.5, 1.2, 5), (count, 3))
    gaussians, alive = gaussians_from_points(points, rng.uniform(0.2, 0.9, (count, 3)), 64)
    return gaussians._replace(opacity_logits=jnp.where(alive, 2.0, 0.0)), alive


def write_run(folder: Path, scene: Path) -> Path:
    """A run folder as training leaves it, with checkpoints after 20 and 30 iterations."""
    config = TrainConfig(data=DataConfig(scene=str(scene), downscale=1))
    gaussians, alive = tiny_gaussians()
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(to_json(dataclasses.replace(config)))
    (folder / "log.jsonl").write_text('{"iteration": 10, "loss": 0.3, "psnr": 12.0, "gaussians": 40, "seconds": 1.0}\n')
    for step in (20, 30):
        state = init_state(jax.random.key(0), gaussians, alive)
        save_checkpoint(folder, config, state._replace(step=jnp.int32(step)))
    return folder
