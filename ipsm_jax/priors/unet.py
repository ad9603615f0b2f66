"""The U-Net of Stable Diffusion: predicts the noise in latents, at a timestep, under a text (Rombach et al. 2022).

One function on a flat dict of arrays under the names of diffusers' UNet2DConditionModel, its structure read from the
checkpoint's config.json. The plain model takes 4 input channels, the inpainting model 9: noisy latents, mask and
masked latents, in this order. Without `cross_attention_dim` there is no text: the transformers then attend to the
picture alone; blocks without transformers are DownBlock2D, UpBlock2D and UNetMidBlock2D.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ipsm_jax.priors.config import (
    MOST_LAYERS,
    MOST_PIXELS,
    PriorError,
    check_settings,
    choices,
    integer,
    integers,
    positive,
)
from ipsm_jax.priors.layers import (
    Params,
    Shape,
    Weights,
    attention,
    conv,
    declared_shapes,
    group_norm,
    layer_norm,
    linear,
    resnet,
    stored,
    upsample,
)

DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
UP = ("CrossAttnUpBlock2D", "UpBlock2D")
MIDDLE = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D")

# Settings that newer diffusers versions write into config.json, with the values under which they change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "addition_embed_type": (None,),
    "addition_embed_type_num_heads": (64,),
    "addition_time_embed_dim": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dropout": (0.0, 0),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1, 1.0),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "projection_class_embeddings_input_dim": (None,),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "transformer_layers_per_block": (1,),
    "upcast_attention": (False, True, None),  # scores are float32 here in any case
}
# What is read without another check.
_CHOICES: dict[str, tuple[Any, ...]] = {
    "flip_sin_to_cos": (True, False),
    "freq_shift": (0, 1),
    "use_linear_projection": (False, True),
}


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Structure of a U-Net; tuples have one entry per resolution, finest first.

    Attributes:
      in_channels, out_channels: of the input (latents, or latents + mask + masked latents) and of the noise.
      sample_size: height and width of the latents it was trained on.
      channels: feature channels.
      layers: residual blocks on the way down; one more on the way up.
      heads: attention heads (config.json calls them attention_head_dim).
      text_channels: channels of the text states, or None for a model without text.
      down, up: does the block have transformers; `up` starts with the coarsest.
      middle: does the middle block have a transformer.
      groups, epsilon: of the group norms in residual blocks.
      linear_projection: transformers begin and end with a linear layer instead of a 1 x 1 convolution.
      cosine_first, frequency_shift: of the timestep embedding.
    """

    in_channels: int
    out_channels: int
    sample_size: int
    channels: tuple[int, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    text_channels: int | None
    down: tuple[bool, ...]
    up: tuple[bool, ...]
    middle: bool
    groups: int
    epsilon: float
    linear_projection: bool
    cosine_first: bool
    frequency_shift: int

    @classmethod
    def from_json(cls, config: Mapping[str, Any], where: str = "unet/config.json") -> UNetConfig:
        """Read the content of a config.json.

        Raises:
          PriorError: if a setting is missing, malformed or asks for what is not implemented here.
        """
        read = {"in_channels", "out_channels", "sample_size", "block_out_channels", "layers_per_block"}
        read |= {"attention_head_dim", "cross_attention_dim", "down_block_types", "up_block_types", "mid_block_type"}
        read |= {"norm_num_groups", "norm_eps"}
        check_settings(config, {**_NEUTRAL, **_CHOICES}, read, where)
        channels = integers(config, "block_out_channels", where)
        levels = len(channels)
        groups = integer(config, "norm_num_groups", where, 32)
        heads = integers({"attention_head_dim": 8, **config}, "attention_head_dim", where, levels)
        for width, count in zip(channels, heads, strict=True):
            if width % groups or width % count:
                raise PriorError(f"{where}: {width} channels cannot be split into {groups} groups and {count} heads")
        down = choices(config, "down_block_types", where, DOWN, levels)
        up = choices(config, "up_block_types", where, UP, levels)
        (middle,) = choices({"m": [config.get("mid_block_type", MIDDLE[0])]}, "m", where, MIDDLE, 1)
        # absent means no text here, but 1280 in diffusers: so it has to be said
        if "cross_attention_dim" not in config:
            raise PriorError(f"{where}: cross_attention_dim is missing (null for a model without text)")
        text = config["cross_attention_dim"]
        return cls(
            in_channels=integer(config, "in_channels", where, 4),
            out_channels=integer(config, "out_channels", where, 4),
            sample_size=integer(config, "sample_size", where, most=MOST_PIXELS),
            channels=channels,
            layers=integers({"layers_per_block": 2, **config}, "layers_per_block", where, levels, most=MOST_LAYERS),
            heads=heads,
            text_channels=None if text is None else integer(config, "cross_attention_dim", where),
            down=tuple(kind == DOWN[0] for kind in down),
            up=tuple(kind == UP[0] for kind in up),
            middle=middle == MIDDLE[0],
            groups=groups,
            epsilon=positive(config, "norm_eps", where, 1e-5),
            linear_projection=config.get("use_linear_projection", False),
            cosine_first=config.get("flip_sin_to_cos", True),
            frequency_shift=config.get("freq_shift", 0),
        )


def unet(
    config: UNetConfig,
    params: Params,
    sample: Float[Array, "b h w c"],
    t: Int[Array, " b"],
    text: Float[Array, "b n d"] | None = None,
) -> Float[Array, "b h w o"]:
    """The predicted noise, float32.

    Args:
      config: structure.
      params: arrays by name, convolution kernels HWIO; computes in their dtype.
      sample: network input; height and width divisible by 2^(levels - 1).
      t: timesteps.
      text: text states; None for a model without text.

    Raises:
      ValueError: if the sizes do not fit the structure.
    """
    step = 2 ** (len(config.channels) - 1)
    if sample.shape[-1] != config.in_channels or sample.shape[1] % step or sample.shape[2] % step:
        raise ValueError(
            f"this U-Net takes (batch, height, width, {config.in_channels}) with height and width divisible by {step}, "
            f"got {sample.shape}"
        )
    if (text is None) != (config.text_channels is None) or (
        text is not None and text.shape[-1] != config.text_channels
    ):
        got = "none" if text is None else f"{text.shape[-1]} channels"
        raise ValueError(f"this U-Net takes text states of {config.text_channels or 'no'} channels, got {got}")
    return _unet(config, stored(params), sample, t, text).astype(jnp.float32)


def unet_shapes(config: UNetConfig) -> dict[str, Shape]:
    """Name and shape of every array of the U-Net, convolution kernels HWIO."""
    size = 2 ** (len(config.channels) - 1)
    sample, t = jnp.zeros((1, size, size, config.in_channels)), jnp.zeros((1,), jnp.int32)
    text = None if config.text_channels is None else jnp.zeros((1, 1, config.text_channels))
    return declared_shapes(lambda w: _unet(config, w, sample, t, text))


def _unet(config: UNetConfig, w: Weights, sample: Array, t: Array, text: Array | None) -> Array:
    def residual(name: str, x: Array, out: int) -> Array:
        return resnet(w, name, x, out, config.groups, config.epsilon, time)

    levels = len(config.channels)
    time = _time_embedding(config, w, t)
    x = conv(w, "conv_in", sample, config.channels[0])
    skips = [x]
    for level, out in enumerate(config.channels):
        block = f"down_blocks.{level}"
        for layer in range(config.layers[level]):
            x = residual(f"{block}.resnets.{layer}", x, out)
            if config.down[level]:
                x = _transformer(config, w, f"{block}.attentions.{layer}", x, text, config.heads[level])
            skips.append(x)
        if level < levels - 1:
            x = conv(w, f"{block}.downsamplers.0.conv", x, out, stride=2)
            skips.append(x)

    x = residual("mid_block.resnets.0", x, x.shape[-1])
    if config.middle:
        x = _transformer(config, w, "mid_block.attentions.0", x, text, config.heads[-1])
        x = residual("mid_block.resnets.1", x, x.shape[-1])

    for i, out in enumerate(reversed(config.channels)):
        block, level = f"up_blocks.{i}", levels - 1 - i
        for layer in range(config.layers[level] + 1):
            x = residual(f"{block}.resnets.{layer}", jnp.concatenate([x, skips.pop()], axis=-1), out)
            if config.up[i]:
                x = _transformer(config, w, f"{block}.attentions.{layer}", x, text, config.heads[level])
        if i < levels - 1:
            x = conv(w, f"{block}.upsamplers.0.conv", upsample(x), out)

    x = jax.nn.silu(group_norm(w, "conv_norm_out", x, config.groups, config.epsilon))
    return conv(w, "conv_out", x, config.out_channels)


def _time_embedding(config: UNetConfig, w: Weights, t: Int[Array, " b"]) -> Float[Array, "b e"]:
    """Sines and cosines of t at geometrically spaced frequencies, through two linear layers."""
    half = config.channels[0] // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half, dtype=jnp.float32) / (half - config.frequency_shift))
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    waves = [jnp.cos(angles), jnp.sin(angles)] if config.cosine_first else [jnp.sin(angles), jnp.cos(angles)]
    width = 4 * config.channels[0]
    hidden = linear(w, "time_embedding.linear_1", jnp.concatenate(waves, axis=-1), width)
    return linear(w, "time_embedding.linear_2", jax.nn.silu(hidden), width)


def _transformer(config: UNetConfig, w: Weights, name: str, x: Array, text: Array | None, heads: int) -> Array:
    """Self-attention over the pixels, cross-attention to the text, a gated feed-forward layer; each added to x."""
    batch, channels = x.shape[0], x.shape[-1]
    block = f"{name}.transformer_blocks.0"

    def project(kind: str, y: Array) -> Array:
        if config.linear_projection:
            return linear(w, f"{name}.{kind}", y, channels)
        return conv(w, f"{name}.{kind}", y, channels, kernel=1)

    def attend(kind: str, tokens: Array, source: Array) -> Array:
        query, key, value = (
            linear(w, f"{block}.{kind}.to_{part}", y, channels, bias=False)
            for part, y in (("q", tokens), ("k", source), ("v", source))
        )
        return linear(w, f"{block}.{kind}.to_out.0", attention(query, key, value, heads), channels)

    # 1e-6 here and 1e-5 elsewhere, as the checkpoints were trained
    h = project("proj_in", group_norm(w, f"{name}.norm", x, config.groups, 1e-6)).reshape(batch, -1, channels)
    normed = layer_norm(w, f"{block}.norm1", h, 1e-5)
    h = h + attend("attn1", normed, normed)
    if text is not None:
        h = h + attend("attn2", layer_norm(w, f"{block}.norm2", h, 1e-5), text)
    normed = layer_norm(w, f"{block}.norm3", h, 1e-5)
    hidden, gate = jnp.split(linear(w, f"{block}.ff.net.0.proj", normed, 8 * channels), 2, axis=-1)
    h = h + linear(w, f"{block}.ff.net.2", hidden * jax.nn.gelu(gate, approximate=False), channels)
    return x + project("proj_out", h.reshape(x.shape))
