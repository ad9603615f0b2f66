"""The rasterizer in plain jnp: slow, small, and the oracle for the native one.

A pixel at p blends the Gaussians that cover it, nearest first:

    alpha_i = min(0.99, opacity_i exp(-(p - mean_i)^T conic_i (p - mean_i) / 2)),   T_i = prod_{k<i} (1 - alpha_k)
    color = sum_i c_i alpha_i T_i + T background,   depth = sum_i z_i alpha_i T_i,   alpha = sum_i alpha_i T_i
    and any further features like depth.

A Gaussian with alpha < 1/255 at the pixel is skipped; the first one that would bring T below 1e-4 ends the pixel and is
itself left out. The gradient passes through the clamp at 0.99 as if it was not there.

Work goes by square tiles of pixels, one after another; the backward pass computes a tile again instead of keeping it.
Symbols: h, w image size, n Gaussian slots, p pixels of a tile, k Gaussians considered in a tile.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ipsm_jax.rasterizer.projection import MIN_ALPHA, TILE, Footprint, ProjectedGaussians, project
from ipsm_jax.rasterizer.rendering import Rendering
from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.gaussians import Gaussians

MAX_ALPHA = 0.99
MIN_TRANSMITTANCE = 1e-4
_BLOCK = 64  # Gaussians summed at once, see _transmittance_after


class _Splats(NamedTuple):
    """What blending needs, in drawing order; packed so that a tile fetches its Gaussians with two gathers."""

    values: Float[Array, "n 10+c"]  # mean u, v; conic A, B, C; opacity; r, g, b; depth; c features
    boxes: Int[Array, "n 4"]  # x0, y0, x1, y1; all zero (covering nothing) if invisible


@jax.custom_jvp
def _clamp_alpha(alpha: Float[Array, "p k"]) -> Float[Array, "p k"]:
    """min(alpha, 0.99) with the gradient of the identity."""
    return jnp.minimum(alpha, MAX_ALPHA)


@_clamp_alpha.defjvp
def _clamp_alpha_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _clamp_alpha(*primals), tangents[0]


def _sort_by_depth(projected: ProjectedGaussians, features: Float[Array, "n c"]) -> _Splats:
    """Splats by ascending depth, equal depths by slot index, invisible ones last."""
    key = jnp.where(projected.radii > 0, lax.stop_gradient(projected.depths), jnp.inf)
    order = jnp.argsort(key, stable=True)
    values = jnp.concatenate(
        [
            projected.means2d,
            projected.conics,
            projected.opacities[:, None],
            projected.colors,
            projected.depths[:, None],
            jnp.where(projected.radii[:, None] > 0, features, 0),
        ],
        axis=-1,
    )
    return _Splats(values[order], projected.boxes[order])


def _transmittance_after(alpha: Float[Array, "p k"]) -> Float[Array, "p k"]:
    """prod_{j<=i} (1 - alpha_j) for every i, as the exponential of running sums.

    The sums are products with triangular matrices, first within blocks and then over the blocks' totals: both passes
    compile in a fraction of the time that jnp.cumprod takes on a CPU.
    """
    pixels, count = alpha.shape
    blocks = -(-count // _BLOCK)
    logs = jnp.pad(jnp.log1p(-alpha), ((0, 0), (0, blocks * _BLOCK - count))).reshape(pixels, blocks, _BLOCK)
    up_to = jnp.triu(jnp.ones((_BLOCK, _BLOCK), alpha.dtype))
    earlier_blocks = jnp.triu(jnp.ones((blocks, blocks), alpha.dtype), k=1)
    within = jnp.einsum("pbi,ij->pbj", logs, up_to, precision="highest")
    offsets = jnp.einsum("pb,bc->pc", within[..., -1], earlier_blocks, precision="highest")
    return jnp.exp(within + offsets[..., None]).reshape(pixels, blocks * _BLOCK)[:, :count]


def _blend(splats: _Splats, columns: Int[Array, " p"], rows: Int[Array, " p"]) -> Float[Array, "p 6+c"]:
    """Blend splats, in the order given, at the pixels (columns, rows): r, g, b, depth, alpha, final T."""
    values, boxes = splats
    inside = (columns[:, None] >= boxes[None, :, 0]) & (columns[:, None] < boxes[None, :, 2])
    inside &= (rows[:, None] >= boxes[None, :, 1]) & (rows[:, None] < boxes[None, :, 3])

    dx = columns[:, None].astype(values.dtype) + 0.5 - values[None, :, 0]
    dy = rows[:, None].astype(values.dtype) + 0.5 - values[None, :, 1]
    a, b, c = (values[None, :, i] for i in (2, 3, 4))
    power = -0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy
    # Rounding can make the quadratic form of a very thin Gaussian negative; such a pair is skipped.
    inside &= power <= 0
    alpha = _clamp_alpha(values[None, :, 5] * jnp.exp(jnp.where(inside, power, 0)))

    # First decide who takes part, then blend those only: transmittances stay above 1e-4 and gradients finite.
    contributes = inside & (alpha >= MIN_ALPHA)
    fixed = lax.stop_gradient(jnp.where(contributes, alpha, 0))
    contributes &= _transmittance_after(fixed) >= MIN_TRANSMITTANCE
    alpha = jnp.where(contributes, alpha, 0)
    after = _transmittance_after(alpha)
    before = jnp.concatenate([jnp.ones_like(after[:, :1]), after[:, :-1]], axis=1)
    features = jnp.concatenate([values[:, 6:], jnp.ones_like(values[:, :1])], axis=-1)
    blended = jnp.matmul(alpha * before, features, precision="highest")
    return jnp.concatenate([blended, after[:, -1:]], axis=-1)


def _select_for_tile(
    splats: _Splats, x0: Int[Array, ""], y0: Int[Array, ""], limit: int
) -> tuple[_Splats, Bool[Array, ""]]:
    """The first `limit` splats, in order, whose box overlaps the tile at (x0, y0); and whether there are more."""
    boxes = splats.boxes
    overlaps = (boxes[:, 0] < x0 + TILE) & (boxes[:, 2] > x0) & (boxes[:, 1] < y0 + TILE) & (boxes[:, 3] > y0)
    chosen = jnp.nonzero(overlaps, size=limit, fill_value=0)[0]
    count = jnp.sum(overlaps)
    used = jnp.arange(limit) < count
    # Unused places get an empty box, so that they cover no pixel.
    return _Splats(splats.values[chosen], jnp.where(used[:, None], boxes[chosen], 0)), count > limit


def _untile(tiles: Float[Array, "t p c"], width: int, height: int) -> Float[Array, "h w c"]:
    """Tiles in row-major order back to an image, the parts beyond its edges cut off."""
    across, down = -(-width // TILE), -(-height // TILE)
    grid = tiles.reshape(down, across, TILE, TILE, -1).swapaxes(1, 2)
    return grid.reshape(down * TILE, across * TILE, -1)[:height, :width]


def render_reference(
    gaussians: Gaussians,
    camera: Camera,
    alive: Bool[Array, " n"],
    background: Float[Array, " 3"],
    sh_degree: int | Int[ArrayLike, ""],
    mean2d_offset: Float[Array, "n 2"],
    footprint: Footprint,
    max_per_tile: int | None = None,
    features: Float[Array, "n c"] | None = None,
    antialiased: bool = False,
) -> Rendering:
    """Render without native code, in the precision of `gaussians.means` (float64 where jax has it enabled).

    Args:
      gaussians: n slots.
      camera: one camera (no batch axes; use vmap).
      alive: (n,) bool; dead slots have no influence, whatever they hold.
      background: (3,) color behind everything.
      sh_degree: 0 to 3, may be traced.
      mean2d_offset: (n, 2) pixels added to the projected means; its gradient is dL/d(mean2d).
      footprint: "exact" or "3sigma", see `project`.
      max_per_tile: None lets every tile look at all n Gaussians. A number lets it look only at those whose pixel box
        overlaps it, at most so many: the same image for less work. A tile with more overlapping Gaussians comes out
        as NaN in color, depth, alpha and features, so that nothing goes missing unnoticed.
      features: (n, c) further values to blend, default none.
      antialiased: see `project`.

    Returns:
      Rendering; differentiable in everything but alive, sh_degree and radii.

    Raises:
      ValueError: an unknown footprint, a Python integer degree outside 0..3, a camera with batch axes, or
        max_per_tile below 1.
    """
    if max_per_tile is not None and max_per_tile < 1:
        raise ValueError(f"max_per_tile must be at least 1, or None for no limit; got {max_per_tile}")
    width, height = camera.width, camera.height
    if features is None:
        features = jnp.zeros((gaussians.capacity, 0), gaussians.means.dtype)
    alive = alive & jnp.all(jnp.isfinite(features), axis=-1)  # like those whose other numbers are not finite
    projected = project(gaussians, camera, alive, sh_degree, mean2d_offset, footprint, antialiased)
    splats = _sort_by_depth(projected, features)
    across, down = -(-width // TILE), -(-height // TILE)

    @jax.checkpoint
    def render_tile(tile: Int[Array, ""]) -> Float[Array, "p 6+c"]:
        x0, y0 = tile % across * TILE, tile // across * TILE
        pixel = jnp.arange(TILE * TILE)
        columns, rows = x0 + pixel % TILE, y0 + pixel // TILE
        if max_per_tile is None or max_per_tile >= gaussians.capacity:
            return _blend(splats, columns, rows)
        chosen, overflow = _select_for_tile(splats, x0, y0, max_per_tile)
        return jnp.where(overflow, jnp.nan, _blend(chosen, columns, rows))

    if gaussians.capacity == 0:
        pixels = jnp.zeros((height, width, 6 + features.shape[1]), splats.values.dtype).at[..., -1].set(1)
    else:
        pixels = _untile(lax.map(render_tile, jnp.arange(across * down)), width, height)
    background = jnp.asarray(background, pixels.dtype)
    color = pixels[..., :3] + pixels[..., -1:] * background[None, None, :]
    return Rendering(
        color, pixels[..., 3], pixels[..., -2], projected.radii, pixels[..., 4:-2], jnp.zeros((), jnp.int32)
    )
