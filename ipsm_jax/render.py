"""Draw new views of a trained scene: ``python -m ipsm_jax.render RUN_FOLDER``. An MP4 along a camera path, and PNGs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from jaxtyping import Array, Bool, Float
from rich.console import Console
from rich.progress import track

from ipsm_jax.data.scene import Scene
from ipsm_jax.rasterizer import compiled_renderer
from ipsm_jax.rasterizer.render import Backend
from ipsm_jax.reporting.files import to_uint8, write_png
from ipsm_jax.reporting.pictures import DepthRange, depth_picture, depth_range
from ipsm_jax.reporting.video import write_video
from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.gaussians import Gaussians
from ipsm_jax.scene.projection import project_points
from ipsm_jax.scene.trajectories import choose_path, ellipse_path, interpolated_path, spiral_path
from ipsm_jax.trained import EXPECTED_ERRORS, CommandError, SourceOptions, open_trained
from ipsm_jax.training.environment import enable_compilation_cache

PathKind = Literal["auto", "test", "interpolated", "spiral", "ellipse"]
_SECONDS_PER_TEST_VIEW = 1.0


def camera_path(scene: Scene, kind: PathKind, frames: int, gaussians: Gaussians, alive: Bool[Array, " n"]) -> Camera:
    """The cameras of a video of this scene, from its training views (or the test views themselves for "test").

    Args:
      scene: cameras, split and depth bounds; without bounds they come from where the Gaussians are.
      kind: "auto" takes a spiral for cameras that face one way, an ellipse for those all around something, and
        otherwise the way through the training views.
      frames: number of frames >= 1; "test" has one for each test view instead.
      gaussians, alive: n slots and which are in use.

    Raises:
      CommandError: if there is no such path for these cameras; says why.
    """
    if kind == "test":
        if not scene.test:
            raise CommandError(f"scene {scene.name} has no test views; choose another --path")
        return scene.cameras[list(scene.test)]
    train = scene.train_cameras
    try:
        kind = choose_path(train) if kind == "auto" else kind
        if kind == "interpolated":
            return interpolated_path(train, frames)
        known = scene.train_bounds
        bounds = depth_bounds(gaussians, alive, train) if known is None else known
        return spiral_path(train, bounds, frames) if kind == "spiral" else ellipse_path(train, frames, bounds)
    except ValueError as error:
        raise CommandError(f"no {kind} path for scene {scene.name}: {error}") from error


def depth_bounds(gaussians: Gaussians, alive: Bool[Array, " n"], cameras: Camera) -> Float[np.ndarray, "1 2"]:
    """Nearest and farthest depth (1st and 99th percentile) of solid Gaussians that the V cameras see, in world units.

    Raises:
      ValueError: if they see none.
    """
    solid = np.asarray(alive) & (np.asarray(gaussians.opacity_logits) > 0)  # more opaque than not
    means = np.asarray(gaussians.means, np.float64)[solid]
    found = [project_points(camera, means) for camera in cameras]
    seen = np.concatenate([view.depth[view.inside] for view in found])
    if not len(seen):
        raise ValueError("the training cameras see no solid Gaussian, so there is nothing to aim at")
    return np.percentile(seen, (1, 99))[None]


def resized(cameras: Camera, width: int | None = None, height: int | None = None, scale: float = 1.0) -> Camera:
    """The cameras with pictures of another size; with another shape they show less at the sides, never more.

    Args:
      cameras: batch.
      width, height: in pixels; one alone keeps the shape, none means `scale` times the present size.
      scale: factor > 0, only without width and height.

    Raises:
      CommandError: for sizes below 1 pixel, or a scale beside a width or height.
    """
    if width is None and height is None:
        width, height = round(cameras.width * scale), round(cameras.height * scale)
    elif scale != 1.0:
        raise CommandError("give either --scale or --width and --height, not both")
    elif width is None:
        assert height is not None
        width = round(cameras.width * height / cameras.height)
    elif height is None:
        height = round(cameras.height * width / cameras.width)
    if width < 1 or height < 1:
        raise CommandError(f"a picture has at least 1x1 pixels, got {width}x{height}")
    factor = max(width / cameras.width, height / cameras.height)
    intrinsics = np.asarray(cameras.intrinsics, np.float32) * np.float32(factor)
    intrinsics[..., 2] -= (cameras.width * factor - width) / 2
    intrinsics[..., 3] -= (cameras.height * factor - height) / 2
    return Camera(cameras.camera_from_world, intrinsics, width, height)


def render_video(
    gaussians: Gaussians,
    alive: Bool[Array, " n"],
    scene: Scene,
    path: Path,
    *,
    kind: PathKind = "auto",
    frames: int = 120,
    fps: float = 30.0,
    background: Float[Any, " 3"],
    sh_degree: int = 3,
    backend: Backend = "auto",
    width: int | None = None,
    height: int | None = None,
    scale: float = 1.0,
    depth: bool = False,
    png: bool = False,
    progress: bool = False,
) -> None:
    """Write an MP4 along a camera path.

    Args:
      gaussians, alive: n slots and which are in use.
      scene: cameras and split.
      path: the file, ends in .mp4. Depth and pictures lie beside it: ``<stem>_depth.mp4``, ``<stem>_frames/``.
      kind, frames: see `camera_path`; "test" shows each test view for a second.
      fps: frames per second.
      background: (3,) color behind everything.
      sh_degree: degree of the spherical harmonics in use.
      backend: rasterizer.
      width, height, scale: size of the pictures, see `resized`.
      depth: write a video of the depth as well.
      png: write every frame as PNG as well (test views under their names).
      progress: show a progress bar.

    Raises:
      CommandError: if there is no such path or size.
      ValueError: if the path does not end in .mp4 or the fps is not positive.
    """
    path = Path(path)
    if frames < 1:
        raise CommandError(f"--frames must be at least 1, got {frames}")
    if not fps > 0:
        raise CommandError(f"--fps must be positive, got {fps}")
    if path.suffix != ".mp4":
        raise CommandError(f"the video's name must end in .mp4, got {path}")
    cameras = resized(camera_path(scene, kind, frames, gaussians, alive), width, height, scale)
    draw = compiled_renderer(sh_degree=sh_degree, background=np.asarray(background), backend=backend)
    count = len(cameras.camera_from_world)
    names = [Path(scene.names[i]).stem for i in scene.test] if kind == "test" else [f"{i:05d}" for i in range(count)]
    repeat = max(1, round(fps * _SECONDS_PER_TEST_VIEW)) if kind == "test" else 1
    folder = path.with_name(f"{path.stem}_frames")

    def colors() -> Iterator[np.ndarray]:
        for index in track(range(count), description="rendering", disable=not progress, transient=True):
            frame = to_uint8(np.asarray(draw(gaussians, cameras[index], alive).color))
            if png:
                write_png(folder / f"{names[index]}.png", frame)
            for _ in range(repeat):
                yield frame

    def depths() -> Iterator[np.ndarray]:
        limits = _common_range(draw, gaussians, alive, cameras)
        for index in track(range(count), description="rendering depth", disable=not progress, transient=True):
            result = draw(gaussians, cameras[index], alive)
            frame = to_uint8(depth_picture(result.depth, result.alpha, limits))
            if png:
                write_png(folder / f"{names[index]}_depth.png", frame)
            for _ in range(repeat):
                yield frame

    write_video(path, colors(), fps=fps)
    if depth:
        write_video(path.with_name(f"{path.stem}_depth.mp4"), depths(), fps=fps)


def _common_range(draw: Any, gaussians: Gaussians, alive: Any, cameras: Camera) -> DepthRange | None:
    """One depth scale for a whole video, from a few of its frames."""
    count = len(cameras.camera_from_world)
    chosen = sorted({round(i) for i in np.linspace(0, count - 1, 6)})
    results = [draw(gaussians, cameras[i], alive) for i in chosen]
    return depth_range(np.stack([r.depth for r in results]), np.stack([r.alpha for r in results]))


@dataclasses.dataclass(frozen=True)
class RenderOptions(SourceOptions):
    """Render a video of a run (or of a PLY file) along a camera path."""

    path: PathKind = "auto"
    """Way of the camera: the test views, through the training views (interpolated), a spiral before the scene, an
    ellipse around it, or what suits the cameras (auto)."""
    frames: int = 120
    """Number of frames; the path 'test' has one for each test view."""
    fps: float = 30.0
    """Frames per second."""
    width: int | None = None
    """Width of the pictures in pixels; default: that of the photos."""
    height: int | None = None
    """Height of the pictures in pixels."""
    scale: float = 1.0
    """Size of the pictures as a multiple of the photos'."""
    depth: bool = False
    """Write a video of the depth as well."""
    png: bool = False
    """Write every frame as a PNG as well, in a folder beside the video."""
    out: Path | None = None
    """The video's file; default: video.mp4 in the run folder, or video_<path>.mp4 if --path is given."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(RenderOptions, args=argv, prog="ipsm-jax render")
    enable_compilation_cache()
    try:
        trained = open_trained(options)
        name = "video" if options.path == "auto" else f"video_{options.path}"
        stem = name if options.ply is None else f"{options.ply.stem}_{name}"
        path = options.out if options.out is not None else trained.folder / f"{stem}.mp4"
        render_video(
            trained.gaussians,
            trained.alive,
            trained.scene,
            path,
            kind=options.path,
            frames=options.frames,
            fps=options.fps,
            background=trained.background,
            sh_degree=trained.sh_degree,
            backend=options.backend,
            width=options.width,
            height=options.height,
            scale=options.scale,
            depth=options.depth,
            png=options.png,
            progress=True,
        )
    except EXPECTED_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    Console().print(str(path), highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
