"""A linear autoencoder of patches: the light counterpart of Stable Diffusion's, for the embedded prior.

A picture is averaged over `pooling` x `pooling` pixels, cut into `patch` x `patch` pixels, and each patch p, a vector
of 3 patch^2 values in [-1, 1], becomes

    z = s * B (p - m),    back: p = m + B^T (z / s),

with the rows of B orthonormal: principal directions of patches of photos, the strongest first. The scales s raise the
weak ones (partial whitening), or noise would hide them at every timestep. There is no posterior to draw from, and
decoding an encoded picture is a projection: doing it twice changes nothing more. Beside B, m and s the variance of each
latent channel over photos is kept, which the network is scaled by.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ipsm_jax.priors.config import PriorError, check_settings, integer
from ipsm_jax.priors.layers import Params, Shape, upsample

CLASS_NAME = "PatchAutoencoder"
"""`_class_name` in config.json, which tells the folder from an autoencoder of Stable Diffusion."""

_TOLERANCE = 1e-4  # on scalar products of the rows of B, stored in float32


@dataclasses.dataclass(frozen=True)
class PatchConfig:
    """Structure of the autoencoder.

    Attributes:
      pooling: pixels that are averaged, per side; a power of two.
      patch: averaged pixels of a patch, per side.
      latent_channels: directions kept.
    """

    pooling: int
    patch: int
    latent_channels: int

    @property
    def factor(self) -> int:
        """How many pixels one latent is wide."""
        return self.pooling * self.patch

    @classmethod
    def from_json(cls, config: Mapping[str, Any], where: str = "vae/config.json") -> PatchConfig:
        """Read the content of a config.json.

        Raises:
          PriorError: if a setting is missing, malformed or asks for what is not implemented here.
        """
        if config.get("_class_name") != CLASS_NAME:
            raise PriorError(f"{where}: _class_name must be {CLASS_NAME!r}, found {config.get('_class_name')!r}")
        check_settings(config, {}, {"pooling", "patch_size", "latent_channels"}, where)
        found = cls(*(integer(config, key, where) for key in ("pooling", "patch_size", "latent_channels")))
        if found.pooling & (found.pooling - 1):
            raise PriorError(f"{where}: pooling must be a power of two, found {found.pooling}")
        if found.latent_channels > 3 * found.patch**2:
            raise PriorError(
                f"{where}: a patch of {found.patch} x {found.patch} pixels has {3 * found.patch**2} values, "
                f"latent_channels asks for {found.latent_channels}"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """The content of config.json."""
        return {
            "_class_name": CLASS_NAME,
            "latent_channels": self.latent_channels,
            "patch_size": self.patch,
            "pooling": self.pooling,
        }


def patch_shapes(config: PatchConfig) -> dict[str, Shape]:
    """Name and shape of every array: B, m, s and the variances."""
    values = 3 * config.patch**2
    channels = (config.latent_channels,)
    return {"basis": (*channels, values), "mean": (values,), "scale": channels, "variance": channels}


def check_basis(params: Params, where: str) -> None:
    """Refuse arrays with which decoding would not undo encoding.

    Raises:
      PriorError: if rows of the basis are not orthonormal, or a scale or variance is not positive.
    """
    basis = np.asarray(params["basis"], np.float64)
    error = float(np.abs(basis @ basis.T - np.eye(len(basis))).max())
    if not error < _TOLERANCE:
        raise PriorError(f"{where}: the rows of basis must be orthonormal; scalar products are off by {error:.1e}")
    positive = np.concatenate([np.asarray(params["scale"]), np.asarray(params["variance"])])
    if not (np.isfinite(positive).all() and (positive > 0).all() and np.isfinite(np.asarray(params["mean"])).all()):
        raise PriorError(f"{where}: scale and variance must be positive and mean finite")


def cut(images: Float[Array, "b h w 3"], patch: int) -> Float[Array, "b h2 w2 v"]:
    """Patches as vectors, v = 3 patch^2, in the order (row, column, color)."""
    batch, height, width, colors = images.shape
    cells = images.reshape(batch, height // patch, patch, width // patch, patch, colors)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // patch, width // patch, -1)


def paste(vectors: Float[Array, "b h w v"], patch: int) -> Float[Array, "b h2 w2 3"]:
    """The picture of patches, the inverse of `cut`."""
    batch, height, width, _ = vectors.shape
    cells = vectors.reshape(batch, height, width, patch, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(batch, height * patch, width * patch, 3)


def pool(images: Float[Array, "b h w 3"], pooling: int) -> Float[Array, "b h2 w2 3"]:
    """Means of pooling x pooling pixels."""
    batch, height, width, colors = images.shape
    return images.reshape(batch, height // pooling, pooling, width // pooling, pooling, colors).mean((2, 4))


def encode(config: PatchConfig, params: Params, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
    """Latents of pictures in [0, 1], float32; linear, so the gradient is the same everywhere.

    Raises:
      ValueError: unless height and width are divisible by `config.factor`.
    """
    if images.shape[1] % config.factor or images.shape[2] % config.factor:
        raise ValueError(f"pictures must have sides divisible by {config.factor}, got {images.shape}")
    return encode_pooled(config, params, pool(images, config.pooling))


def encode_pooled(config: PatchConfig, params: Params, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
    """Latents of pictures that are averaged already."""
    centered = cut(2 * images - 1, config.patch) - params["mean"][None, None, None]
    latents = jnp.einsum("bhwv,cv->bhwc", centered, params["basis"], precision="highest")
    return latents * params["scale"][None, None, None]


def decode(config: PatchConfig, params: Params, latents: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
    """Pictures of latents, clipped to [0, 1], at the size that `encode` takes."""
    images = decode_pooled(config, params, latents)
    for _ in range(config.pooling.bit_length() - 1):
        images = upsample(images)
    return images


def decode_pooled(config: PatchConfig, params: Params, latents: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
    """Pictures of latents, clipped to [0, 1], one pixel for each that was averaged."""
    unscaled = latents / params["scale"][None, None, None]
    vectors = jnp.einsum("bhwc,cv->bhwv", unscaled, params["basis"], precision="highest")
    return jnp.clip(0.5 * paste(vectors + params["mean"][None, None, None], config.patch) + 0.5, 0.0, 1.0)
