"""Score distillation in torch with diffusers' and transformers' own networks: what ours is compared with.

Written from METHOD section 7 alone, in its order. Whatever is random there (timestep, noise, samples of the encoder's
posterior) is handed over as `Draws`. Nothing of this knows JAX but `draws_of`, which finds out what our function draws
by looking at what it asks a prior of zeros.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from torch.nn import functional

from ipsm_jax.losses.distillation import DistillationOptions, distillation_loss
from ipsm_jax.priors.diffusion import DiffusionPrior

diffusers.utils.logging.set_verbosity_error()  # it recommends a package that makes no difference here
CLASSES = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}


class Draws(NamedTuple):
    """What is random in one evaluation; latents are (h, w, c).

    Attributes:
      timestep: t.
      noise: the noise that is added, one for all terms.
      posterior: standard normal numbers of each term's sample of the encoder's posterior.
      warped_posterior: of the sample for the warped image; None if no term asks the inpainting model.
    """

    timestep: int
    noise: np.ndarray
    posterior: dict[str, np.ndarray]
    warped_posterior: np.ndarray | None


class Setting(NamedTuple):
    """What is computed: weight of each term (ramp included), sign of G2, guidance scale of each model, texts."""

    weights: dict[str, float]
    g2_sign: int
    scales: dict[str, float]
    prompt: str
    negative: str


class Networks:
    """The networks of two folders, float32, without gradient of their own; few are kept in memory."""

    def __init__(self, plain: Path, inpainting: Path, kept: int) -> None:
        self.folders = {"plain": plain, "inpainting": inpainting}
        self.load = lru_cache(kept)(self._load)

    def _load(self, model: str, part: str) -> Any:
        kind = CLASSES[part]
        loaded = kind.from_pretrained(self.folders[model], subfolder=part, torch_dtype=torch.float32)
        return loaded.float().eval().requires_grad_(False)

    @lru_cache  # noqa: B019 (as short-lived as the object)
    def text_states(self, *texts: str) -> torch.Tensor:
        """(n, 77, c)."""
        tokenizer = transformers.CLIPTokenizer.from_pretrained(self.folders["plain"] / "tokenizer")
        encoder = transformers.CLIPTextModel.from_pretrained(self.folders["plain"] / "text_encoder")
        tokens = tokenizer(list(texts), padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        with torch.no_grad():
            return encoder.float()(tokens.input_ids).last_hidden_state

    def scheduler(self) -> diffusers.DDPMScheduler:
        config = json.loads((self.folders["plain"] / "scheduler" / "scheduler_config.json").read_text())
        names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
        return diffusers.DDPMScheduler(**{name: config[name] for name in names})


def nchw(array: np.ndarray) -> torch.Tensor:
    """(h, w, c) to torch's (1, c, h, w)."""
    return torch.from_numpy(np.array(array, np.float32).transpose(2, 0, 1)[None].copy())


def image_gradients(
    networks: Networks,
    image: np.ndarray,
    warped: np.ndarray | None,
    known: np.ndarray | None,
    draws: Draws,
    setting: Setting,
) -> dict[str, np.ndarray]:
    """d(term)/d(image), (H, W, 3), of each term, for an image and a warped one in [0, 1] and the mask of the latter."""
    size = networks.load("plain", "vae").config.sample_size
    scheduler, t = networks.scheduler(), torch.tensor([draws.timestep])
    alpha = scheduler.alphas_cumprod[draws.timestep]
    leaf = nchw(image).requires_grad_()

    def encode() -> dict[str, torch.Tensor]:
        """Latents of the image for each term; resized to what the models were trained with."""
        picture = functional.interpolate(leaf, (size, size), mode="bilinear", align_corners=False)
        posterior = networks.load("plain", "vae").encode(2 * picture - 1).latent_dist
        return {
            term: 0.18215 * (posterior.mean + posterior.std * nchw(numbers))
            for term, numbers in draws.posterior.items()
        }

    # The predictions first, without a graph: only one network's activations are in memory at a time.
    with torch.no_grad():
        noisy = {term: scheduler.add_noise(z, nchw(draws.noise), t) for term, z in encode().items()}
        negative, positive = networks.text_states(setting.negative, setting.prompt).split(1)

        def guided(model: str, term: str, *more: torch.Tensor) -> torch.Tensor:
            unet = networks.load(model, "unet")
            inputs = torch.cat([noisy[term], *more], 1)
            e_u, e_c = (unet(inputs, t, encoder_hidden_states=text).sample for text in (negative, positive))
            return e_u + setting.scales[model] * (e_c - e_u)

        plain = {term: guided("plain", term) for term in setting.weights if term != "g1"}
        fill = {}
        if warped is not None and known is not None:
            mask = nchw(known[..., None].astype(np.float32))
            mask = (functional.interpolate(mask, (size, size), mode="bilinear", align_corners=False) > 0.5).float()
            resized = functional.interpolate(nchw(warped), (size, size), mode="bilinear", align_corners=False)
            posterior = networks.load("plain", "vae").encode((2 * resized - 1) * mask).latent_dist
            context = 0.18215 * (posterior.mean + posterior.std * nchw(draws.warped_posterior))
            hole = functional.interpolate(1 - mask, context.shape[2:], mode="nearest")
            fill = {t_: guided("inpainting", t_, hole, context) for t_ in setting.weights if t_ != "sds"}

    noise = nchw(draws.noise)
    direction = {
        "sds": lambda: plain["sds"] - noise,
        "g1": lambda: fill["g1"] - noise,
        "g2": lambda: setting.g2_sign * (fill["g2"] - plain["g2"]),
    }
    latents, gradients = encode(), {}
    for term, weight in setting.weights.items():
        leaf.grad = None
        latents[term].backward(weight * alpha * direction[term]() / noise.numel(), retain_graph=True)
        gradients[term] = leaf.grad[0].numpy().transpose(1, 2, 0).copy()
    return gradients


def draws_of(
    key: jax.Array,
    options: DistillationOptions,
    alphas_cumprod: np.ndarray,
    image_size: int,
    latent_shape: tuple[int, int, int],
) -> Draws:
    """What `distillation_loss` draws with this key, seen from outside.

    A prior whose latents are all 0 is shown the noise alone, times sqrt(1 - a_t), and gets to know the key of each
    encoding: of the image for each term, in their order, or for all at once, and of the warped image last.
    """
    keys, shown = [], []

    def encode(params: Any, images: jax.Array, key: jax.Array) -> jax.Array:
        keys.append(key)
        return jnp.zeros((1, *latent_shape))

    def predict(params: Any, noisy: jax.Array, *_: Any) -> jax.Array:
        shown.append(np.asarray(noisy[0], np.float64))
        return jnp.zeros_like(noisy)

    spy = DiffusionPrior(
        None, None, None, jnp.asarray(alphas_cumprod), image_size, latent_shape, encode, encode, predict, predict
    )
    picture, known = jnp.zeros((4, 4, 3)), jnp.ones((4, 4), bool)
    info = distillation_loss(key, options, spy, picture, picture, known, 2250)[1]
    level = np.sqrt(1 - float(alphas_cumprod[info.timestep]))
    normal = [np.asarray(jax.random.normal(key, (1, *latent_shape)))[0] for key in keys]
    of_terms = normal[: len(options.terms)] if options.encode == "per_term" else [normal[0]] * len(options.terms)
    return Draws(
        int(info.timestep),
        (shown[0] / level).astype(np.float32),
        dict(zip(options.terms, of_terms, strict=True)),
        normal[-1] if options.needs_warp else None,
    )


def setting_of(options: DistillationOptions, iteration: int, prompt: str, negative: str) -> Setting:
    """The same as our options say, with the ramp of METHOD section 4."""
    ramp = min((iteration - 2000) / 500, 1)
    weights = {
        term: weight * (1 if term == "sds" else ramp)
        for term, weight in zip(options.terms, options.weights, strict=True)
    }
    scales = {"plain": options.guidance_scale, "inpainting": options.inpaint_guidance_scale}
    return Setting(weights, 1 if options.g2_sign == "published" else -1, scales, prompt, negative)
