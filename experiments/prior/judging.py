"""A prior on held-out photos: loss per timestep beside linear denoisers, filled holes beside classical filling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from ipsm_jax.priors.diffusion import DiffusionPrior, add_noise
from ipsm_jax.priors.embedded import patches
from ipsm_jax.priors.embedded.descriptor import describe
from ipsm_jax.priors.embedded.load import CheckedPrior, gray_latents
from prior.classical import harmonic_fill, mean_fill
from prior.masks import partly_known
from prior.samples import make_batch, random_crop
from prior.sampling import sample
from prior.validation import errors, held_out
from prior.wiener import Spectrum, expected_error, predict

BIN = 100  # timesteps
Distance = Callable[[Array, Array], Array]


def latents_of_crops(
    prior: DiffusionPrior, config: patches.PatchConfig, squares: UInt8[np.ndarray, "n 2 256 256 3"], seed: int = 7
) -> Float[np.ndarray, "n h w c"]:
    """Latents of one random crop of each photo, drawn as in training."""
    side = prior.latent_shape[0] * config.patch

    @jax.jit
    def crop(key: Array, squares: Array, photo: Array) -> Array:
        view = random_crop(key, squares, photo, jnp.zeros((), bool), side)
        return patches.encode_pooled(config, prior.params["vae"], view[None])[0]

    keys, data = jax.random.split(jax.random.key(seed), len(squares)), jnp.asarray(squares)
    return np.stack([np.asarray(crop(key, data, jnp.asarray(i))) for i, key in enumerate(keys)])


def loss_by_timestep(
    prior: DiffusionPrior,
    checked: CheckedPrior,
    squares: UInt8[np.ndarray, "n 2 256 256 3"],
    spectra: dict[str, Spectrum],
) -> list[dict[str, float]]:
    """Mean squared error of the predicted noise in each hundred of timesteps, one sample of each photo.

    `plain` knows nothing but the noisy latents, `described` a descriptor of another crop, `inpaint` that and the
    picture around the hole; the others are linear denoisers of the same noisy latents, and what they would reach if
    photos were Gaussian (`..._expected`). `..._in_hole` is the mean over the latents in the holes alone and
    `inpaint_known` over the others, whose picture the inpainting model is given: an average of both says little of
    either.
    """
    config, params, rows = checked.patch_config, prior.params, []
    gray = gray_latents(config, params["vae"])
    for first in range(0, len(prior.alphas_cumprod), BIN):
        batch = held_out(
            squares, config, params["vae"], prior.latent_shape[0], (first, first + BIN), seed=1000 + first, partly=True
        )
        noise = jax.random.normal(jax.random.key(first), batch.latents.shape)
        plain = batch._replace(hole=jnp.ones_like(batch.hole), masked=jnp.broadcast_to(gray, batch.masked.shape))
        cases = {"plain": plain._replace(tokens=jnp.zeros_like(batch.tokens)), "described": plain, "inpaint": batch}
        row: dict[str, float] = {"first": first, "last": first + BIN - 1}
        squared = {
            name: np.asarray(errors(checked.unet_config, params, noise, case)).mean(-1) for name, case in cases.items()
        }
        noisy = np.asarray(add_noise(prior.alphas_cumprod, batch.latents, noise, batch.t))
        alpha = np.asarray(prior.alphas_cumprod)[np.asarray(batch.t)]
        for name, spectrum in spectra.items():
            squared[name] = np.square(predict(spectrum, noisy, alpha) - np.asarray(noise)).mean(-1)
            row[f"{name}_expected"] = expected_error(spectrum, alpha)
        in_hole = np.asarray(batch.hole)[..., 0] > 0
        row |= {name: float(values.mean()) for name, values in squared.items()}
        row |= {f"{name}_in_hole": float(values[in_hole].mean()) for name, values in squared.items()}
        row["inpaint_known"] = float(squared["inpaint"][~in_hole].mean())
        rows.append(row)
    return rows


def inpainting(
    prior: DiffusionPrior,
    checked: CheckedPrior,
    squares: UInt8[np.ndarray, "n 2 256 256 3"],
    distance: Distance | None,
    steps: int = 25,
    draws: int = 4,
    seed: int = 99,
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """PSNR in the hole and LPIPS of the whole picture for each way of filling, averaged over photos, and the pictures.

    Known pixels are kept. A sample is one of many possible pictures, so its PSNR is below that of their mean
    (`mean of ...`), which in turn is blurred; hence both, and both distances.
    """
    config, vae = checked.patch_config, prior.params["vae"]
    side, count = prior.latent_shape[0] * config.patch, len(squares)
    keys = jax.random.split(jax.random.key(seed), (3, count))
    crop = jax.jit(jax.vmap(lambda k, i, s: random_crop(k, s, i, jnp.zeros((), bool), side), in_axes=(0, 0, None)))
    data = jnp.asarray(squares)
    view, other = crop(keys[0], jnp.arange(count), data), crop(keys[1], jnp.arange(count), data)
    known = jnp.stack([partly_known(key, side) for key in keys[2]])
    tokens = describe(patches.encode_pooled(config, vae, other))
    batch = make_batch(view, known, tokens, jnp.zeros(count, jnp.int32), config, vae)

    def draw(scale: float, number: int) -> np.ndarray:
        """Pictures of one draw of every hole, some at a time."""
        parts = []
        for first in range(0, count, 16):
            rows = np.minimum(np.arange(first, first + 16), count - 1)
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed + 1), number), first)
            z = sample(key, prior, tokens[rows], scale, batch.hole[rows], batch.masked[rows], steps=steps)
            parts.append(np.asarray(patches.decode_pooled(config, vae, z))[: count - first])
        return np.concatenate(parts)

    truth, mask = np.asarray(view), np.asarray(known)
    filled = {
        "mean color": np.stack([mean_fill(a, m) for a, m in zip(truth, mask, strict=True)]),
        "harmonic": np.stack([harmonic_fill(a, m) for a, m in zip(truth, mask, strict=True)]),
    }
    for name, scale in (("prior", 0.0), ("prior, described", 1.0)):
        pictures = [draw(scale, number) for number in range(draws)]
        filled[f"{name}: one sample"] = pictures[0]
        filled[f"{name}: mean of {draws}"] = np.mean(pictures, axis=0)
    filled = {name: np.where(mask[..., None], truth, pictures) for name, pictures in filled.items()}
    figures = {name: _score(truth, pictures, mask, distance) for name, pictures in filled.items()}
    return figures, {"photos": truth, "holes": np.where(mask[..., None], truth, 0.5), **filled}


def _score(
    truth: Float[np.ndarray, "n h w 3"],
    pictures: Float[np.ndarray, "n h w 3"],
    known: Bool[np.ndarray, "n h w"],
    distance: Distance | None,
) -> dict[str, float]:
    squared = np.square(truth - pictures).mean(-1)
    in_hole = (squared * ~known).sum((1, 2)) / (~known).sum((1, 2))
    result = {"psnr": float(np.mean(-10 * np.log10(np.maximum(in_hole, 1e-10))))}
    if distance is not None:
        apart = [distance(jnp.asarray(a), jnp.asarray(b)) for a, b in zip(pictures, truth, strict=True)]
        result["lpips"] = float(np.mean(apart))
    return result
