"""The text encoder of CLIP, whose last hidden states condition Stable Diffusion (Radford et al. 2021).

A function on a flat dict of arrays under the names of transformers' CLIPTextModel, structure read from config.json.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ipsm_jax.priors.config import MOST_LAYERS, PriorError, integer, positive
from ipsm_jax.priors.layers import Params, Shape, Weights, attention, declared_shapes, layer_norm, linear, stored

_ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}

# A buffer that older checkpoints carry along: 0, 1, 2, ...; it holds nothing learned.
IGNORED = ("text_model.embeddings.position_ids",)


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Structure of the text encoder: sizes, and the name of the activation."""

    vocabulary: int
    length: int
    channels: int
    hidden: int
    layers: int
    heads: int
    activation: str
    epsilon: float

    @classmethod
    def from_json(cls, config: Mapping[str, Any], where: str = "text_encoder/config.json") -> TextConfig:
        """Read the content of a config.json.

        Unlike diffusers', these files hold much that concerns other uses of the model, so only what is read is checked.

        Raises:
          PriorError: if a setting is missing, malformed or asks for what is not implemented here.
        """
        if config.get("model_type", "clip_text_model") != "clip_text_model":
            raise PriorError(f"{where}: model_type must be clip_text_model, found {config['model_type']!r}")
        activation = config.get("hidden_act", "quick_gelu")
        if not isinstance(activation, str) or activation not in _ACTIVATIONS:
            raise PriorError(f"{where}: hidden_act must be one of {', '.join(_ACTIVATIONS)}, found {activation!r}")
        channels, heads = integer(config, "hidden_size", where), integer(config, "num_attention_heads", where)
        if channels % heads:
            raise PriorError(f"{where}: {channels} channels cannot be split into {heads} heads")
        return cls(
            vocabulary=integer(config, "vocab_size", where),
            length=integer(config, "max_position_embeddings", where, 77),
            channels=channels,
            hidden=integer(config, "intermediate_size", where),
            layers=integer(config, "num_hidden_layers", where, most=MOST_LAYERS),
            heads=heads,
            activation=activation,
            epsilon=positive(config, "layer_norm_eps", where, 1e-5),
        )


def text_states(config: TextConfig, params: Params, tokens: Int[Array, "b n"]) -> Float[Array, "b n c"]:
    """The last hidden states, after the final layer norm, float32.

    Padding is seen like any other token, as in the training of Stable Diffusion.

    Args:
      config: structure.
      params: arrays by name; computes in their dtype.
      tokens: token ids in [0, vocabulary), n <= `config.length`.

    Raises:
      ValueError: if there are more tokens than positions.
    """
    if tokens.shape[-1] > config.length:
        raise ValueError(f"this text encoder takes at most {config.length} tokens, got {tokens.shape[-1]}")
    return _encoder(config, stored(params), tokens).astype(jnp.float32)


def text_shapes(config: TextConfig) -> dict[str, Shape]:
    """Name and shape of every array of the text encoder."""
    return declared_shapes(lambda w: _encoder(config, w, jnp.zeros((1, 1), jnp.int32)))


def _encoder(config: TextConfig, w: Weights, tokens: Array) -> Array:
    embeddings = "text_model.embeddings"
    positions = w(f"{embeddings}.position_embedding.weight", config.length, config.channels)
    x = w(f"{embeddings}.token_embedding.weight", config.vocabulary, config.channels)[tokens]
    x = x + positions[None, : tokens.shape[1]]
    for i in range(config.layers):
        layer = f"text_model.encoder.layers.{i}"
        normed = layer_norm(w, f"{layer}.layer_norm1", x, config.epsilon)
        query, key, value = (linear(w, f"{layer}.self_attn.{part}_proj", normed, config.channels) for part in "qkv")
        attended = attention(query, key, value, config.heads, causal=True)
        x = x + linear(w, f"{layer}.self_attn.out_proj", attended, config.channels)
        hidden = linear(w, f"{layer}.mlp.fc1", layer_norm(w, f"{layer}.layer_norm2", x, config.epsilon), config.hidden)
        x = x + linear(w, f"{layer}.mlp.fc2", _ACTIVATIONS[config.activation](hidden), config.channels)
    return layer_norm(w, "text_model.final_layer_norm", x, config.epsilon)
