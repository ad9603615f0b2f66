"""The result of one rendering, shared by every rasterizer implementation.

Axes: H rows (y down), W columns (x right), n Gaussian slots. Color is linear in [0, inf) display units (1 is white),
depth is camera z in world units, alpha is a fraction in [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class Rendering(NamedTuple):
    """What the rasterizer gives for one camera (METHOD section 2).

    color: (H, W, 3), the blended colors plus the remaining transmittance times the background.
    depth: (H, W), the sum of z * alpha * T over the Gaussians (not divided by alpha), in world units.
    alpha: (H, W), the sum of alpha * T, in [0, 1].
    radii: (n,) int32, the screen radius in pixels of every slot, 0 where the Gaussian is not visible.
    features: (H, W, c), the sum of feature * alpha * T over the Gaussians, without background; c = 0 if none given.
    pair_count: () int32, how many (Gaussian, tile) pairs the native rasterizer drew; 0 from the reference.
    """

    color: Float[Array, "h w 3"]
    depth: Float[Array, "h w"]
    alpha: Float[Array, "h w"]
    radii: Int[Array, " n"]
    features: Float[Array, "h w c"]
    pair_count: Int[Array, ""]
