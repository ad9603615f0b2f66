"""DPT-Hybrid of MiDaS 3.0 (Ranftl et al. 2021), the paper's depth network: a ResNet, a transformer and a decoder.

A function on a flat dict of arrays under the names of transformers' DPTForDepthEstimation (`Intel/dpt-hybrid-midas`),
structure read from config.json.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ipsm_jax.priors.config import MOST_LAYERS, PriorError, check_settings, integer, integers, positive
from ipsm_jax.priors.layers import Shape, Weights, conv, declared_shapes, linear
from ipsm_jax.priors.monodepth import bit, decoder, vit
from ipsm_jax.priors.monodepth.preprocessing import Preprocessing, normalization
from ipsm_jax.priors.monodepth.settings import present

REPOSITORY = "Intel/dpt-hybrid-midas"
PATCH = 16  # pixels that the ResNet makes one token of
PREPROCESSING = Preprocessing(height=384, width=512, mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5))

# In the file, but not part of the map: a norm for other tasks, and what no DPT uses.
IGNORED = ("dpt.layernorm.weight", "dpt.layernorm.bias", *decoder.IGNORED)
_HEAD = ("head.head.0", "head.head.2", "head.head.4")
_HEAD_CHANNELS = 32

# What a file that leaves a setting out means by it (transformers' DPTConfig).
_DEFAULTS: dict[str, Any] = {
    "backbone_out_indices": [2, 5, 8, 11],
    "fusion_hidden_size": 256,
    "hidden_size": 768,
    "image_size": 384,
    "intermediate_size": 3072,
    "is_hybrid": False,
    "layer_norm_eps": 1e-12,
    "neck_hidden_sizes": [96, 192, 384, 768],
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "reassemble_factors": [4, 2, 1, 0.5],
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_projection": (False,),
    "backbone": (None,),
    "backbone_kwargs": (None, {}),
    "head_in_index": (-1,),
    "hidden_act": ("gelu",),
    "is_hybrid": (True,),
    "neck_ignore_stages": ([0, 1],),
    "num_channels": (3,),
    "patch_size": (PATCH,),
    "qkv_bias": (True,),
    "readout_type": ("project",),
    "reassemble_factors": ([1, 1, 1, 0.5], [4, 2, 1, 0.5]),  # of a hybrid only the last two are used
    "use_batch_norm_in_fusion_residual": (False,),
    "use_bias_in_fusion_residual": (None, True),
    "use_timm_backbone": (False,),
}


@dataclasses.dataclass(frozen=True)
class DPTHybridConfig:
    """Structure of the network.

    Attributes:
      resnet: in front of the transformer.
      transformer: on its coarsest features; its two taps are the coarser two levels of the decoder.
      levels: channels of the decoder's four levels, finest first.
      fusion: channels within the decoder.
    """

    resnet: bit.BiTConfig
    transformer: vit.ViTConfig
    levels: tuple[int, ...]
    fusion: int

    @classmethod
    def from_json(cls, config: Mapping[str, Any], where: str = "config.json") -> DPTHybridConfig:
        """Read the content of a config.json.

        Raises:
          PriorError: if a setting is malformed or asks for what is not implemented here.
        """
        config = {**_DEFAULTS, **config}
        check_settings(present(config, _NEUTRAL), _NEUTRAL, set(), where)
        backbone = config.get("backbone_config") or bit.HYBRID
        if not isinstance(backbone, Mapping):
            raise PriorError(f"{where}: backbone_config must be an object, found {backbone!r}")
        resnet = bit.BiTConfig.from_json(backbone, f"{where}, backbone_config")
        layers = integer(config, "num_hidden_layers", where, most=MOST_LAYERS)
        taps = config["backbone_out_indices"]
        if (
            not isinstance(taps, (list, tuple))
            or len(taps) != 4
            or not all(type(tap) is int for tap in taps)
            or not 0 <= taps[2] < taps[3] == layers - 1
        ):
            raise PriorError(
                f"{where}: backbone_out_indices must list 4 blocks from 0, the last one {layers - 1}, found {taps!r}"
            )
        channels, heads = integer(config, "hidden_size", where), integer(config, "num_attention_heads", where)
        if channels % heads:
            raise PriorError(f"{where}: {channels} channels cannot be split into {heads} heads")
        levels = integers(config, "neck_hidden_sizes", where)
        if len(levels) != 4 or levels[:2] != resnet.channels[:2]:
            raise PriorError(
                f"{where}: neck_hidden_sizes must list 4 levels, the first two {list(resnet.channels[:2])} as "
                f"backbone_config's hidden_sizes, found {list(levels)}"
            )
        transformer = vit.ViTConfig(
            channels=channels,
            hidden=integer(config, "intermediate_size", where),
            heads=heads,
            epsilon=positive(config, "layer_norm_eps", where),
            taps=(taps[2] + 1, taps[3] + 1),
            grid=integer(config, "image_size", where) // PATCH,
            position_kernel="linear",
            norms=("layernorm_before", "layernorm_after"),
            linears=("intermediate.dense", "output.dense"),
        )
        return cls(resnet, transformer, levels, integer(config, "fusion_hidden_size", where))


def read_preprocessing(config: Mapping[str, Any], where: str) -> Preprocessing:
    """METHOD section 4: 384 x 512 whatever the picture's aspect; only mean and deviation are the file's.

    (The published file asks for 384 x 384, which is what the network was trained on.)

    Raises:
      PriorError: if mean or deviation is malformed.
    """
    mean, deviation = normalization(config, where, PREPROCESSING)
    return dataclasses.replace(PREPROCESSING, mean=mean, deviation=deviation)


def inverse_depth(config: DPTHybridConfig, w: Weights, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w"]:
    """Inverse depth >= 0 of prepared pictures, float32.

    Args:
      config: structure.
      w: weights; computes in their dtype.
      x: prepared pictures, sides divisible by 32.

    Raises:
      ValueError: if the sides are not divisible.
    """
    height, width = x.shape[1:3]
    if height % (2 * PATCH) or width % (2 * PATCH):
        raise ValueError(f"DPT-Hybrid takes sides divisible by {2 * PATCH}, got {height} x {width}")
    fine, middle, coarse = bit.encode(config.resnet, w, "dpt.embeddings.backbone.bit", x)
    channels, levels = config.transformer.channels, config.levels
    patches = conv(w, "dpt.embeddings.projection", coarse, channels, kernel=1)
    tokens = vit.with_class_and_position(config.transformer, w, "dpt.embeddings", patches)
    features = [fine, middle]
    for level, tapped in enumerate(vit.encode(config.transformer, w, "dpt.encoder", tokens), start=2):
        # every token is told what the class token has read out of the whole picture
        readout = jnp.broadcast_to(tapped[:, :1], tapped[:, 1:].shape)
        joined = jnp.concatenate([tapped[:, 1:], readout], axis=-1)
        joined = linear(w, f"neck.reassemble_stage.readout_projects.{level}.0", joined, channels)
        grid = jax.nn.gelu(joined, approximate=False).reshape(patches.shape)
        features.append(decoder.reassemble(w, level, grid, levels[level], (1, 0.5)[level - 2]))
    fused = decoder.fuse(w, features, config.fusion)
    return decoder.head(w, _HEAD, fused, (height, width), _HEAD_CHANNELS)


def dpt_hybrid_shapes(config: DPTHybridConfig) -> dict[str, Shape]:
    """Name and shape of every array of the network, convolution kernels HWIO."""
    return declared_shapes(lambda w: inverse_depth(config, w, jnp.zeros((1, 2 * PATCH, 2 * PATCH, 3))))
