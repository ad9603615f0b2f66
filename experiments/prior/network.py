"""The network that is trained: its structure, and weights to start from."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ipsm_jax.priors.embedded.descriptor import token_channels
from ipsm_jax.priors.unet import UNetConfig, unet_shapes

# Convolutions and linear layers at the end of a branch: it starts by adding nothing (Ho et al. 2020).
_ZERO = ("conv2.weight", "conv_out.weight", "proj_out.weight")


def unet_json(channels: list[int], latent_channels: int, sample_size: int) -> dict[str, Any]:
    """config.json of the network: transformers at the coarsest resolution and in the middle."""
    levels = len(channels)
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": 4,  # the number of heads, as everywhere in these files
        "block_out_channels": channels,
        "center_input_sample": False,
        "cross_attention_dim": token_channels(latent_channels),
        "down_block_types": ["DownBlock2D"] * (levels - 1) + ["CrossAttnDownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 2 * latent_channels + 1,
        "layers_per_block": 1,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": 16,
        "out_channels": latent_channels,
        "sample_size": sample_size,
        "up_block_types": ["CrossAttnUpBlock2D"] + ["UpBlock2D"] * (levels - 1),
        "use_linear_projection": True,
    }


def first_weights(config: UNetConfig, seed: int) -> dict[str, Array]:
    """Random weights with variance 1 / inputs, norms that change nothing, branches that add nothing."""
    root = jax.random.key(seed)
    params = {}
    for name, shape in unet_shapes(config).items():
        if name.endswith(".bias") or name.endswith(_ZERO):
            params[name] = jnp.zeros(shape)
        elif len(shape) == 1:
            params[name] = jnp.ones(shape)
        else:
            # convolution kernels are HWIO, linear weights (out, in)
            inputs = shape[0] * shape[1] * shape[2] if len(shape) == 4 else shape[1]
            key = jax.random.fold_in(root, zlib.crc32(name.encode()))
            params[name] = jax.random.normal(key, shape) * inputs**-0.5
    return params
