"""Stable Diffusion computed by diffusers' own Flax modules: a second opinion on ours, behind the same `DiffusionPrior`.

Needs the extra ``diffusers``: diffusers 0.39.0, the last with Flax modules. The checkpoint is read and the prompts are
encoded as for `stable_diffusion.py`; this module then swaps the functions and brings the arrays into Flax's tree. The
modules differ from the original torch code, and so from ours, by about 1e-4 of the noise: they use the tanh
approximation of GELU, and 1e-5 instead of 1e-6 in the transformers' group norms.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.diffusion import DiffusionPrior
from ipsm_jax.priors.layers import Params
from ipsm_jax.priors.stable_diffusion import Bound
from ipsm_jax.priors.unet import UNetConfig
from ipsm_jax.priors.vae import VAEConfig

REMEDY = 'pip install "ipsm_jax[diffusers]"'
_GROUPS, _EPSILON = 32, 1e-5  # of the group norms; fixed in the Flax U-Net
_VAE_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out_0": "proj_attn"}


def with_flax_modules(prior: DiffusionPrior) -> DiffusionPrior:
    """The same prior, computed by diffusers' Flax modules.

    Args:
      prior: from `load_stable_diffusion`.

    Raises:
      PriorError: if diffusers is missing, the prior is of another kind, or the Flax U-Net does not know its structure.
    """
    if any(importlib.util.find_spec(package) is None for package in ("diffusers", "flax")):
        raise PriorError(f"diffusers' Flax modules are not installed; get them with: {REMEDY}")
    functions = (prior.encode, prior.predict_noise, prior.predict_noise_inpaint)
    if not all(isinstance(function, Bound) for function in functions):
        raise PriorError("only a prior from load_stable_diffusion can be computed by diffusers' Flax modules")
    vae_config, plain, inpainting = (function.config for function in functions)  # type: ignore[attr-defined]
    dtype = prior.params["unet"]["conv_in.weight"].dtype
    for config in (plain, inpainting):
        _require_known(config)
    modules = {
        "unet": _unet_module(plain, dtype),
        "unet_inpaint": _unet_module(inpainting, dtype),
        "vae": _vae_module(vae_config, dtype),
    }
    return dataclasses.replace(
        prior,
        params={name: flax_params(module, prior.params[name]) for name, module in modules.items()},
        encode=Bound(encode, (vae_config, dtype)),
        decode=Bound(decode, (vae_config, dtype)),
        predict_noise=Bound(predict_noise, (plain, dtype)),
        predict_noise_inpaint=Bound(predict_noise_inpaint, (inpainting, dtype)),
    )


def encode(
    config: tuple[VAEConfig, Any], params: Any, images: Float[Array, "b s s 3"], key: Array | None
) -> Float[Array, "b h w c"]:
    """`DiffusionPrior.encode`."""
    module = _vae_module(*config)
    inputs = (2.0 * images - 1.0).transpose(0, 3, 1, 2)
    posterior = module.apply({"params": params["vae"]}, inputs, method=module.encode).latent_dist
    latents = posterior.mean.astype(jnp.float32)
    if key is not None:
        latents = latents + posterior.std.astype(jnp.float32) * jax.random.normal(key, latents.shape)
    return config[0].scaling * latents


def decode(config: tuple[VAEConfig, Any], params: Any, latents: Float[Array, "b h w c"]) -> Float[Array, "b s s 3"]:
    """`DiffusionPrior.decode`."""
    module = _vae_module(*config)
    inputs = (latents / config[0].scaling).transpose(0, 3, 1, 2)
    pictures = module.apply({"params": params["vae"]}, inputs, method=module.decode).sample
    return jnp.clip(0.5 * pictures.transpose(0, 2, 3, 1).astype(jnp.float32) + 0.5, 0.0, 1.0)


def predict_noise(
    config: tuple[UNetConfig, Any],
    params: Any,
    noisy: Float[Array, "b h w c"],
    t: Int[Array, " b"],
    text: Float[Array, "b n d"],
) -> Float[Array, "b h w c"]:
    """`DiffusionPrior.predict_noise`."""
    return _noise(config, params["unet"], noisy, t, text)


def predict_noise_inpaint(
    config: tuple[UNetConfig, Any],
    params: Any,
    noisy: Float[Array, "b h w c"],
    t: Int[Array, " b"],
    mask: Float[Array, "b h w 1"],
    masked_latents: Float[Array, "b h w c"],
    text: Float[Array, "b n d"],
) -> Float[Array, "b h w c"]:
    """`DiffusionPrior.predict_noise_inpaint`."""
    return _noise(config, params["unet_inpaint"], jnp.concatenate([noisy, mask, masked_latents], axis=-1), t, text)


def _noise(config: tuple[UNetConfig, Any], params: Any, sample: Array, t: Array, text: Array) -> Array:
    module = _unet_module(*config)
    noise = module.apply({"params": params}, sample.transpose(0, 3, 1, 2), t, encoder_hidden_states=text).sample
    return noise.transpose(0, 2, 3, 1).astype(jnp.float32)


def flax_params(module: Any, params: Params) -> dict[str, Any]:
    """Our flat dict as the tree of a Flax module, with the same arrays but for transposed linear weights.

    Raises:
      PriorError: if the module wants other arrays than there are.
    """
    from flax.traverse_util import flatten_dict, unflatten_dict

    wanted = flatten_dict(jax.eval_shape(module.init_weights, jax.random.key(0)))
    shapes = {".".join(path): leaf.shape for path, leaf in wanted.items()}
    found = {}
    for name, array in params.items():
        # a.0.b becomes a_0.b; the last part says what kind of layer it is
        scope, kind = re.sub(r"\.(\d+)", r"_\1", name).rsplit(".", 1)
        if "attentions" in scope and "transformer_blocks" not in scope:
            owner, _, last = scope.rpartition(".")
            scope = f"{owner}.{_VAE_ATTENTION.get(last, last)}"
        if kind == "weight":
            kind = "scale" if array.ndim == 1 else "kernel"
        found[f"{scope}.{kind}"] = array.T if array.ndim == 2 else array
    if {name: array.shape for name, array in found.items()} != shapes:
        differing = sorted(set(found) ^ set(shapes)) or sorted(n for n in found if found[n].shape != shapes[n])
        raise PriorError(
            f"{type(module).__name__} of this diffusers version is built of other arrays, such as {differing[0]}; "
            f"version 0.39.0 is needed: {REMEDY}"
        )
    return unflatten_dict({tuple(name.split(".")): array for name, array in found.items()})


def _require_known(config: UNetConfig) -> None:
    wrong = []
    if config.text_channels is None or not config.middle:
        wrong.append("a model without text or middle transformer")
    if config.groups != _GROUPS or config.epsilon != _EPSILON:
        wrong.append(f"group norms with {config.groups} groups and epsilon {config.epsilon}")
    if len(set(config.layers)) != 1:
        wrong.append(f"{config.layers} layers")
    if wrong:
        raise PriorError(f"diffusers' Flax U-Net does not know {' nor '.join(wrong)}")


@cache
def _unet_module(config: UNetConfig, dtype: Any) -> Any:
    from diffusers import FlaxUNet2DConditionModel

    return FlaxUNet2DConditionModel(
        sample_size=config.sample_size,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if text else "DownBlock2D" for text in config.down),
        up_block_types=tuple("CrossAttnUpBlock2D" if text else "UpBlock2D" for text in config.up),
        block_out_channels=config.channels,
        layers_per_block=config.layers[0],
        attention_head_dim=config.heads,
        cross_attention_dim=config.text_channels,
        use_linear_projection=config.linear_projection,
        flip_sin_to_cos=config.cosine_first,
        freq_shift=config.frequency_shift,
        dtype=dtype,
    )


@cache
def _vae_module(config: VAEConfig, dtype: Any) -> Any:
    from diffusers import FlaxAutoencoderKL

    levels = len(config.channels)
    return FlaxAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
        sample_size=config.factor,
        scaling_factor=config.scaling,
        dtype=dtype,
    )
