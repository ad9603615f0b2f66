"""What a place looks like, in a few tokens: the embedded prior's counterpart of a prompt.

The latents of a photo are cut into CELLS x CELLS cells, and each cell gives one token: the mean of its latents and the
logarithm of their standard deviation, that is its color and the strength and direction of its texture. Tokens carry no
position, and the network attends to them as to a set: they say what there is, not where. So those of several photos
are simply put in a row. No description at all is zeros, to which attention answers with a constant.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

CELLS = 4
"""Cells per side of a photo."""

_FLOOR = 1e-3  # of the standard deviation, which is about 1


def token_channels(latent_channels: int) -> int:
    """Channels of a token."""
    return 2 * latent_channels


def describe(latents: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
    """Tokens of each photo, n = CELLS^2, d = 2 c.

    Raises:
      ValueError: unless height and width are divisible by CELLS.
    """
    batch, height, width, channels = latents.shape
    if height % CELLS or width % CELLS:
        raise ValueError(f"latents must have sides divisible by {CELLS}, got {latents.shape}")
    cells = latents.reshape(batch, CELLS, height // CELLS, CELLS, width // CELLS, channels)
    cells = cells.transpose(0, 1, 3, 2, 4, 5).reshape(batch, CELLS**2, -1, channels)
    mean = cells.mean(2)
    variance = jnp.square(cells - mean[:, :, None]).mean(2)
    # the floor lies under the root, where it keeps the gradient finite
    return jnp.concatenate([mean, 0.5 * jnp.log(variance + _FLOOR**2)], axis=-1)
