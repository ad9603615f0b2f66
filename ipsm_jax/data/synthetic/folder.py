"""The built-in scene as a folder in LLFF's layout, so that it goes through the same loader as real photos.

    poses_bounds.npy   (views, 17) float64: 3 x 5 matrix (columns down, right, backwards, position, (height, width,
                       focal)), then nearest and farthest depth
    images/NNN.png     8-bit sRGB
    depths/NNN.npy     (height, width) float32, exact camera z on the ray through each pixel's center
    demo.json          what made it; written last

World units are those of still_life.py; pixels have their center at +0.5; the principal point is the middle.
"""

from __future__ import annotations

import functools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ipsm_jax.data.cache import atomic_folder, cache_root, digest
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.synthetic.still_life import VIEWS, cameras, intrinsics, still_life
from ipsm_jax.data.synthetic.tracer import render_view

WIDTH, HEIGHT = 504, 378


def demo_scene_path(cache_dir: Path | None = None) -> Path:
    """Folder of the built-in scene (24 views of 504 x 378), made now if it is not in the cache.

    The folder appears complete or not at all, however many processes ask for it at once. Its path holds a digest of the
    code that makes it: a changed generator makes a new scene instead of mixing with an old one.

    Args:
      cache_dir: the cache's root; default $IPSM_JAX_CACHE, else ~/.cache/ipsm_jax.

    Raises:
      DataError: if the scene is not there and the cache cannot be written to.
    """
    folder = (cache_dir or cache_root()) / "scenes" / generator_digest() / "demo"
    return ensure_scene(folder, WIDTH, HEIGHT, VIEWS)


def ensure_scene(folder: Path, width: int, height: int, views: int) -> Path:
    """Make the scene at `folder` unless it is there; the arguments are those of `make_scene`.

    Raises:
      DataError: if a folder on the way cannot be made or written to, or `folder` holds only part of a scene.
    """
    # In this order: another process may finish the scene in between, and it appears whole.
    occupied = folder.is_dir() and any(folder.iterdir())
    if (folder / "demo.json").is_file():
        return folder
    if occupied:
        raise DataError(
            f"The built-in scene in {folder} is incomplete (no demo.json): part of it was deleted. "
            "Delete that folder; it is made again at the next use."
        )
    try:
        with atomic_folder(folder) as unfinished:
            make_scene(unfinished, width, height, views, progress=True)
    except OSError as error:
        raise DataError(
            f"The built-in scene is made at first use, but {folder} cannot be written to ({error.strerror}). "
            "Set the environment variable IPSM_JAX_CACHE to a folder with room where you may write."
        ) from error
    return folder


def make_scene(
    folder: Path,
    width: int = WIDTH,
    height: int = HEIGHT,
    views: int = VIEWS,
    *,
    samples: int = 2,
    shiny: float = 1.0,
    progress: bool = False,
) -> None:
    """Trace the scene and write its files into `folder`, which is created where it is missing.

    Args:
      folder: where; files in it are overwritten.
      width, height: picture size in pixels; the horizontal field of view is the same at any size.
      views: number of cameras along the same sweep.
      samples: samples x samples rays per pixel.
      shiny: 1, or 0 to leave out all that depends on the viewpoint.
      progress: show a progress bar on stderr.

    Raises:
      OSError: if a file cannot be written.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "depths").mkdir(exist_ok=True)
    shapes, matrices, lens = still_life(), cameras(views), intrinsics(width, height)
    pinhole = np.array([lens.focal, lens.focal, lens.cx, lens.cy], np.float32)
    trace = functools.partial(render_view, width=width, height=height, samples=samples)

    def make_view(index: int) -> tuple[float, float]:
        # A thread's default device is its own. The loops over few shapes are work for a CPU, wherever training runs.
        with jax.default_device(_cpu()):
            color, depth = (np.asarray(array) for array in trace(shapes, matrices[index], pinhole, shiny))
        picture = np.round(color * 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{index:03d}.png")
        np.save(folder / "depths" / f"{index:03d}.npy", depth)
        return float(depth.min()), float(depth.max())

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bounds = []
    with (
        Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar,
        ThreadPoolExecutor(max(1, min(len(_processors()), views))) as pool,
    ):
        task = bar.add_task("Making the built-in scene, once", total=views)
        # The first view compiles; the others wait so that none compiles the same again.
        bounds.append(make_view(0))
        bar.advance(task)
        for pair in pool.map(make_view, range(1, views)):
            bounds.append(pair)
            bar.advance(task)
    np.save(folder / "poses_bounds.npy", poses_bounds(matrices, width, height, lens.focal, np.array(bounds)))
    description = {"generator": generator_digest(), "width": width, "height": height, "views": views}
    (folder / "demo.json").write_text(json.dumps(description, indent=2) + "\n")


def poses_bounds(
    camera_from_world: np.ndarray, width: int, height: int, focal: float, bounds: np.ndarray
) -> np.ndarray:
    """(V, 17) float64 rows of LLFF's poses_bounds.npy from (V, 4, 4) OpenCV matrices and (V, 2) depth bounds."""
    rotation = np.asarray(camera_from_world, np.float64)[:, :3, :3]
    translation = np.asarray(camera_from_world, np.float64)[:, :3, 3]
    right, down, forward = rotation[:, 0], rotation[:, 1], rotation[:, 2]
    center = -np.einsum("vji,vj->vi", rotation, translation)
    size = np.broadcast_to([float(height), float(width), focal], center.shape)
    matrix = np.stack([down, right, -forward, center, size], axis=-1)
    return np.concatenate([matrix.reshape(len(matrix), 15), bounds], axis=1)


@functools.cache
def generator_digest() -> str:
    """Hexadecimal digits that change with the code of this package."""
    return digest(source.read_bytes() for source in sorted(Path(__file__).parent.glob("*.py")))


def _cpu() -> jax.Device | None:
    """The CPU device; None (leave the default) where it is the default or the CPU platform is switched off."""
    if jax.default_backend() == "cpu":
        return None
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _processors() -> set[int]:
    """Processors that this process may use; systems that do not tell have them all."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
