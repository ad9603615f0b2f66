"""The autoencoder of Stable Diffusion: pictures to latents of an eighth of the size, and back (Rombach et al. 2022).

Functions on a flat dict of arrays under the names of diffusers' AutoencoderKL, structure read from config.json.
Pictures here are in [0, 1], latents are scaled to about unit variance, as the U-Net wants them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ipsm_jax.priors.config import MOST_LAYERS, PriorError, check_settings, choices, integer, integers, positive
from ipsm_jax.priors.layers import (
    Params,
    Shape,
    Weights,
    attention,
    conv,
    declared_shapes,
    group_norm,
    linear,
    resnet,
    stored,
    upsample,
)

_EPSILON = 1e-6

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "force_upcast": (True, False),  # says that float16 would overflow; float32 and bfloat16 do not
    "in_channels": (3,),
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
    "out_channels": (3,),
    "shift_factor": (None,),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}

# Names of the attention layers in checkpoints written by diffusers before 0.18.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Structure of the autoencoder.

    Attributes:
      channels: feature channels per resolution, finest first.
      layers: residual blocks per resolution in the encoder; the decoder has one more.
      latent_channels: channels of the latents.
      groups: of the group norms.
      scaling: factor from the encoder's output to unit variance.
    """

    channels: tuple[int, ...]
    layers: int
    latent_channels: int
    groups: int
    scaling: float

    @property
    def factor(self) -> int:
        """How many pixels one latent is wide."""
        return 2 ** (len(self.channels) - 1)

    @classmethod
    def from_json(cls, config: Mapping[str, Any], where: str = "vae/config.json") -> VAEConfig:
        """Read the content of a config.json.

        Raises:
          PriorError: if a setting is missing, malformed or asks for what is not implemented here.
        """
        read = {"block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups", "scaling_factor"}
        # sample_size is the size it was trained on; the network takes any
        check_settings(config, _NEUTRAL, read | {"down_block_types", "up_block_types", "sample_size"}, where)
        channels = integers(config, "block_out_channels", where)
        choices(config, "down_block_types", where, ("DownEncoderBlock2D",), len(channels))
        choices(config, "up_block_types", where, ("UpDecoderBlock2D",), len(channels))
        groups = integer(config, "norm_num_groups", where, 32)
        if any(width % groups for width in channels):
            raise PriorError(f"{where}: {channels} channels cannot be split into {groups} groups")
        return cls(
            channels=channels,
            layers=integer(config, "layers_per_block", where, 1, most=MOST_LAYERS),
            latent_channels=integer(config, "latent_channels", where, 4),
            groups=groups,
            scaling=positive(config, "scaling_factor", where, 0.18215),
        )


def current_name(name: str) -> str:
    """The present name of an array; checkpoints before diffusers 0.18 call the attention layers otherwise."""
    parts = name.split(".")
    if "attentions" in parts and parts[-2] in _OLD_NAMES:
        parts[-2] = _OLD_NAMES[parts[-2]]
    return ".".join(parts)


def encode(
    config: VAEConfig, params: Params, images: Float[Array, "b h w 3"], key: Array | None = None
) -> Float[Array, "b h2 w2 c"]:
    """Scaled latents of pictures in [0, 1], float32; differentiable.

    What the backward pass needs is computed again block by block, so that little more than the blocks' inputs is kept:
    at 512 x 512 that is 76 million numbers instead of 1200. XLA for CPUs joins the two computations again.

    Args:
      config: structure.
      params: arrays by name; computes in their dtype.
      images: height and width divisible by `config.factor`.
      key: PRNG key to draw from the posterior; None takes its mean.

    Raises:
      ValueError: if the size is not divisible.
    """
    if images.shape[1] % config.factor or images.shape[2] % config.factor:
        raise ValueError(f"pictures must have sides divisible by {config.factor}, got {images.shape}")
    moments = _encoder(config, stored(params), 2.0 * images - 1.0).astype(jnp.float32)
    latents, log_variance = jnp.split(moments, 2, axis=-1)
    if key is not None:
        deviation = jnp.exp(0.5 * jnp.clip(log_variance, -30.0, 20.0))
        latents = latents + deviation * jax.random.normal(key, latents.shape)
    return config.scaling * latents


def decode(config: VAEConfig, params: Params, latents: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
    """Pictures of scaled latents, float32 and clipped to [0, 1]."""
    pictures = _decoder(config, stored(params), latents / config.scaling).astype(jnp.float32)
    return jnp.clip(0.5 * pictures + 0.5, 0.0, 1.0)


def vae_shapes(config: VAEConfig) -> dict[str, Shape]:
    """Name and shape of every array of the autoencoder, convolution kernels HWIO."""
    images, latents = jnp.zeros((1, config.factor, config.factor, 3)), jnp.zeros((1, 1, 1, config.latent_channels))
    return declared_shapes(lambda w: (_encoder(config, w, images), _decoder(config, w, latents)))


def _encoder(config: VAEConfig, w: Weights, x: Array) -> Array:
    """Mean and log variance of the posterior, side by side along the channels."""
    x = conv(w, "encoder.conv_in", x, config.channels[0])
    for level, out in enumerate(config.channels):
        block = f"encoder.down_blocks.{level}"
        for layer in range(config.layers):
            x = _residual(config, w, f"{block}.resnets.{layer}", x, out)
        if level < len(config.channels) - 1:
            # one row and column of zeros at the bottom and the right only
            x = conv(w, f"{block}.downsamplers.0.conv", x, out, stride=2, padding=(0, 1))
    x = _middle(config, w, "encoder.mid_block", x)
    x = jax.nn.silu(group_norm(w, "encoder.conv_norm_out", x, config.groups, _EPSILON))
    x = conv(w, "encoder.conv_out", x, 2 * config.latent_channels)
    return conv(w, "quant_conv", x, 2 * config.latent_channels, kernel=1)


def _decoder(config: VAEConfig, w: Weights, x: Array) -> Array:
    x = conv(w, "post_quant_conv", x, config.latent_channels, kernel=1)
    x = conv(w, "decoder.conv_in", x, config.channels[-1])
    x = _middle(config, w, "decoder.mid_block", x)
    for i, out in enumerate(reversed(config.channels)):
        block = f"decoder.up_blocks.{i}"
        for layer in range(config.layers + 1):
            x = _residual(config, w, f"{block}.resnets.{layer}", x, out)
        if i < len(config.channels) - 1:
            x = conv(w, f"{block}.upsamplers.0.conv", upsample(x), out)
    x = jax.nn.silu(group_norm(w, "decoder.conv_norm_out", x, config.groups, _EPSILON))
    return conv(w, "decoder.conv_out", x, 3)


def _residual(config: VAEConfig, w: Weights, name: str, x: Array, out: int) -> Array:
    return jax.checkpoint(lambda y: resnet(w, name, y, out, config.groups, _EPSILON))(x)


def _middle(config: VAEConfig, w: Weights, name: str, x: Array) -> Array:
    channels = x.shape[-1]
    x = _residual(config, w, f"{name}.resnets.0", x, channels)
    x = jax.checkpoint(lambda y: _attend(config, w, f"{name}.attentions.0", y))(x)
    return _residual(config, w, f"{name}.resnets.1", x, channels)


def _attend(config: VAEConfig, w: Weights, name: str, x: Array) -> Array:
    """Self-attention over all pixels with one head, added to x."""
    batch, height, width, channels = x.shape
    tokens = group_norm(w, f"{name}.group_norm", x, config.groups, _EPSILON).reshape(batch, height * width, channels)
    query, key, value = (linear(w, f"{name}.to_{part}", tokens, channels) for part in "qkv")
    return x + linear(w, f"{name}.to_out.0", attention(query, key, value, 1), channels).reshape(x.shape)
