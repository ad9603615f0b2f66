"""Semi-global matching: the plane of each pixel from a volume of costs (Hirschmüller 2008, equation 13).

Along each of 8 directions, the cost of a pixel p at plane d, given its predecessor q on the way, is

    L(p, d) = C(p, d) + min(L(q, d), L(q, d - 1) + P1, L(q, d + 1) + P1, min_k L(q, k) + P2) - min_k L(q, k),

and the plane is where the sum over the directions is smallest. A jump costs less, P2 = large / (1 + contrast |dI|),
where the gray value I jumps too. Whole numbers throughout, in units of 1/255 of the cost.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int16, UInt8

_BEYOND = 10_000  # cost of planes before the first and after the last; more than any path, and no overflow in int16


def aggregate(
    costs: UInt8[Array, "d h w"], image: Float[Array, "h w"], small: int, large: int, contrast: float
) -> Int16[Array, "h d w"]:
    """Sum of the path costs over 8 directions.

    Args:
      costs: of D planes.
      image: the reference, gray in [0, 1].
      small, large: P1 and the P2 of even areas in units of 1/255, at most 3 000.
      contrast: how much less P2 is across edges.
    """
    rows = jnp.moveaxis(costs, 1, 0)
    columns = jnp.moveaxis(costs, 2, 0)
    total = _downward(rows, image, (-1, 0, 1), small, large, contrast, reverse=False)
    total += _downward(rows, image, (-1, 0, 1), small, large, contrast, reverse=True)
    sideways = _downward(columns, image.T, (0,), small, large, contrast, reverse=False)
    sideways += _downward(columns, image.T, (0,), small, large, contrast, reverse=True)
    return total + jnp.transpose(sideways, (2, 1, 0))


def _downward(
    costs: UInt8[Array, "h d w"],
    image: Float[Array, "h w"],
    directions: tuple[int, ...],
    small: int,
    large: int,
    contrast: float,
    *,
    reverse: bool,
) -> Int16[Array, "h d w"]:
    """Sum of the path costs that come from the row before (after, if reversed), `directions` columns aside."""
    _, planes, width = costs.shape

    def row(
        state: tuple[list[Int16[Array, "d w"]], Float[Array, " w"]], here: tuple[Array, Array]
    ) -> tuple[tuple[list[Int16[Array, "d w"]], Float[Array, " w"]], Int16[Array, "d w"]]:
        paths, gray_before = state
        cost, gray = here[0].astype(jnp.int16), here[1]
        after = []
        for direction, path in zip(directions, paths, strict=True):
            # A path that comes from outside the image starts here: all its costs are 0.
            path, beside = _shifted(path, direction, 0), _shifted(gray_before[None], direction, 0.0)[0]
            jump = (large / (1 + contrast * jnp.abs(gray - beside))).astype(jnp.int16)
            lowest = jnp.min(path, axis=0)
            edge = jnp.full((1, width), _BEYOND, jnp.int16)
            neighbor = jnp.minimum(
                jnp.concatenate([path[1:], edge], axis=0), jnp.concatenate([edge, path[:-1]], axis=0)
            )
            step = jnp.minimum(jnp.minimum(path, neighbor + jnp.int16(small)), (lowest + jump)[None])
            after.append(cost + step - lowest[None])
        return (after, gray), sum(after[1:], after[0])

    start = [jnp.zeros((planes, width), jnp.int16) for _ in directions]
    return lax.scan(row, (start, image[0]), (costs, image), reverse=reverse)[1]


def _shifted(rows: Array, columns: int, fill: float) -> Array:
    """What is `columns` (-1, 0 or 1) to the side, `fill` where that is outside."""
    if columns == 0:
        return rows
    edge = jnp.full_like(rows[:, :1], fill)
    parts = [rows[:, 1:], edge] if columns > 0 else [edge, rows[:, :-1]]
    return jnp.concatenate(parts, axis=1)


def best_plane(total: Int16[Array, "h d w"], costs: UInt8[Array, "d h w"]) -> Float[Array, "h w"]:
    """Index of the plane with the smallest sum, between planes by the parabola through the costs of its neighbors.

    The costs themselves and not their sums: P1 makes these steep to either side of a whole plane, which would draw all
    depths to whole planes.
    """
    planes = total.shape[1]
    index = jnp.argmin(total, axis=1)
    inner = jnp.clip(index, 1, planes - 2)
    before, here, after = (
        jnp.take_along_axis(costs, (inner + offset)[None], axis=0)[0].astype(jnp.float32) for offset in (-1, 0, 1)
    )
    curvature = before - 2 * here + after
    offset = jnp.where(curvature > 0, 0.5 * (before - after) / jnp.where(curvature > 0, curvature, 1.0), 0.0)
    # At the first and the last plane there is no parabola.
    return jnp.where(index == inner, inner + jnp.clip(offset, -0.5, 0.5), index.astype(jnp.float32))


def median3(values: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Median over 3 x 3 pixels; at the border the outermost ones are repeated."""
    height, width = values.shape
    padded = jnp.pad(values, 1, mode="edge")
    v = [lax.dynamic_slice(padded, (i, j), (height, width)) for i in range(3) for j in range(3)]
    # Sorting each row of three, then the median of (largest of the lows, median of the middles, smallest of the highs).
    low, middle, high = zip(*(_sorted3(*v[i : i + 3]) for i in (0, 3, 6)), strict=True)
    highest_low = jnp.maximum(jnp.maximum(low[0], low[1]), low[2])
    lowest_high = jnp.minimum(jnp.minimum(high[0], high[1]), high[2])
    return _sorted3(highest_low, _sorted3(*middle)[1], lowest_high)[1]


def smoothed(index: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Mean over those of the 3 x 3 pixels that differ by less than one plane from the middle: edges stay."""
    height, width = index.shape
    padded = jnp.pad(index, 1, constant_values=-jnp.inf)
    total, count = jnp.zeros_like(index), jnp.zeros_like(index)
    for i in range(3):
        for j in range(3):
            other = lax.dynamic_slice(padded, (i, j), (height, width))
            near = jnp.abs(other - index) < 1
            total, count = total + jnp.where(near, other, 0.0), count + near
    return total / count


def _sorted3(a: Array, b: Array, c: Array) -> tuple[Array, Array, Array]:
    a, b = jnp.minimum(a, b), jnp.maximum(a, b)
    b, c = jnp.minimum(b, c), jnp.maximum(b, c)
    a, b = jnp.minimum(a, b), jnp.maximum(a, b)
    return a, b, c
