"""The best linear denoiser that knows only the spectrum of photos, to judge the network by.

Latents are taken for a stationary Gaussian field on a torus: at each spatial frequency k the c channels have a
covariance S_k (c, c), estimated from training photos. The best prediction of the noise is then, frequency by frequency,

    E[e | z_t] = sqrt(1 - a) (a S_k + (1 - a) I)^-1 (z_t - sqrt(a) m),

with the mean squared error mean of a v / (a v + 1 - a) over the eigenvalues v of all S_k: what it would reach on
Gaussian pictures of this spectrum. Photos do not close to a torus, and
the estimate of S_k holds their leap at the border.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float


class Spectrum(NamedTuple):
    """Mean, eigenvalues and eigenvectors of the channels' covariance at each frequency."""

    mean: Float[np.ndarray, " c"]
    values: Float[np.ndarray, "h w c"]
    vectors: Complex[np.ndarray, "h w c c"]


def fit_spectrum(latents: Float[np.ndarray, "n h w c"]) -> Spectrum:
    """Estimate from latents of photos, n well above c."""
    mean = latents.mean((0, 1, 2), dtype=np.float64)
    waves = np.fft.fft2(latents - mean[None, None, None], axes=(1, 2), norm="ortho")
    covariance = np.einsum("nhwc,nhwd->hwcd", waves, waves.conj(), optimize=True) / len(latents)
    values, vectors = np.linalg.eigh(covariance)
    return Spectrum(mean, values.clip(0), vectors)


def channels_only(latents: Float[np.ndarray, "n h w c"]) -> Spectrum:
    """The same without any relation between places or channels: each latent is judged by itself."""
    _, height, width, channels = latents.shape
    variance = latents.astype(np.float64).var((0, 1, 2))
    vectors = np.broadcast_to(np.eye(channels, dtype=complex), (height, width, channels, channels))
    values = np.broadcast_to(variance[None, None], (height, width, channels))
    return Spectrum(latents.mean((0, 1, 2), dtype=np.float64), values, vectors)


def predict(
    spectrum: Spectrum, noisy: Float[np.ndarray, "b h w c"], alpha: Float[np.ndarray, " b"]
) -> Float[np.ndarray, "b h w c"]:
    """The predicted noise; `alpha` is the cumulative alpha of each sample."""
    a = np.asarray(alpha, np.float64)[:, None, None, None]
    waves = np.fft.fft2(noisy - np.sqrt(a) * spectrum.mean[None, None, None], axes=(1, 2), norm="ortho")
    along = np.einsum("hwcv,bhwc->bhwv", spectrum.vectors.conj(), waves, optimize=True)
    along = np.sqrt(1 - a) * along / (a * spectrum.values[None] + 1 - a)
    back = np.einsum("hwcv,bhwv->bhwc", spectrum.vectors, along, optimize=True)
    return np.fft.ifft2(back, axes=(1, 2), norm="ortho").real


def expected_error(spectrum: Spectrum, alpha: Float[np.ndarray, " b"]) -> float:
    """Mean squared error on Gaussian pictures of this spectrum, averaged over the levels of noise."""
    a = np.asarray(alpha, np.float64)[:, None, None, None]
    signal = a * spectrum.values[None]
    return float(np.mean(signal / (signal + 1 - a)))
