"""Resizing by interpolation as the depth networks were trained with it: torch's `interpolate`, without antialiasing.

Each axis is a matrix that is known when the program is compiled, so the gradient is exactly the transpose.
(`jax.image.resize` has another cubic kernel, and cuts kernels off at the border instead of repeating the edge.)
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Kernel = Literal["linear", "cubic"]

_CUBIC = -0.75  # slope of the cubic kernel at distance 1, as in torch and OpenCV


def interpolation_matrix(
    size: int, new_size: int, kernel: Kernel, align_corners: bool = False
) -> Float[np.ndarray, "{new_size} {size}"]:
    """The float32 matrix that interpolates `size` samples at `new_size` places; rows sum to 1.

    Args:
      size, new_size: numbers of samples, at least 1.
      kernel: between 2 (linear) or 4 (cubic, Keys 1981) neighbors; beyond the ends the first and the last sample
        are repeated.
      align_corners: the first and the last samples keep their places; otherwise the outer edges of the pixels do.
    """
    new = np.arange(new_size, dtype=np.float64)
    places = new * ((size - 1) / max(new_size - 1, 1)) if align_corners else (new + 0.5) * (size / new_size) - 0.5
    matrix = np.zeros((new_size, size))
    for offset in (-1, 0, 1, 2):
        neighbors = np.floor(places) + offset
        weights = _kernel(np.abs(places - neighbors), kernel)
        # a place near the end has one sample as several of its neighbors
        np.add.at(matrix, (np.arange(new_size), np.clip(neighbors, 0, size - 1).astype(np.int64)), weights)
    return matrix.astype(np.float32)


def _kernel(distance: np.ndarray, kernel: Kernel) -> np.ndarray:
    if kernel == "linear":
        return np.maximum(1 - distance, 0.0)
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def resize(
    x: Float[Array, "b h w c"], size: tuple[int, int], kernel: Kernel, align_corners: bool = False
) -> Float[Array, "b h2 w2 c"]:
    """Interpolate pictures or features at another (height, width); see `interpolation_matrix`."""
    for axis, equation in ((1, "oh,bhwc->bowc"), (2, "ow,bhwc->bhoc")):
        if x.shape[axis] != size[axis - 1]:  # otherwise every place is a sample's own
            matrix = interpolation_matrix(x.shape[axis], size[axis - 1], kernel, align_corners)
            x = jnp.einsum(equation, jnp.asarray(matrix, x.dtype), x, precision="highest")
    return x
