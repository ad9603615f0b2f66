"""The ResNet in front of DPT-Hybrid's transformer: bottlenecks with standardised kernels and group norms (BiT).

Kolesnikov et al. 2020; weight standardisation: Qiao et al. 2019. Names are those of transformers' BitModel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ipsm_jax.priors.config import MOST_LAYERS, PriorError, check_settings, integer, integers
from ipsm_jax.priors.layers import Weights, conv, group_norm
from ipsm_jax.priors.monodepth.settings import present, stages

_EPSILON = 1e-5  # of the group norms
_KERNEL_EPSILON = 1e-8

# What a file that leaves a setting out means by it (transformers' BitConfig).
_DEFAULTS: dict[str, Any] = {
    "depths": [3, 4, 6, 3],
    "embedding_dynamic_padding": False,
    "embedding_size": 64,
    "global_padding": None,
    "hidden_sizes": [256, 512, 1024, 2048],
    "layer_type": "preactivation",
    "num_groups": 32,
}
# What DPT-Hybrid has where its file leaves the ResNet out.
HYBRID: dict[str, Any] = {
    "depths": [3, 4, 9],
    "embedding_dynamic_padding": True,
    "global_padding": "SAME",
    "layer_type": "bottleneck",
    "out_features": ["stage1", "stage2", "stage3"],
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "embedding_dynamic_padding": (True,),
    "global_padding": ("SAME", "same"),
    "hidden_act": ("relu",),
    "layer_type": ("bottleneck",),
    "model_type": ("bit",),
    "num_channels": (3,),
    "output_stride": (32,),
    "width_factor": (1,),
}


@dataclasses.dataclass(frozen=True)
class BiTConfig:
    """Structure of the ResNet.

    Attributes:
      stem: channels after the first convolution.
      channels: per stage; the stages' outputs are 1/4, 1/8 and 1/16 of the picture's size.
      depths: bottlenecks per stage.
      groups: of the group norms.
    """

    stem: int
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    groups: int

    @classmethod
    def from_json(cls, config: Mapping[str, Any], where: str) -> BiTConfig:
        """Read the settings of the ResNet out of a config.json.

        Raises:
          PriorError: if one is malformed or asks for what is not implemented here.
        """
        config = {**_DEFAULTS, **config}
        check_settings(present(config, _NEUTRAL), _NEUTRAL, set(), where)
        depths = integers(config, "depths", where, most=MOST_LAYERS)
        if len(depths) != 3 or stages(config, where) != (1, 2, 3):
            raise PriorError(f"{where}: depths must list 3 stages and out_features all of them, found {len(depths)}")
        channels = integers(config, "hidden_sizes", where)[:3]
        stem, groups = integer(config, "embedding_size", where), integer(config, "num_groups", where)
        # bottlenecks are a quarter as wide, and BiT rounds that to multiples of 8
        if len(channels) != 3 or any(width % 32 or width // 4 % groups for width in channels) or stem % groups:
            raise PriorError(
                f"{where}: hidden_sizes {channels} must be three multiples of 32 of which a quarter, like "
                f"embedding_size {stem}, can be split into {groups} groups"
            )
        return cls(stem, channels, depths, groups)


def encode(config: BiTConfig, w: Weights, name: str, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b h2 w2 c"]]:
    """Outputs of the stages, finest first; what the backward pass needs is computed again bottleneck by bottleneck."""
    w = _standardized(w)
    x = conv(w, f"{name}.embedder.convolution", x, config.stem, 7, 2, "SAME", bias=False)
    x = jax.nn.relu(group_norm(w, f"{name}.embedder.norm", x, config.groups, _EPSILON))
    x = max_pool(x)
    outputs = []
    for stage, (channels, depth) in enumerate(zip(config.channels, config.depths, strict=True)):
        for i in range(depth):
            layer = f"{name}.encoder.stages.{stage}.layers.{i}"
            stride = 2 if stage > 0 and i == 0 else 1

            def block(y: Array, layer: str = layer, out: int = channels, stride: int = stride, i: int = i) -> Array:
                return _bottleneck(config, w, layer, y, out, stride, first=i == 0)

            x = jax.checkpoint(block)(x)
        outputs.append(x)
    return outputs


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The largest of 3 x 3 pixels around every other one."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


def _bottleneck(config: BiTConfig, w: Weights, name: str, x: Array, out: int, stride: int, *, first: bool) -> Array:
    """Narrow, filter, widen, and add the input, which the first one of a stage projects."""

    def filtered(y: Array, part: str, norm: str, channels: int, kernel: int, stride: int) -> Array:
        y = conv(w, f"{name}.{part}", y, channels, kernel, stride, "SAME", bias=False)
        return group_norm(w, f"{name}.{norm}", y, config.groups, _EPSILON)

    shortcut = filtered(x, "downsample.conv", "downsample.norm", out, 1, stride) if first else x
    y = jax.nn.relu(filtered(x, "conv1", "norm1", out // 4, 1, 1))
    y = jax.nn.relu(filtered(y, "conv2", "norm2", out // 4, 3, stride))
    return jax.nn.relu(filtered(y, "conv3", "norm3", out, 1, 1) + shortcut)


def _standardized(w: Weights) -> Weights:
    """The same weights, with every kernel brought to mean 0 and variance 1 per output channel."""

    def source(name: str, *shape: int) -> Array:
        weight = w(name, *shape)
        if len(shape) != 4:
            return weight
        kernel = weight.astype(jnp.float32)
        kernel = kernel - jnp.mean(kernel, (0, 1, 2), keepdims=True)
        variance = jnp.mean(jnp.square(kernel), (0, 1, 2), keepdims=True)
        return (kernel * lax.rsqrt(variance + _KERNEL_EPSILON)).astype(weight.dtype)

    return source
