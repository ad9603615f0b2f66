"""The embedded prior as a `DiffusionPrior`: read from a folder in diffusers' layout, described by a scene's photos.

The folder holds unet/, vae/ (the patches' basis) and scheduler/. One network serves as both models: it takes noisy
latents, mask and masked latents, as Stable Diffusion's inpainting model does, and the plain model is the same network
with everything to fill. So the two differ in nothing but what they are told.

The network predicts only what a look at each latent alone cannot tell (after Karras et al. 2022, equation 7). With the
variance v of a channel over photos, noisy latents have the variance s = a_t v + 1 - a_t, and the noise is

    e = sqrt(1 - a_t) / s z_t + sqrt(a_t v / s) F(z_t / sqrt(s), t, ...).

The first term is the best linear guess, the factor of F its error: what F has to give is of unit variance at every
timestep, and a small network need not copy its input to be exact where there is almost nothing but noise.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ipsm_jax.priors.checkpoint import (
    CheckedWeights,
    check_weights,
    read_json,
    read_schedule,
    read_weights,
    weight_file,
)
from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.diffusion import DiffusionPrior
from ipsm_jax.priors.embedded import patches
from ipsm_jax.priors.embedded.descriptor import CELLS, describe, token_channels
from ipsm_jax.priors.unet import UNetConfig, unet, unet_shapes

WEIGHTS = Path(__file__).parent / "weights"
"""The folder that the package carries."""

STEM = "diffusion_pytorch_model"
MOST_PHOTOS = 4
"""Photos that describe a scene; of more, as many are taken evenly."""


class CheckedPrior(NamedTuple):
    """A folder found to be complete and to fit together, with no network read yet."""

    unet_config: UNetConfig
    patch_config: patches.PatchConfig
    unet: CheckedWeights
    vae: CheckedWeights
    alphas_cumprod: np.ndarray

    @property
    def image_size(self) -> int:
        """Side of the pictures, in pixels."""
        return self.unet_config.sample_size * self.patch_config.factor

    def size_in_bytes(self, dtype: Any) -> int:
        """Memory that the weights of the prior take in this dtype."""
        return sum(int(np.prod(array.shape)) for array in self.unet.arrays.values()) * np.dtype(dtype).itemsize


def check_embedded_prior(folder: Path = WEIGHTS) -> CheckedPrior:
    """Check files, structures, and names and shapes of all arrays, without reading the network.

    Raises:
      PriorError: what is missing, unknown or does not fit, by name, and what to do.
    """
    folder = Path(folder)
    files = {"unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"}
    missing = sorted(file for file in files if not (folder / file).is_file())
    missing += [f"{part}/{STEM}.safetensors" for part in ("unet", "vae") if not weight_file(folder / part, STEM)]
    if missing:
        remedy = "Install ipsm_jax again" if folder == WEIGHTS else "Export it again with experiments/train_prior.py"
        raise PriorError(f"the embedded prior in {folder} is incomplete, missing: {', '.join(missing)}. {remedy}.")
    path = folder / "unet" / "config.json"
    unet_config = UNetConfig.from_json(read_json(path), str(path))
    path = folder / "vae" / "config.json"
    patch_config = patches.PatchConfig.from_json(read_json(path), str(path))
    channels = patch_config.latent_channels
    wanted = (2 * channels + 1, channels, token_channels(channels))
    found = (unet_config.in_channels, unet_config.out_channels, unet_config.text_channels)
    if found != wanted:
        raise PriorError(
            f"{folder / 'unet'} must take {wanted[0]} channels (latents, mask, masked latents), give {wanted[1]} and "
            f"attend to tokens of {wanted[2]}; it takes {found[0]}, gives {found[1]} and attends to {found[2]}"
        )
    if unet_config.sample_size % CELLS:
        raise PriorError(f"{folder / 'unet'}: sample_size must be divisible by {CELLS}, is {unet_config.sample_size}")
    return CheckedPrior(
        unet_config,
        patch_config,
        check_weights(folder / "unet", unet_shapes(unet_config), stem=STEM),
        check_weights(folder / "vae", patches.patch_shapes(patch_config), stem=STEM),
        read_schedule(folder / "scheduler" / "scheduler_config.json"),
    )


def load_embedded_prior(
    photos: Float[Array, "n h w 3"] | None = None, folder: Path = WEIGHTS, dtype: Any = jnp.float32
) -> DiffusionPrior:
    """Read the prior and describe a scene to it.

    Args:
      photos: the scene's training photos in [0, 1], of any size; they become the positive conditioning, the negative
        one is no description. None: no description either way, so that the guidance scale has no effect.
      folder: another one than the package's, for example one that `experiments/train_prior.py` wrote.
      dtype: float32 or bfloat16, of the network's weights and of everything in it but sums.

    Raises:
      PriorError: what is missing, unknown or does not fit, by name, and what to do.
      ValueError: for another dtype, or photos of another shape or number format.
    """
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)):
        raise ValueError(f"dtype must be float32 or bfloat16, got {dtype}")
    checked = check_embedded_prior(folder)
    vae = read_weights(checked.vae, np.float32)
    patches.check_basis(vae, str(Path(folder) / "vae"))
    unet = read_weights(checked.unet, dtype)
    params = {"unet": unet, "vae": vae, "alphas_cumprod": jnp.asarray(checked.alphas_cumprod)}
    return assemble(checked.unet_config, checked.patch_config, params, photos)


def assemble(
    unet_config: UNetConfig,
    patch_config: patches.PatchConfig,
    params: Any,
    photos: Float[Array, "n h w 3"] | None,
) -> DiffusionPrior:
    """The prior of a network with its autoencoder, ``params`` as in `ask`; see `load_embedded_prior`."""
    size, channels = unet_config.sample_size, patch_config.latent_channels
    nothing = jnp.zeros((CELLS**2, token_channels(channels)))
    positive = nothing if photos is None else scene_tokens(patch_config, params["vae"], photos, size)
    return DiffusionPrior(
        params=params,
        positive=positive,
        negative=jnp.zeros_like(positive),
        alphas_cumprod=params["alphas_cumprod"],
        image_size=size * patch_config.factor,
        latent_shape=(size, size, channels),
        encode=_Encode(patch_config),
        decode=_Decode(patch_config),
        predict_noise=_Plain(unet_config, patch_config),
        predict_noise_inpaint=_Inpaint(unet_config),
    )


def scene_tokens(
    config: patches.PatchConfig, vae: Any, photos: Float[Array, "n h w 3"], size: int
) -> Float[Array, "m d"]:
    """Tokens of a scene's photos in a row, for a network with latents of size x size.

    Photos are brought to the size of the latents' pictures with a low-pass filter, as the training photos were.

    Raises:
      ValueError: for photos of another shape, or not floating point.
    """
    if photos.ndim != 4 or photos.shape[-1] != 3 or not len(photos) or not jnp.issubdtype(photos.dtype, jnp.floating):
        raise ValueError(f"photos must be (n, height, width, 3) floats in [0, 1], got {photos.shape} {photos.dtype}")
    chosen = np.unique(np.linspace(0, len(photos) - 1, min(len(photos), MOST_PHOTOS)).round().astype(int))
    side = size * config.patch
    small = jax.image.resize(jnp.asarray(photos)[chosen], (len(chosen), side, side, 3), "linear", antialias=True)
    tokens = describe(patches.encode_pooled(config, vae, small))
    return tokens.reshape(-1, tokens.shape[-1])


@dataclasses.dataclass(frozen=True)
class _Encode:
    """`DiffusionPrior.encode`; there is nothing to draw, so the key changes nothing."""

    config: patches.PatchConfig

    def __call__(self, params: Any, images: Float[Array, "b s s 3"], key: Array | None) -> Float[Array, "b h w c"]:
        return patches.encode(self.config, params["vae"], images)


@dataclasses.dataclass(frozen=True)
class _Decode:
    """`DiffusionPrior.decode`."""

    config: patches.PatchConfig

    def __call__(self, params: Any, latents: Float[Array, "b h w c"]) -> Float[Array, "b s s 3"]:
        return patches.decode(self.config, params["vae"], latents)


@dataclasses.dataclass(frozen=True)
class _Plain:
    """`DiffusionPrior.predict_noise`: everything is to fill, and the masked picture is gray."""

    unet: UNetConfig
    patches: patches.PatchConfig

    def __call__(
        self, params: Any, noisy: Float[Array, "b h w c"], t: Int[Array, " b"], tokens: Float[Array, "b n d"]
    ) -> Float[Array, "b h w c"]:
        masked = jnp.broadcast_to(gray_latents(self.patches, params["vae"]), noisy.shape)
        return ask(self.unet, params, noisy, t, jnp.ones_like(noisy[..., :1]), masked, tokens)


@dataclasses.dataclass(frozen=True)
class _Inpaint:
    """`DiffusionPrior.predict_noise_inpaint`."""

    unet: UNetConfig

    def __call__(
        self,
        params: Any,
        noisy: Float[Array, "b h w c"],
        t: Int[Array, " b"],
        mask: Float[Array, "b h w 1"],
        masked_latents: Float[Array, "b h w c"],
        tokens: Float[Array, "b n d"],
    ) -> Float[Array, "b h w c"]:
        return ask(self.unet, params, noisy, t, mask, masked_latents, tokens)


def gray_latents(config: patches.PatchConfig, vae: Any) -> Float[Array, "1 1 1 c"]:
    """Latents of a patch at 0.5, which is what a hole looks like."""
    return patches.encode_pooled(config, vae, jnp.full((1, config.patch, config.patch, 3), 0.5))


def ask(
    config: UNetConfig,
    params: Any,
    noisy: Float[Array, "b h w c"],
    t: Int[Array, " b"],
    mask: Float[Array, "b h w 1"],
    masked_latents: Float[Array, "b h w c"],
    tokens: Float[Array, "b n d"],
) -> Float[Array, "b h w c"]:
    """The predicted noise, float32; the network's inputs are in Stable Diffusion's order.

    `params` holds the network ("unet"), the autoencoder ("vae") and the schedule ("alphas_cumprod").
    """
    alpha = params["alphas_cumprod"][t][:, None, None, None]
    signal = alpha * params["vae"]["variance"][None, None, None]
    total = signal + 1 - alpha
    sample = jnp.concatenate([noisy / jnp.sqrt(total), mask, masked_latents], axis=-1)
    predicted = unet(config, params["unet"], sample, t, tokens)
    return jnp.sqrt(1 - alpha) / total * noisy + jnp.sqrt(signal / total) * predicted
