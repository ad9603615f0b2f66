"""The decoder of dense prediction transformers (Ranftl et al. 2021): features of four sizes to one map.

Names are those of transformers' DPTForDepthEstimation and DepthAnythingForDepthEstimation, which share the neck.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ipsm_jax.priors.layers import Weights, conv
from ipsm_jax.priors.monodepth.resize import resize

# Part of every checkpoint without any use: the coarsest features have nothing to be added to.
IGNORED = tuple(
    f"neck.fusion_stage.layers.0.residual_layer1.convolution{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")
)


def reassemble(
    w: Weights, level: int, features: Float[Array, "b p q c"], out: int, factor: float
) -> Float[Array, "b p2 q2 {out}"]:
    """Features on the grid of patches, projected to `out` channels and enlarged (4, 2), kept (1) or halved (0.5)."""
    name = f"neck.reassemble_stage.layers.{level}"
    x = conv(w, f"{name}.projection", features, out, kernel=1)
    if factor == 1:
        return x
    if factor < 1:
        return conv(w, f"{name}.resize", x, out, stride=round(1 / factor))
    side = round(factor)
    # a transposed convolution whose blocks do not overlap: every pixel becomes side x side pixels. In the file the
    # inputs come first, so that its HWIO here is (row, column, output, input).
    weight = w(f"{name}.resize.weight", side, side, out, out)
    batch, rows, columns, _ = x.shape
    x = jnp.einsum("bhwi,pqoi->bhpwqo", x, weight, precision="highest")
    x = x.reshape(batch, rows * side, columns * side, out)
    return x + w(f"{name}.resize.bias", out).reshape(1, 1, 1, out)


def fuse(w: Weights, features: Sequence[Float[Array, "b h w c"]], channels: int) -> Float[Array, "b h2 w2 {channels}"]:
    """Add features of rising size, each enlarged to the next one's; the result has twice the size of the finest.

    Args:
      w: weights.
      features: finest first.
      channels: of the sum.
    """
    levels = [conv(w, f"neck.convs.{i}", x, channels, bias=False) for i, x in enumerate(features)][::-1]
    _, height, width, _ = levels[-1].shape
    shapes = [x.shape for x in levels[1:]] + [(1, 2 * height, 2 * width, 1)]
    total = levels[0]
    for i, (level, (_, height, width, _)) in enumerate(zip(levels, shapes, strict=True)):
        name = f"neck.fusion_stage.layers.{i}"
        if i > 0:
            total = total + _residual(w, f"{name}.residual_layer1", level)
        total = _residual(w, f"{name}.residual_layer2", total)
        # transformers projects after enlarging; the order does not matter, since weights of neighbors sum to 1
        total = conv(w, f"{name}.projection", total, channels, kernel=1)
        total = resize(total, (height, width), "linear", align_corners=True)
    return total


def head(
    w: Weights, names: tuple[str, str, str], x: Float[Array, "b h w c"], size: tuple[int, int], hidden: int
) -> Float[Array, "b h2 w2"]:
    """A map >= 0, float32, of (height, width) `size`, by three convolutions of the given names."""
    x = conv(w, names[0], x, x.shape[-1] // 2)
    x = resize(x, size, "linear", align_corners=True)
    x = jax.nn.relu(conv(w, names[1], x, hidden))

    def in_float32(name: str, *shape: int) -> Array:
        return w(name, *shape).astype(jnp.float32)

    # in bfloat16 the map would have 256 steps per power of two
    return jax.nn.relu(conv(in_float32, names[2], x, 1, kernel=1))[..., 0]


def _residual(w: Weights, name: str, x: Array) -> Array:
    # not computed again in the backward pass: it needs nothing but which values were positive
    channels = x.shape[-1]
    y = conv(w, f"{name}.convolution1", jax.nn.relu(x), channels)
    return x + conv(w, f"{name}.convolution2", jax.nn.relu(y), channels)
