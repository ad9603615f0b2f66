"""Depth Anything V2 (Yang et al. 2024): DINOv2 and the decoder of DPT; smaller than DPT-Hybrid, and better.

A function on a flat dict of arrays under the names of transformers' DepthAnythingForDepthEstimation
(`depth-anything/Depth-Anything-V2-Small-hf`), structure read from config.json.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ipsm_jax.priors.config import MOST_CHANNELS, MOST_LAYERS, PriorError, check_settings, integer, integers, positive
from ipsm_jax.priors.layers import Shape, Weights, conv, declared_shapes, layer_norm
from ipsm_jax.priors.monodepth import decoder, vit
from ipsm_jax.priors.monodepth.preprocessing import Preprocessing
from ipsm_jax.priors.monodepth.settings import present, stages

REPOSITORY = "depth-anything/Depth-Anything-V2-Small-hf"
# The shorter side becomes 518, as in the authors' code. (transformers' own preprocessing changes the size as little as
# possible: the same for larger pictures, but of one below 518 pixels it is the longer side that becomes 518.)
PREPROCESSING = Preprocessing(
    height=518,
    width=518,
    mean=(0.485, 0.456, 0.406),  # of ImageNet
    deviation=(0.229, 0.224, 0.225),
    keep_aspect=True,
    multiple=14,
)

# In the file, but not part of the map: DINOv2's stand-in for hidden patches, and what no DPT uses.
IGNORED = ("backbone.embeddings.mask_token", *decoder.IGNORED)
_HEAD = ("head.conv1", "head.conv2", "head.conv3")
_FACTORS = (4, 2, 1, 0.5)

# What a file that leaves a setting out means by it (transformers' DepthAnythingConfig and Dinov2Config).
_DEFAULTS: dict[str, Any] = {
    "fusion_hidden_size": 64,
    "head_hidden_size": 32,
    "neck_hidden_sizes": [48, 96, 192, 384],
    "patch_size": 14,
    "reassemble_hidden_size": 384,
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "backbone": (None,),
    "backbone_kwargs": (None, {}),
    "depth_estimation_type": ("relative",),
    "head_in_index": (-1,),
    "max_depth": (None, 1, 1.0),
    "reassemble_factors": (list(_FACTORS),),
    "use_timm_backbone": (False,),
}
_BACKBONE_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "image_size": 224,
    "layer_norm_eps": 1e-6,
    "mlp_ratio": 4,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "patch_size": 14,
    "reshape_hidden_states": True,
}
_BACKBONE_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "apply_layernorm": (True,),
    "hidden_act": ("gelu",),
    "model_type": ("dinov2",),
    "num_channels": (3,),
    "qkv_bias": (True,),
    "reshape_hidden_states": (False,),
    "use_swiglu_ffn": (False,),
}


@dataclasses.dataclass(frozen=True)
class DepthAnythingConfig:
    """Structure of the network.

    Attributes:
      patch: pixels per side of a patch.
      transformer: its four taps are the levels of the decoder, finest first.
      levels: channels of the decoder's levels.
      fusion: channels within the decoder.
      head: channels before the map.
    """

    patch: int
    transformer: vit.ViTConfig
    levels: tuple[int, ...]
    fusion: int
    head: int

    @classmethod
    def from_json(cls, config: Mapping[str, Any], where: str = "config.json") -> DepthAnythingConfig:
        """Read the content of a config.json.

        Raises:
          PriorError: if a setting is missing, malformed or asks for what is not implemented here.
        """
        config = {**_DEFAULTS, **config}
        check_settings(present(config, _NEUTRAL), _NEUTRAL, set(), where)
        if not isinstance(config.get("backbone_config"), Mapping):
            raise PriorError(f"{where}: backbone_config must be an object, found {config.get('backbone_config')!r}")
        patch = integer(config, "patch_size", where)
        transformer = _transformer(config["backbone_config"], patch, f"{where}, backbone_config")
        levels = integers(config, "neck_hidden_sizes", where)
        if len(levels) != len(transformer.taps):
            raise PriorError(f"{where}: neck_hidden_sizes must list {len(transformer.taps)}, found {list(levels)}")
        if integer(config, "reassemble_hidden_size", where) != transformer.channels:
            raise PriorError(
                f"{where}: reassemble_hidden_size must be backbone_config's hidden_size {transformer.channels}, found "
                f"{config['reassemble_hidden_size']}"
            )
        fusion, head = integer(config, "fusion_hidden_size", where), integer(config, "head_hidden_size", where)
        return cls(patch, transformer, levels, fusion, head)


def _transformer(config: Mapping[str, Any], patch: int, where: str) -> vit.ViTConfig:
    """DINOv2 out of its part of config.json."""
    config = {**_BACKBONE_DEFAULTS, **config}
    check_settings(present(config, _BACKBONE_NEUTRAL), _BACKBONE_NEUTRAL, set(), where)
    taps, layers = stages(config, where), integer(config, "num_hidden_layers", where, most=MOST_LAYERS)
    if len(taps) != len(_FACTORS) or taps[-1] != layers:
        raise PriorError(f"{where}: out_features must list 4 stages, the last one stage{layers}, found {list(taps)}")
    if integer(config, "patch_size", where) != patch:
        raise PriorError(f"{where}: patch_size {config['patch_size']} differs from the decoder's {patch}")
    channels, heads = integer(config, "hidden_size", where), integer(config, "num_attention_heads", where)
    if channels % heads:
        raise PriorError(f"{where}: {channels} channels cannot be split into {heads} heads")
    return vit.ViTConfig(
        channels=channels,
        hidden=int(channels * min(positive(config, "mlp_ratio", where), MOST_CHANNELS)),
        heads=heads,
        epsilon=positive(config, "layer_norm_eps", where),
        taps=taps,
        grid=integer(config, "image_size", where) // patch,
        position_kernel="cubic",
        norms=("norm1", "norm2"),
        linears=("mlp.fc1", "mlp.fc2"),
        scales=("layer_scale1", "layer_scale2"),
    )


def inverse_depth(config: DepthAnythingConfig, w: Weights, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w"]:
    """Inverse depth >= 0 of prepared pictures, float32.

    Args:
      config: structure.
      w: weights; computes in their dtype.
      x: prepared pictures, sides divisible by `config.patch`.

    Raises:
      ValueError: if the sides are not divisible.
    """
    height, width = x.shape[1:3]
    patch, transformer = config.patch, config.transformer
    if height % patch or width % patch:
        raise ValueError(f"Depth Anything takes sides divisible by {patch}, got {height} x {width}")
    name = "backbone.embeddings"
    patches = conv(w, f"{name}.patch_embeddings.projection", x, transformer.channels, patch, patch, (0, 0))
    tokens = vit.with_class_and_position(transformer, w, name, patches)
    tapped = vit.encode(transformer, w, "backbone.encoder", tokens)
    # one norm for all levels: together, so that its weights are asked for once
    normed = layer_norm(w, "backbone.layernorm", jnp.concatenate(tapped), transformer.epsilon)
    features = [
        decoder.reassemble(w, level, tokens[:, 1:].reshape(patches.shape), config.levels[level], factor)
        for level, (tokens, factor) in enumerate(zip(jnp.split(normed, len(tapped)), _FACTORS, strict=True))
    ]
    fused = decoder.fuse(w, features, config.fusion)
    return decoder.head(w, _HEAD, fused, (height, width), config.head)


def depth_anything_shapes(config: DepthAnythingConfig) -> dict[str, Shape]:
    """Name and shape of every array of the network, convolution kernels HWIO."""
    return declared_shapes(lambda w: inverse_depth(config, w, jnp.zeros((1, config.patch, config.patch, 3))))
