"""Depth maps and confidence masks of a few posed views: the whole of the stereo, view by view."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from ipsm_jax.scene.camera import Camera
from ipsm_jax.stereo import matching, sweep
from ipsm_jax.stereo.check import cross_check
from ipsm_jax.stereo.geometry import halved, pair, rays
from ipsm_jax.stereo.options import StereoError, StereoOptions
from ipsm_jax.stereo.views import plan

REFINE_STEPS = 12  # to either side
REFINE_PIXELS = 0.5


class StereoDepths(NamedTuple):
    """Depth (V, H, W) float32, camera z in world units, 0 = unknown; confident (V, H, W) bool, never where unknown."""

    depth: np.ndarray
    confident: np.ndarray


Progress = Callable[[int, int], None]


def stereo_depths(
    cameras: Camera,
    images: UInt8[np.ndarray, "v h w 3"],
    bounds: Float[np.ndarray, "v 2"],
    options: StereoOptions | None = None,
    progress: Progress | None = None,
) -> StereoDepths:
    """Depth maps of 2 to 9 views from one another."""
    options = StereoOptions() if options is None else options
    images = jnp.asarray(images)
    if images.shape[1:] != (cameras.height, cameras.width, 3):
        raise StereoError(f"images are {images.shape}, cameras {cameras.height} x {cameras.width}")
    levels = [(jax.jit(sweep.grey)(images), cameras)]
    while max(levels[-1][1].width, levels[-1][1].height) > options.coarse_above:
        levels.append((jax.jit(jax.vmap(sweep.halved_image))(levels[-1][0]), halved(levels[-1][1])))
    todo = plan(cameras, bounds, options, 2 ** (len(levels) - 1))
    views = len(images)
    known = np.flatnonzero(todo.used.any(1))
    shape = None
    steps = len(levels) * len(known) + 1
    done = 0
    best = 1 if todo.wide else max(2, todo.used.shape[1] - 1)
    maps: list = [None] * views
    costs: list = [None] * views
    slants = jnp.tan(jnp.radians(jnp.array(options.slants, jnp.float32))) if todo.wide else None
    for level in range(len(levels) - 1, -1, -1):
        grey, size = levels[level]
        packed = jax.jit(jax.vmap(sweep.pack))(grey)
        for i in known:
            inverse = jnp.asarray(todo.inverse_depths[i])
            arguments = grey, packed, size, int(i), jnp.asarray(todo.sources[i]), jnp.asarray(todo.used[i])
            if level == len(levels) - 1:
                maps[i], costs[i] = _search(*arguments, inverse, slants, todo.planes, best, options)
            else:
                step = REFINE_PIXELS * 2 * float(inverse[1] - inverse[0]) / todo.planes / 2 ** (len(levels) - 1 - level)
                maps[i], costs[i] = _refine(*arguments, maps[i], inverse, step, best, options)
            maps[i].block_until_ready()
            done += 1
            if progress is not None:
                progress(done, steps)
    del shape
    depths = np.zeros((views, cameras.height, cameras.width), np.float32)
    cost = np.ones_like(depths)
    for i in known:
        depths[i], cost[i] = 1 / np.asarray(maps[i]), np.asarray(costs[i])
    agreeing = options.agreeing if options.agreeing is not None else 1 + (views >= 6)
    checked, sure = jax.jit(cross_check, static_argnums=(2, 3, 4))(
        cameras, jnp.asarray(depths), options.reprojection, options.depth_difference, agreeing
    )
    confident = np.asarray(sure) & (cost <= options.highest_cost)
    if progress is not None:
        progress(steps, steps)
    return StereoDepths(np.where(confident, np.asarray(checked), depths), confident)


def _sources(grey, packed, size, i, sources, used):
    relation = pair(size[i], size[sources])
    return sweep.Sources(packed[sources], relation, used)


@partial(jax.jit, static_argnames=("planes", "best", "options"))
def _search(grey, packed, size, i, sources, used, inverse, slants, planes, best, options):
    others = _sources(grey, packed, size, i, sources, used)
    scales = jnp.linspace(inverse[0], inverse[1], planes)
    if slants is None:
        volume = sweep.plane_costs(grey[i], size, others, jnp.ones_like(grey[i]), scales, best)
    else:
        volume = sweep.slanted_costs(
            grey[i], size, others, *rays(size[i]), scales, slants, options.slant_penalty, best
        )
    index, cost = _choose(volume, grey[i], options)
    return inverse[0] + (inverse[1] - inverse[0]) / (planes - 1) * index, cost


@partial(jax.jit, static_argnames=("best", "options"))
def _refine(grey, packed, size, i, sources, used, coarse, inverse, step, best, options):
    others = _sources(grey, packed, size, i, sources, used)
    fine = jnp.repeat(jnp.repeat(coarse, 2, 0), 2, 1)[: size.height, : size.width]
    # offsets in inverse depth of one half pixel each are added as scales of the map at its mean
    relative = step / jnp.median(coarse)
    scales = 1 + relative * jnp.arange(-REFINE_STEPS, REFINE_STEPS + 1)
    volume = sweep.plane_costs(grey[i], size, others, fine, scales, best)
    index, cost = _choose(volume, grey[i], options)
    return jnp.clip(fine * (1 + relative * (index - REFINE_STEPS)), inverse[0], inverse[1]), cost


def _choose(volume, image, options):
    small, large = (round(sweep.COST_UNIT * p) for p in (options.small_penalty, options.large_penalty))
    total = matching.aggregate(volume, image, small, large, options.contrast)
    index = matching.median3(matching.best_plane(total))
    nearest = jnp.round(index).astype(jnp.int32)
    cost = jnp.take_along_axis(volume, nearest[None], axis=0)[0].astype(jnp.float32) / sweep.COST_UNIT
    return index, cost
