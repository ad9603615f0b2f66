"""The autoencoder's basis: principal directions of patches of photos, partially whitened."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from ipsm_jax.priors.embedded.patches import PatchConfig, cut, pool

WHITENING = 0.6
"""Latents have variances v^(1 - WHITENING), v those of the patches: 0 keeps them, 1 makes all equal.

Photos have a thousand times less variance in the fine directions than in the mean color; unscaled, the noise of the
timesteps that distillation draws would leave only the color to judge. Whitened wholly, the faintest texture would count
as much as the color.
"""


def fit_basis(
    squares: UInt8[np.ndarray, "n k 256 256 3"], config: PatchConfig, photos: int = 400
) -> tuple[dict[str, Float[np.ndarray, ...]], float]:
    """Arrays of the autoencoder, and the share of the patches' variance that its directions hold.

    Latents have unit variance, averaged over their channels.
    """
    chosen = squares[np.linspace(0, len(squares) - 1, min(photos, len(squares))).astype(int), 0]
    halved = pool(chosen.astype(np.float32) / 127.5 - 1, 2)
    vectors = np.asarray(cut(halved, config.patch), np.float64).reshape(-1, 3 * config.patch**2)
    mean = vectors.mean(0)
    values, directions = np.linalg.eigh(np.cov((vectors - mean).T))
    values, directions = values[::-1], directions[:, ::-1]  # strongest first
    kept = values[: config.latent_channels]
    basis = directions[:, : config.latent_channels].T
    basis = basis * np.sign(basis[np.arange(len(basis)), np.abs(basis).argmax(1)])[:, None]
    scale = kept ** (-WHITENING / 2)
    scale /= np.sqrt(np.mean(scale**2 * kept))
    arrays = {"basis": basis, "mean": mean, "scale": scale, "variance": scale**2 * kept}
    return {name: value.astype(np.float32) for name, value in arrays.items()}, float(kept.sum() / values.sum())
