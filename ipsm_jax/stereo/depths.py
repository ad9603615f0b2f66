"""Depth maps and confidence masks of a few posed views, each matched with the others; `strangers.py` builds on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8, UInt32

from ipsm_jax.scene.camera import Camera
from ipsm_jax.stereo import matching, sweep
from ipsm_jax.stereo.check import cross_check
from ipsm_jax.stereo.geometry import halved, pair, rays
from ipsm_jax.stereo.options import StereoError, StereoOptions
from ipsm_jax.stereo.views import Plan, plan

_REFINEMENTS = np.arange(-12, 13, dtype=np.float32)  # half pixels to either side of the depth found at half the size
_MARGIN = 48  # rows that strips overlap by, because matching looks beyond its pixel

_SMOOTH = 0.01  # relative difference of inverse depth across an edge

Report = Callable[[int, int], None]
"""Called with the steps that are done and all steps."""


class StereoDepths(NamedTuple):
    """Depth maps of V views.

    Attributes:
      depth: (V, H, W) float32 camera z in world units, 0 = unknown. Where a view has anything to be matched with, it is
        known everywhere, but to be believed only where it is confident.
      confident: (V, H, W) bool, whether other views confirm it.
      strangers: views that no other confirms more often than by chance (`strangers.py`); nothing is known of theirs.
    """

    depth: Float[np.ndarray, "v h w"]
    confident: Bool[np.ndarray, "v h w"]
    strangers: tuple[int, ...] = ()


class _Level(NamedTuple):
    """All views at one size: gray (V, H, W) in [0, 1], packed for interpolation, and the cameras."""

    gray: Float[Array, "v h w"]
    packed: UInt32[Array, "v h w"]
    cameras: Camera


class _Task(NamedTuple):
    """The rows of the view from `top` on, and `sources` (S,) where `used` (S,)."""

    view: Any
    top: Any
    sources: Any
    used: Any


def match_views(
    cameras: Camera,
    images: UInt8[np.ndarray, "v h w 3"],
    bounds: Float[np.ndarray, "v 2"],
    options: StereoOptions,
    progress: Report | None = None,
) -> tuple[StereoDepths, Float[np.ndarray, "v v"]]:
    """Depth maps of V views, each from the others, and the share of each one's pixels that each other agrees with.

    Views are matched one at a time, large ones in strips of rows, so that no volume has more than `options.most_cells`
    entries; memory is about 12 bytes for each, and a few images.

    Args and raises: as `strangers.stereo_depths`.
    """
    cameras = jax.tree.map(jnp.asarray, cameras)
    expected = (*cameras.camera_from_world.shape[:1], cameras.height, cameras.width, 3)
    if images.shape != expected or images.dtype != np.uint8:
        raise StereoError(
            f"need photos of shape {expected} as uint8 for the cameras, got {images.shape} {images.dtype}"
        )
    levels = _pyramid(cameras, jnp.asarray(images), options.coarse_above)
    todo = plan(cameras, bounds, options, shrink=2 ** (len(levels) - 1))
    report = _Steps(todo, levels, options.most_cells, progress)
    depths = np.zeros(images.shape[:3], np.float32)
    costs = np.ones_like(depths)
    for view in np.flatnonzero(todo.used.any(axis=1)):
        inverse_depth, costs[view] = _match(levels, todo, int(view), options, report.step)
        depths[view] = 1 / inverse_depth
    agreeing = options.agreeing if options.agreeing is not None else 1 + (len(images) >= 6)
    checked, confirmed, shares = _cross_check(
        cameras, depths, jnp.asarray(todo.related), options.reprojection, options.depth_difference, agreeing
    )
    confident = np.asarray(confirmed) & (costs <= options.highest_cost)
    return StereoDepths(np.where(confident, np.asarray(checked), depths), confident), np.asarray(shares)


class _Steps:
    """Counts what is done for the callback."""

    def __init__(self, todo: Plan, levels: list[_Level], most_cells: int, progress: Report | None) -> None:
        strips = [
            len(_strips(level.cameras, todo.planes if level is levels[-1] else len(_REFINEMENTS), most_cells)[0])
            for level in levels
        ]
        self._all, self._done, self._progress = int(todo.used.any(axis=1).sum()) * sum(strips), 0, progress

    def step(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._all)


def _pyramid(cameras: Camera, images: UInt8[Array, "v h w 3"], largest: int) -> list[_Level]:
    """The views at full size, half the size and so on, down to a longer side of at most `largest` pixels."""
    gray = jax.jit(sweep.gray)(images)
    levels = [_Level(gray, _pack(gray), cameras)]
    while max(cameras.width, cameras.height) > largest:
        cameras, gray = halved(cameras), jax.jit(jax.vmap(sweep.halved_image))(gray)
        levels.append(_Level(gray, _pack(gray), cameras))
    return levels


def _match(
    levels: list[_Level], todo: Plan, view: int, options: StereoOptions, done: Callable[[], None]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Inverse depth of one view from its sources, and the cost 1 - ZNCC there."""
    # Views far apart rarely see the same, so one good match has to be enough.
    falloff = np.float32(0.0 if todo.wide else options.falloff)
    slants = np.tan(np.radians(options.slants if todo.wide else ())).astype(np.float32).reshape(-1, 2)
    limits = todo.inverse_depths[view]
    coarse = None
    for level in reversed(levels):
        height, width = level.cameras.height, level.cameras.width
        tops, rows = _strips(level.cameras, todo.planes if coarse is None else len(_REFINEMENTS), options.most_cells)
        found = np.zeros((2, height, width), np.float32)
        base = None if coarse is None else np.asarray(_enlarge(coarse, height, width))
        for top in tops:
            task = _Task(np.int32(view), np.int32(top), todo.sources[view], todo.used[view])
            if base is None:
                part = _search(level, task, limits, slants, rows, todo.planes, falloff, options)
            else:
                half_pixel = todo.half_pixel[view] * np.float32(levels[0].cameras.width / width)
                part = _refine(level, task, base[top : top + rows], limits, half_pixel, falloff, options)
            # Half of the margin is left to the strip before.
            skip = 0 if top == 0 else _MARGIN // 2
            found[:, top + skip : top + rows] = np.asarray(part)[:, skip:]
            done()
        coarse = jnp.asarray(found[0])
    return found[0], found[1]


def _strips(cameras: Camera, planes: int, most_cells: int) -> tuple[list[int], int]:
    """First rows of strips that together cover an image, and how many rows each has (one program serves all)."""
    most = max(most_cells // (planes * cameras.width), 2 * _MARGIN)
    if cameras.height <= most:
        return [0], cameras.height
    count = -(-(cameras.height - _MARGIN) // (most - _MARGIN))
    return [round(float(top)) for top in np.linspace(0, cameras.height - most, count)], most


@jax.jit
def _pack(gray: Float[Array, "v h w"]) -> UInt32[Array, "v h w"]:
    return jax.vmap(sweep.pack)(gray)


def _prepare(level: _Level, task: _Task, rows: int) -> tuple[Float[Array, "r w"], Camera, sweep.Sources]:
    """The rows of a task, a camera that has only these, and what they are matched with."""
    camera = level.cameras[task.view]
    shift = jnp.array([0.0, 0.0, 0.0, 1.0]) * task.top
    camera = dataclasses.replace(camera, intrinsics=camera.intrinsics - shift, height=rows)
    image = jax.lax.dynamic_slice_in_dim(level.gray[task.view], task.top, rows, axis=0)
    others = sweep.Sources(level.packed[task.sources], pair(camera, level.cameras[task.sources]), task.used)
    return image, camera, others


@partial(jax.jit, static_argnames=("rows", "planes", "options"))
def _search(
    level: _Level,
    task: _Task,
    limits: Float[Array, " 2"],
    slants: Float[Array, "f 2"],
    rows: int,
    planes: int,
    falloff: Float[Array, ""],
    options: StereoOptions,
) -> Float[Array, "2 r w"]:
    """Inverse depth and cost by planes through all depths."""
    image, camera, sources = _prepare(level, task, rows)
    inverse_depths = jnp.linspace(limits[0], limits[1], planes)
    volume = sweep.plane_costs(image, sources, *rays(camera), inverse_depths, slants, options.slant_penalty, falloff)
    index, cost = _choose(volume, image, options)
    return jnp.stack([limits[0] + (limits[1] - limits[0]) / (planes - 1) * index, cost])


@partial(jax.jit, static_argnames="options")
def _refine(
    level: _Level,
    task: _Task,
    base: Float[Array, "r w"],
    limits: Float[Array, " 2"],
    half_pixel: Float[Array, ""],
    falloff: Float[Array, ""],
    options: StereoOptions,
) -> Float[Array, "2 r w"]:
    """Inverse depth and cost by surfaces beside one that is known roughly."""
    image, _, sources = _prepare(level, task, base.shape[0])
    volume = sweep.surface_costs(image, sources, base, jnp.ones_like(base), half_pixel * _REFINEMENTS, falloff)
    index, cost = _choose(volume, image, options)
    return jnp.stack([jnp.clip(base + half_pixel * (index + _REFINEMENTS[0]), limits[0], limits[1]), cost])


def _choose(
    volume: UInt8[Array, "d r w"], image: Float[Array, "r w"], options: StereoOptions
) -> tuple[Float[Array, "r w"], Float[Array, "r w"]]:
    """Index of the surface of each pixel, with a fraction, and its cost."""
    small, large = (round(sweep.COST_UNIT * p) for p in (options.small_penalty, options.large_penalty))
    total = matching.aggregate(volume, image, small, large, options.contrast)
    index = matching.smoothed(matching.median3(matching.best_plane(total, volume)))
    cost = jnp.take_along_axis(volume, jnp.round(index).astype(jnp.int32)[None], axis=0)[0]
    return index, cost.astype(jnp.float32) / sweep.COST_UNIT


@partial(jax.jit, static_argnames=("height", "width"))
def _enlarge(coarse: Float[Array, "h w"], height: int, width: int) -> Float[Array, "h2 w2"]:
    """A map at twice the size, interpolated on surfaces and not across edges."""
    nearest = jnp.repeat(jnp.repeat(coarse, 2, axis=0), 2, axis=1)[:height, :width]
    padded = jnp.pad(coarse, 1, mode="edge")
    # Pixel i of the large image has its center a quarter of a pixel of the small one beside that of pixel i // 2.
    for axis in (0, 1):
        middle = jax.lax.slice_in_dim(padded, 1, padded.shape[axis] - 1, axis=axis)
        before = jax.lax.slice_in_dim(padded, 0, padded.shape[axis] - 2, axis=axis)
        after = jax.lax.slice_in_dim(padded, 2, padded.shape[axis], axis=axis)
        both = jnp.stack([0.75 * middle + 0.25 * before, 0.75 * middle + 0.25 * after], axis=axis + 1)
        shape = list(middle.shape)
        shape[axis] *= 2
        padded = both.reshape(shape)
    smooth = padded[:height, :width]
    return jnp.where(jnp.abs(smooth - nearest) < _SMOOTH * nearest, smooth, nearest)


_cross_check = jax.jit(cross_check, static_argnames=("reprojection", "difference", "agreeing"))
