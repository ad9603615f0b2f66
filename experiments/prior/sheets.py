"""Sheets of samples, to look at: pictures from nothing, under descriptors, and filled holes of held-out photos."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from ipsm_jax.losses.distillation import latent_hole
from ipsm_jax.priors.diffusion import DiffusionPrior
from ipsm_jax.priors.embedded import patches
from ipsm_jax.priors.embedded.descriptor import describe
from ipsm_jax.reporting.files import atomic_write
from prior.masks import partly_known
from prior.sampling import sample

SCALE = 3.0
"""Guidance of the sheets' described samples."""
_GAP = 2  # white pixels between pictures


def sample_sheet(
    path: Path,
    prior: DiffusionPrior,
    config: patches.PatchConfig,
    squares: UInt8[np.ndarray, "n 2 256 256 3"],
    columns: int = 8,
    seed: int = 0,
) -> None:
    """Write a sheet: six rows of held-out photos and what the prior makes of them.

    Rows: photos; samples from nothing; samples under each photo's descriptor; photos with holes; the holes filled
    without descriptor; filled under the descriptor of the photo's other end.
    """
    vae = prior.params["vae"]
    side = prior.latent_shape[0] * config.patch
    chosen = np.linspace(0, len(squares) - 1, columns).astype(int)
    ends = [patches.pool(jnp.asarray(squares[chosen, i], jnp.float32) / 255, squares.shape[2] // side) for i in (0, 1)]
    tokens = describe(patches.encode_pooled(config, vae, ends[1]))
    keys = jax.random.split(jax.random.key(seed), 3)
    known = jnp.stack([partly_known(key, side) for key in jax.random.split(keys[0], columns)])
    holed = jnp.where(known[..., None], ends[0], 0.5)
    hole = jax.vmap(lambda m: latent_hole(m, prior.latent_shape))(known)
    masked = patches.encode_pooled(config, vae, holed)
    latents = [
        sample(keys[1], prior, tokens, 0.0),
        sample(keys[1], prior, tokens, SCALE),
        sample(keys[2], prior, tokens, 0.0, hole, masked),
        sample(keys[2], prior, tokens, SCALE, hole, masked),
    ]
    free, described, filled, filled_described = (patches.decode_pooled(config, vae, z) for z in latents)
    write_sheet(path, [np.asarray(row) for row in (ends[0], free, described, holed, filled, filled_described)])


def write_sheet(path: Path, rows: list[Float[np.ndarray, "n h w 3"]]) -> None:
    """Pictures in [0, 1] as a PNG, one row under another."""
    lines = []
    for row in rows:
        padded = np.pad(row, ((0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=1.0)
        lines.append(np.concatenate(list(padded), axis=1))
    sheet = (np.concatenate(lines) * 255).round().clip(0, 255).astype(np.uint8)
    with atomic_write(path) as temporary:
        iio.imwrite(temporary, sheet)
