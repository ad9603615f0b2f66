"""Stable Diffusion 1.5 and its inpainting sibling as one `DiffusionPrior`.

The plain folder gives the autoencoder, the text encoder and the noise schedule for both; of the inpainting folder only
the U-Net is loaded. Where the latter has an autoencoder, text encoder or schedule too, they are checked to be of the
same structure.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ipsm_jax.priors import clip, vae
from ipsm_jax.priors.checkpoint import (
    WHOLE,
    CheckedWeights,
    check_weights,
    inspect_folder,
    read_json,
    read_schedule,
    read_weights,
    require_folder,
)
from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.diffusion import DiffusionPrior
from ipsm_jax.priors.tokenizer import Tokenizer, read_tokenizer
from ipsm_jax.priors.unet import UNetConfig, unet, unet_shapes

PLAIN_REPOSITORY = "stable-diffusion-v1-5/stable-diffusion-v1-5"
INPAINTING_REPOSITORY = "stable-diffusion-v1-5/stable-diffusion-inpainting"


@dataclasses.dataclass(frozen=True)
class Bound:
    """A function with its configuration, as a prior's function: equal, and compiled once, where both are equal."""

    function: Callable[..., Array]
    config: Any

    def __call__(self, *args: Any) -> Array:
        """``function(config, *args)``."""
        return self.function(self.config, *args)


def encode(
    config: vae.VAEConfig, params: Any, images: Float[Array, "b s s 3"], key: Array | None
) -> Float[Array, "b h w c"]:
    """`DiffusionPrior.encode`."""
    return vae.encode(config, params["vae"], images, key)


def decode(config: vae.VAEConfig, params: Any, latents: Float[Array, "b h w c"]) -> Float[Array, "b s s 3"]:
    """`DiffusionPrior.decode`."""
    return vae.decode(config, params["vae"], latents)


def predict_noise(
    config: UNetConfig,
    params: Any,
    noisy: Float[Array, "b h w c"],
    t: Int[Array, " b"],
    text: Float[Array, "b n d"] | None,
) -> Float[Array, "b h w c"]:
    """`DiffusionPrior.predict_noise`."""
    return unet(config, params["unet"], noisy, t, text)


def predict_noise_inpaint(
    config: UNetConfig,
    params: Any,
    noisy: Float[Array, "b h w c"],
    t: Int[Array, " b"],
    mask: Float[Array, "b h w 1"],
    masked_latents: Float[Array, "b h w c"],
    text: Float[Array, "b n d"] | None,
) -> Float[Array, "b h w c"]:
    """`DiffusionPrior.predict_noise_inpaint`."""
    return unet(config, params["unet_inpaint"], jnp.concatenate([noisy, mask, masked_latents], axis=-1), t, text)


class CheckedPair(NamedTuple):
    """Two folders found to be complete and to fit together, with nothing large read yet."""

    unet_config: UNetConfig
    inpaint_config: UNetConfig
    vae_config: vae.VAEConfig
    text_config: clip.TextConfig
    unet: CheckedWeights
    unet_inpaint: CheckedWeights
    vae: CheckedWeights
    text_encoder: CheckedWeights
    tokenizer: Tokenizer
    alphas_cumprod: np.ndarray

    def size_in_bytes(self, dtype: Any) -> int:
        """Memory that the weights of the prior take in this dtype."""
        shapes = [a.shape for w in (self.unet, self.unet_inpaint, self.vae) for a in w.arrays.values()]
        return sum(int(np.prod(shape)) for shape in shapes) * np.dtype(dtype).itemsize


def check_stable_diffusion(plain: Path, inpainting: Path) -> CheckedPair:
    """Check files, structures, and names and shapes of all arrays, without reading any array.

    Args:
      plain: folder in diffusers' layout with unet/, vae/, text_encoder/, tokenizer/ and scheduler/.
      inpainting: the same of the inpainting model; only unet/ is needed.

    Raises:
      PriorError: what is missing, unknown or does not fit, by name, and what to do.
    """
    plain, inpainting = Path(plain), Path(inpainting)
    require_folder(plain, WHOLE, PLAIN_REPOSITORY)
    require_folder(inpainting, ("unet",), INPAINTING_REPOSITORY)
    unet_config, inpaint_config = _unet_config(plain), _unet_config(inpainting)
    vae_config, vae_weights = _vae(plain)
    text_config, text_weights = _text_encoder(plain)
    alphas_cumprod = read_schedule(plain / "scheduler" / "scheduler_config.json")
    tokenizer = read_tokenizer(plain / "tokenizer")

    latents = vae_config.latent_channels
    for config, folder, wanted in ((unet_config, plain, latents), (inpaint_config, inpainting, 2 * latents + 1)):
        if config.in_channels != wanted or config.out_channels != latents:
            kind = "plain model" if folder is plain else "inpainting model"
            raise PriorError(
                f"{folder / 'unet'} turns {config.in_channels} channels into {config.out_channels}; the {kind} takes "
                f"{wanted} and gives {latents}. Are the two folders exchanged?"
            )
        if config.text_channels not in (None, text_config.channels):
            raise PriorError(
                f"{folder / 'unet'} wants text states of {config.text_channels} channels, {plain / 'text_encoder'} "
                f"gives {text_config.channels}"
            )
    if (unet_config.sample_size, unet_config.text_channels) != (
        inpaint_config.sample_size,
        inpaint_config.text_channels,
    ):
        raise PriorError(f"the U-Nets in {plain} and {inpainting} differ in sample_size or cross_attention_dim")
    if max(tokenizer.ids.values()) >= text_config.vocabulary:
        raise PriorError(
            f"{plain / 'tokenizer'} has ids up to {max(tokenizer.ids.values())}, {plain / 'text_encoder'} knows "
            f"{text_config.vocabulary} tokens"
        )
    _check_shared_parts(inpainting, vae_config, text_config, alphas_cumprod)
    return CheckedPair(
        unet_config,
        inpaint_config,
        vae_config,
        text_config,
        check_weights(plain / "unet", unet_shapes(unet_config)),
        check_weights(inpainting / "unet", unet_shapes(inpaint_config)),
        vae_weights,
        text_weights,
        tokenizer,
        alphas_cumprod,
    )


def load_stable_diffusion(
    plain: Path, inpainting: Path, prompt: str, negative: str = "", dtype: Any = jnp.bfloat16
) -> DiffusionPrior:
    """Read a pair of models and encode the prompts (METHOD section 7).

    The prior's images are as large as the U-Net's latents times the autoencoder's factor (512). Weights of both models
    take 3.6 GB in bfloat16; the text encoder is used here, in float32, and not kept.

    Args:
      plain, inpainting: folders in diffusers' layout, see `check_stable_diffusion`.
      prompt, negative: texts; what is longer than the text encoder's 77 tokens is cut off, with a warning.
      dtype: float32 or bfloat16, in which weights are kept and everything but sums is computed.

    Raises:
      PriorError: what is missing, unknown or does not fit, by name, and what to do.
      ValueError: for another dtype.
    """
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)):
        raise ValueError(f"dtype must be float32 or bfloat16 (float16 overflows in the autoencoder), got {dtype}")
    pair = check_stable_diffusion(plain, inpainting)
    positive, unwanted = encode_texts(pair, (prompt, negative))
    size = pair.unet_config.sample_size
    with_text = pair.unet_config.text_channels is not None
    return DiffusionPrior(
        params={
            "unet": read_weights(pair.unet, dtype),
            "unet_inpaint": read_weights(pair.unet_inpaint, dtype),
            "vae": read_weights(pair.vae, dtype),
        },
        positive=positive if with_text else None,
        negative=unwanted if with_text else None,
        alphas_cumprod=jnp.asarray(pair.alphas_cumprod),
        image_size=size * pair.vae_config.factor,
        latent_shape=(size, size, pair.vae_config.latent_channels),
        encode=Bound(encode, pair.vae_config),
        decode=Bound(decode, pair.vae_config),
        predict_noise=Bound(predict_noise, pair.unet_config),
        predict_noise_inpaint=Bound(predict_noise_inpaint, pair.inpaint_config),
    )


def encode_texts(pair: CheckedPair, texts: tuple[str, ...]) -> Float[Array, "t n d"]:
    """Text states of each text, float32; a text that is cut off gives a warning that says how much of it is seen."""
    length = pair.text_config.length
    for text in texts:
        count = len(pair.tokenizer.tokens(text))
        if count > length - 2:
            shown = text if len(text) <= 60 else f"{text[:57]}..."
            warnings.warn(
                f"the text {shown!r} has {count} tokens; the text encoder sees the first {length - 2}", stacklevel=2
            )
    tokens = np.stack([pair.tokenizer.encode(text, length) for text in texts])
    params = read_weights(pair.text_encoder, np.float32)
    return clip.text_states(pair.text_config, params, jnp.asarray(tokens))


def _unet_config(folder: Path) -> UNetConfig:
    path = folder / "unet" / "config.json"
    return UNetConfig.from_json(read_json(path), str(path))


def _vae(folder: Path) -> tuple[vae.VAEConfig, CheckedWeights]:
    path = folder / "vae" / "config.json"
    config = vae.VAEConfig.from_json(read_json(path), str(path))
    return config, check_weights(folder / "vae", vae.vae_shapes(config), rename=vae.current_name)


def _text_encoder(folder: Path) -> tuple[clip.TextConfig, CheckedWeights]:
    path = folder / "text_encoder" / "config.json"
    config = clip.TextConfig.from_json(read_json(path), str(path))
    return config, check_weights(folder / "text_encoder", clip.text_shapes(config), ignored=clip.IGNORED)


def _check_shared_parts(
    folder: Path, vae_config: vae.VAEConfig, text_config: clip.TextConfig, alphas_cumprod: np.ndarray
) -> None:
    """Whatever the inpainting folder has of the shared parts must have the structure of the plain folder's."""
    present = {part for part in WHOLE if not inspect_folder(folder, (part,)).missing}
    different = []
    if "vae" in present and _vae(folder)[0] != vae_config:
        different.append("vae")
    if "text_encoder" in present and _text_encoder(folder)[0] != text_config:
        different.append("text_encoder")
    if "scheduler" in present and not np.array_equal(
        read_schedule(folder / "scheduler" / "scheduler_config.json"), alphas_cumprod
    ):
        different.append("scheduler")
    if different:
        raise PriorError(
            f"{folder} has another {' and '.join(different)} than the plain model: these two were not trained on the "
            "same latents and texts"
        )
