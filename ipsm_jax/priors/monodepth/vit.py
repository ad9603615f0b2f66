"""Vision transformers (Dosovitskiy et al. 2021) as the depth networks use them: tokens of patches, and their blocks.

DPT and DINOv2 call the same layers by other names, and DINOv2 scales what each layer adds: both is in the config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ipsm_jax.priors.layers import Weights, attention, layer_norm, linear
from ipsm_jax.priors.monodepth.resize import Kernel, resize


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Structure of a transformer, and what its checkpoint calls its parts.

    Attributes:
      channels: of the tokens.
      hidden: channels within the two linear layers of a block.
      heads: of the attention.
      epsilon: of the layer norms.
      taps: the blocks, counted from 1, whose outputs are handed on; rising.
      grid: patches per side of the square that the position embeddings were trained on.
      position_kernel: how they are interpolated to other grids.
      norms, linears: names of a block's two norms and two linear layers.
      scales: names of the factors on what attention and linear layers add; empty for none.
    """

    channels: int
    hidden: int
    heads: int
    epsilon: float
    taps: tuple[int, ...]
    grid: int
    position_kernel: Kernel
    norms: tuple[str, str]
    linears: tuple[str, str]
    scales: tuple[str, ...] = ()


def with_class_and_position(
    config: ViTConfig, w: Weights, name: str, patches: Float[Array, "b p q c"]
) -> Float[Array, "b n c"]:
    """Tokens of all patches, row by row, behind the class token, with their positions added (n = p q + 1)."""
    batch, rows, columns, channels = patches.shape
    first = w(f"{name}.cls_token", 1, 1, channels)
    positions = w(f"{name}.position_embeddings", 1, config.grid**2 + 1, channels)
    grid = positions[:, 1:].astype(jnp.float32).reshape(1, config.grid, config.grid, channels)
    grid = resize(grid, (rows, columns), config.position_kernel).astype(positions.dtype)
    first = jnp.broadcast_to(first + positions[:, :1], (batch, 1, channels))
    return jnp.concatenate([first, (patches + grid).reshape(batch, rows * columns, channels)], axis=1)


def encode(config: ViTConfig, w: Weights, name: str, tokens: Float[Array, "b n c"]) -> Sequence[Float[Array, "b n c"]]:
    """The tokens after each of the blocks `config.taps`; blocks after the last are not part of the network's output.

    What the backward pass needs is computed again block by block, so that only the blocks' inputs are kept. (XLA for
    CPUs joins the two computations again.)
    """
    outputs = []
    for i in range(config.taps[-1]):

        def block(x: Array, layer: str = f"{name}.layer.{i}") -> Array:
            return _block(config, w, layer, x)

        tokens = jax.checkpoint(block)(tokens)
        if i + 1 in config.taps:
            outputs.append(tokens)
    return outputs


def _block(config: ViTConfig, w: Weights, name: str, x: Array) -> Array:
    """Attention and two linear layers, each on normalized tokens and added to them."""

    def scaled(part: int, y: Array) -> Array:
        if not config.scales:
            return y
        return y * w(f"{name}.{config.scales[part]}.lambda1", config.channels).reshape(1, 1, -1)

    normed = layer_norm(w, f"{name}.{config.norms[0]}", x, config.epsilon)
    query, key, value = (
        linear(w, f"{name}.attention.attention.{part}", normed, config.channels) for part in ("query", "key", "value")
    )
    attended = attention(query, key, value, config.heads)
    x = x + scaled(0, linear(w, f"{name}.attention.output.dense", attended, config.channels))
    normed = layer_norm(w, f"{name}.{config.norms[1]}", x, config.epsilon)
    hidden = jax.nn.gelu(linear(w, f"{name}.{config.linears[0]}", normed, config.hidden), approximate=False)
    return x + scaled(1, linear(w, f"{name}.{config.linears[1]}", hidden, config.channels))
