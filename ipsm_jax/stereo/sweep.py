"""The cost of depths: how unlike a view's windows are what the other views show on surfaces swept through space.

Surfaces have the inverse depth w(u, v) = base + step x slope, for many steps. With base 0 and slope 1 these are planes
parallel to the image, with a slope linear in the ray they are slanted, and with a depth map as base they are its
neighbors: one sweep serves all. The cost is the mean of 1 - ZNCC over windows of 3 x 3 and 7 x 7 pixels, clipped to
[0, 1]; ZNCC does not change with brightness and contrast, so exposures may differ. It is kept as uint8, 255 = 1: the
volume of costs is what memory goes into. Surfaces come one after the other, so all else takes a few images.

Images are (H, W) gray in [0, 1].
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, UInt8, UInt32

from ipsm_jax.stereo.geometry import Pair, project

UNSEEN = 0.6
"""Cost where no source sees the pixel: dearer than a fair match, cheaper than a bad one."""
COST_UNIT = 255.0
_RADII = (1, 3)  # of the windows
_PAD = max(_RADII)
_LEAST_COSINE = 0.2
_NOISE = 4e-5
"""Variance added to that of a window, about that of rounding to 8 bits and sensor noise (1.6 gray levels of 255)."""


class Sources(NamedTuple):
    """Up to S views that a reference is matched with.

    Attributes:
      packed: (S, H, W) uint32, each pixel and its right, lower and lower right neighbor in 8 bits each, so that
        interpolation between the four looks up one number.
      relation: their S relations to the reference.
      used: (S,) bool, False where there are fewer.
    """

    packed: UInt32[Array, "s h w"]
    relation: Pair
    used: Bool[Array, " s"]


def pack(image: Float[Array, "h w"]) -> UInt32[Array, "h w"]:
    """An image as `Sources.packed` has it."""
    gray = jnp.pad(jnp.round(jnp.clip(image, 0, 1) * 255).astype(jnp.uint32), ((0, 1), (0, 1)), mode="edge")
    return gray[:-1, :-1] | (gray[:-1, 1:] << 8) | (gray[1:, :-1] << 16) | (gray[1:, 1:] << 24)


def interpolate(packed: UInt32[Array, "h w"], x: Float[Array, "m n"], y: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """Bilinear gray values in [0, 1] at columns x and rows y; outside, those of the nearest pixel."""
    height, width = packed.shape
    x, y = jnp.clip(x - 0.5, 0, width - 1), jnp.clip(y - 0.5, 0, height - 1)
    column, row = x.astype(jnp.int32), y.astype(jnp.int32)
    right, down = x - column, y - row
    four = packed.reshape(-1).at[row * width + column].get(mode="promise_in_bounds")

    def gray(shift: int) -> Float[Array, "m n"]:
        return ((four >> shift) & 255).astype(jnp.int32).astype(jnp.float32)

    upper = gray(0) + right * (gray(8) - gray(0))
    lower = gray(16) + right * (gray(24) - gray(16))
    return (upper + down * (lower - upper)) / 255


def _box_means(padded: Float[Array, "hp wp"]) -> list[Float[Array, "h w"]]:
    """Mean over each window around each pixel, of an image with `_PAD` more pixels on all sides."""
    height, width = (n - 2 * _PAD for n in padded.shape)
    means = []
    for radius in _RADII:
        columns = _sum_of_shifted(padded, radius, height, axis=0)
        means.append(_sum_of_shifted(columns, radius, width, axis=1) / (2 * radius + 1) ** 2)
    return means


def _sum_of_shifted(padded: Array, radius: int, size: int, axis: int) -> Array:
    # Sums of slices become one loop; on the CPU neither a convolution nor a windowed reduction is as fast.
    offsets = range(_PAD - radius, _PAD + radius + 1)
    return functools.reduce(jnp.add, [lax.slice_in_dim(padded, i, i + size, axis=axis) for i in offsets])


def surface_costs(
    image: Float[Array, "h w"],
    sources: Sources,
    base: Float[Array, "h w"],
    slope: Float[Array, "h w"],
    steps: Float[Array, " d"],
    falloff: float | Float[Array, ""],
) -> UInt8[Array, "d h w"]:
    """Costs of the surfaces base + step x slope, for each pixel a mean over the sources that see it.

    Args:
      image: the reference, or some of its rows (`sources.relation` is then that of a camera that has only those).
      sources: what it is compared with.
      base, slope: in 1 / world units.
      steps: of the surfaces.
      falloff: weight of a source relative to that of the next cheaper one, in [0, 1]; 0 takes the cheapest alone.
    """
    height, width = image.shape
    # Beyond the border the outermost pixels are repeated, in the reference and in what is compared with it.
    column = jnp.clip(jnp.arange(-_PAD, width + _PAD), 0, width - 1)
    row = jnp.clip(jnp.arange(-_PAD, height + _PAD), 0, height - 1)
    u, v = jnp.meshgrid(column + 0.5, row + 0.5)
    image, base, slope = (jnp.pad(array, _PAD, mode="edge") for array in (image, base, slope))
    means = _box_means(image)
    spreads = [_inverse_deviation(s, m) for s, m in zip(_box_means(image * image), means, strict=True)]

    def source_cost(packed: Array, relation: Pair, inverse_depth: Array) -> Float[Array, "h w"]:
        """1 - ZNCC, 2 where the source does not see the pixel."""
        at = project(relation, u, v, inverse_depth, *packed.shape)
        seen = interpolate(packed, at.x, at.y)
        likeness = jnp.zeros((height, width))
        windows = zip(_box_means(seen), _box_means(seen * seen), _box_means(seen * image), means, spreads, strict=True)
        for mean, square, product, own_mean, own_spread in windows:
            likeness += (product - mean * own_mean) * _inverse_deviation(square, mean) * own_spread
        cost = jnp.clip(1 - likeness / len(_RADII), 0, 1)
        return jnp.where(at.visible[_PAD:-_PAD, _PAD:-_PAD], cost, 2.0)

    def cost_of(step: Array) -> UInt8[Array, "h w"]:
        inverse_depth = base + step * slope

        def cost(i: int) -> Float[Array, "h w"]:
            relation = Pair(sources.relation.infinite[i], sources.relation.epipole[i])
            unseen = jnp.full((height, width), 2.0)
            return lax.cond(
                sources.used[i], lambda: source_cost(sources.packed[i], relation, inverse_depth), lambda: unseen
            )

        costs = [cost(i) for i in range(sources.used.shape[0])]
        return jnp.round(robust_mean(costs, falloff) * COST_UNIT).astype(jnp.uint8)

    return lax.map(cost_of, steps)


def _inverse_deviation(square: Array, mean: Array) -> Array:
    return 1 / jnp.sqrt(jnp.maximum(square - mean * mean, 0) + _NOISE)


def robust_mean(costs: list[Float[Array, "h w"]], falloff: float | Float[Array, ""]) -> Float[Array, "h w"]:
    """Mean of the costs that are at most 1, each weighing `falloff` times the next smaller one; `UNSEEN` without any.

    An occluded source costs too much, so the cheapest weighs most.
    """
    costs = list(costs)
    # Sorted by exchanging neighbors: for so few, much faster than a sort.
    for last in range(len(costs) - 1, 0, -1):
        for i in range(last):
            costs[i], costs[i + 1] = jnp.minimum(costs[i], costs[i + 1]), jnp.maximum(costs[i], costs[i + 1])
    total, weights = jnp.zeros_like(costs[0]), jnp.zeros_like(costs[0])
    weight = jnp.float32(1.0)
    for cost in costs:
        seen = jnp.where(cost <= 1, weight, 0.0)
        total, weights = total + seen * cost, weights + seen
        weight = weight * falloff
    return jnp.where(weights > 0, total / jnp.maximum(weights, 1.0), UNSEEN)


def plane_costs(
    image: Float[Array, "h w"],
    sources: Sources,
    ray_x: Float[Array, "h w"],
    ray_y: Float[Array, "h w"],
    inverse_depths: Float[Array, " d"],
    slants: Float[Array, "f 2"],
    penalty: float,
    falloff: float | Float[Array, ""],
) -> UInt8[Array, "d h w"]:
    """Costs of inverse depths, each the smallest over a plane parallel to the image and slanted ones through the point.

    Args:
      image, sources, falloff: as above.
      ray_x, ray_y: rays through the pixels, at z = 1.
      inverse_depths: at least two, evenly spaced, increasing.
      slants: tangents of the angles between normals and optical axis, horizontal and vertical; F may be 0.
      penalty: added to the cost of slanted planes.
    """
    zero, one = jnp.zeros_like(image), jnp.ones_like(image)
    parallel = surface_costs(image, sources, zero, one, inverse_depths, falloff)
    if not len(slants):
        return parallel
    length = jnp.sqrt(1 + ray_x**2 + ray_y**2)
    count = len(inverse_depths)

    def with_slant(volume: UInt8[Array, "d h w"], slant: Float[Array, " 2"]) -> tuple[UInt8[Array, "d h w"], None]:
        slope = 1 + slant[0] * ray_x + slant[1] * ray_y
        # Cosine of the angle between normal and ray: planes seen from behind or almost along them say nothing.
        facing = slope / (length * jnp.sqrt(1 + jnp.sum(slant**2))) > _LEAST_COSINE
        slope = jnp.where(facing, slope, 1.0)
        # Planes that pass every pixel at every inverse depth; each pixel's costs are then looked up between them.
        first, last = inverse_depths[0] / jnp.max(slope), inverse_depths[-1] / jnp.min(slope)
        costs = surface_costs(image, sources, zero, slope, jnp.linspace(first, last, count), falloff)

        def smaller(plane: tuple[Array, Array]) -> UInt8[Array, "h w"]:
            inverse_depth, known = plane
            index = jnp.clip((inverse_depth / slope - first) / (last - first) * (count - 1), 0, count - 1)
            lower = jnp.clip(index.astype(jnp.int32), 0, count - 2)
            below, above = (
                jnp.take_along_axis(costs, (lower + i)[None], axis=0)[0].astype(jnp.float32) for i in (0, 1)
            )
            cost = below + (index - lower) * (above - below) + penalty * COST_UNIT
            return jnp.where(facing & (cost < known), jnp.round(cost), known).astype(jnp.uint8)

        return lax.map(smaller, (inverse_depths, volume)), None

    return lax.scan(with_slant, parallel, slants)[0]


def gray(images: UInt8[Array, "*b h w 3"]) -> Float[Array, "*b h w"]:
    """Luma in [0, 1] of 8-bit RGB."""
    weights = jnp.array([0.299, 0.587, 0.114], jnp.float32) / 255
    return jnp.einsum("...c,c->...", images.astype(jnp.float32), weights, precision="highest")


def halved_image(image: Float[Array, "h w"]) -> Float[Array, "h2 w2"]:
    """Means of 2 x 2 pixels; at odd sizes the last row or column counts twice."""
    height, width = image.shape
    image = jnp.pad(image, ((0, height % 2), (0, width % 2)), mode="edge")
    height, width = image.shape
    return jnp.mean(image.reshape(height // 2, 2, width // 2, 2), axis=(1, 3))
