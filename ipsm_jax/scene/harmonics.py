"""Real spherical harmonics up to degree 3: the color of a Gaussian as a function of the viewing direction.

Basis, order and signs are those of the original 3D Gaussian splatting, so that its point clouds mean the same here
(METHOD section 2): 16 functions, band l = 0, 1, 2, 3 holding 1, 3, 5, 7 of them. `sh_dc` holds the coefficient of the
constant function, `sh_rest` the other 15; the last axis is RGB. Directions are unit vectors (x, y, z) from the camera
center to the Gaussian, in world axes. Colors are display values, 1 is white.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

MAX_DEGREE = 3
_BAND = np.repeat(np.arange(MAX_DEGREE + 1, dtype=np.int32), [1, 3, 5, 7])  # degree of each of the 16 functions


def harmonic_basis(directions: Float[Array, "n 3"]) -> Float[Array, "n 16"]:
    """The 16 basis functions at unit directions (n, 3); orthonormal on the unit sphere."""
    x, y, z = directions[:, 0], directions[:, 1], directions[:, 2]
    xx, yy, zz = x * x, y * y, z * z
    pi = math.pi
    band0 = [jnp.full_like(x, math.sqrt(1 / (4 * pi)))]
    c1 = math.sqrt(3 / (4 * pi))
    band1 = [-c1 * y, c1 * z, -c1 * x]
    c2 = math.sqrt(15 / (4 * pi))
    band2 = [
        c2 * x * y,
        -c2 * y * z,
        math.sqrt(5 / (16 * pi)) * (2 * zz - xx - yy),
        -c2 * x * z,
        c2 / 2 * (xx - yy),
    ]
    c33, c32, c31, c30 = (math.sqrt(f / pi) for f in (35 / 32, 105 / 4, 21 / 32, 7 / 16))
    band3 = [
        -c33 * y * (3 * xx - yy),
        c32 * x * y * z,
        -c31 * y * (4 * zz - xx - yy),
        c30 * z * (2 * zz - 3 * xx - 3 * yy),
        -c31 * x * (4 * zz - xx - yy),
        c32 / 2 * z * (xx - yy),
        -c33 * x * (xx - 3 * yy),
    ]
    return jnp.stack(band0 + band1 + band2 + band3, axis=-1)


def check_degree(degree: int | Int[ArrayLike, ""]) -> None:
    """Raise ValueError for a Python integer outside 0..3; a traced degree cannot be checked and is taken as given."""
    if isinstance(degree, int | np.integer) and not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"spherical harmonics degree must be 0, 1, 2 or {MAX_DEGREE}, got {degree}")


def evaluate_harmonics(
    sh_dc: Float[Array, "n 3"],
    sh_rest: Float[Array, "n 15 3"],
    directions: Float[Array, "n 3"],
    degree: int | Int[ArrayLike, ""],
) -> Float[Array, "n 3"]:
    """Sum of coefficient times basis function over the bands up to `degree`.

    Args:
      sh_dc: (n, 3) coefficients of the constant function.
      sh_rest: (n, 15, 3) coefficients of bands 1 to 3; those above `degree` have no effect.
      directions: (n, 3) unit vectors; not normalized here.
      degree: 0 to 3, a Python integer or a traced int32 scalar.

    Returns:
      (n, 3) values before the offset of 0.5 (see `harmonics_to_color`).

    Raises:
      ValueError: a Python integer outside 0..3.
    """
    check_degree(degree)
    basis = harmonic_basis(directions)
    # Masking the coefficients (not only the basis) keeps an unused NaN coefficient from reaching the sum.
    active = jnp.asarray(_BAND) <= degree
    coefficients = jnp.where(active[None, 1:, None], sh_rest, 0)
    return basis[:, :1] * sh_dc + jnp.sum(basis[:, 1:, None] * coefficients, axis=1)


def harmonics_to_color(values: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
    """Color of harmonics values: values + 0.5, clamped from below at 0.

    A channel counts as clamped where values + 0.5 <= 0, zero included: there the color is 0 and so is the gradient.
    """
    shifted = values + 0.5
    return jnp.where(shifted > 0, shifted, 0)
