"""3D Gaussians as a NamedTuple of unconstrained arrays with a fixed capacity.

Which of the N slots are in use is a boolean array `alive`, kept beside the Gaussians and not in them: a dead slot is
invisible to the rasterizer and keeps whatever numbers it holds. What the arrays mean:

- standard deviation along the Gaussian's own axes = exp(log_scales)
- rotation (world from Gaussian axes) = quaternions / norm, wxyz
- opacity = sigmoid(opacity_logits)
- color = spherical harmonics of the viewing direction + 0.5, clamped at 0 (see `harmonics.py`)
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.spatial import cKDTree

SH_C0 = 0.28209479177387814  # value of the constant spherical harmonic
INITIAL_OPACITY = 0.1


class Gaussians(NamedTuple):
    """N Gaussians, all float32; usable wherever a pytree is."""

    means: Float[Array, "n 3"]
    log_scales: Float[Array, "n 3"]
    quaternions: Float[Array, "n 4"]
    opacity_logits: Float[Array, " n"]
    sh_dc: Float[Array, "n 3"]
    sh_rest: Float[Array, "n 15 3"]

    @property
    def capacity(self) -> int:
        """Number of slots, in use or not."""
        return self.means.shape[-2]


def zeros(capacity: int, dtype: jnp.dtype = jnp.float32) -> Gaussians:
    """`capacity` empty slots: unit scale, identity rotation, opacity 1/2; meant to be dead until written."""
    return Gaussians(
        means=jnp.zeros((capacity, 3), dtype),
        log_scales=jnp.zeros((capacity, 3), dtype),
        quaternions=jnp.zeros((capacity, 4), dtype).at[:, 0].set(1),
        opacity_logits=jnp.zeros((capacity,), dtype),
        sh_dc=jnp.zeros((capacity, 3), dtype),
        sh_rest=jnp.zeros((capacity, 15, 3), dtype),
    )


def with_capacity(
    gaussians: Gaussians, alive: Bool[Array, " n"], capacity: int
) -> tuple[Gaussians, Bool[Array, " capacity"]]:
    """The same Gaussians in a larger set of slots; the new ones are dead.

    Raises:
      ValueError: if `capacity` is smaller than the present one.
    """
    extra = capacity - gaussians.capacity
    if extra < 0:
        raise ValueError(f"capacity can only grow: {gaussians.capacity} -> {capacity}")
    grown = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), gaussians, zeros(extra, gaussians.means.dtype))
    return grown, jnp.concatenate([alive, jnp.zeros(extra, bool)])


def mean_squared_neighbor_distance(points: np.ndarray, neighbors: int = 3) -> np.ndarray:
    """(P,) mean of the squared distances from each of (P, 3) points to its nearest `neighbors` others (host, exact).

    Raises:
      ValueError: if there are not more than `neighbors` points.
    """
    points = np.asarray(points, np.float64)
    if len(points) <= neighbors:
        raise ValueError(f"need more than {neighbors} points to know neighbor distances, got {len(points)}")
    distances, _ = cKDTree(points).query(points, k=neighbors + 1, workers=-1)
    return np.mean(distances[:, 1:] ** 2, axis=1)


def gaussians_from_points(
    positions: np.ndarray, colors: np.ndarray, capacity: int | None = None
) -> tuple[Gaussians, Bool[Array, " n"]]:
    """Gaussians that start a training from a colored point cloud (METHOD section 2).

    mean = point, isotropic scale = sqrt(max(mean squared distance to the 3 nearest neighbors, 1e-7)), identity
    rotation, opacity 0.1, color in the constant harmonic.

    Args:
      positions: (P, 3) finite world coordinates, P >= 4.
      colors: (P, 3) RGB in [0, 1].
      capacity: number of slots, at least P; default P.

    Returns:
      Gaussians with `capacity` slots and the boolean `alive` (the first P are).

    Raises:
      ValueError: too few points, mismatched shapes, numbers that are not finite, colors outside [0, 1] or a capacity
        below P.
    """
    positions, colors = np.asarray(positions, np.float32), np.asarray(colors, np.float32)
    if positions.ndim != 2 or positions.shape[1] != 3 or colors.shape != positions.shape:
        raise ValueError(f"need positions (P, 3) and colors (P, 3), got {positions.shape} and {colors.shape}")
    for name, values in (("positions", positions), ("colors", colors)):
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).any(axis=1).sum())
            raise ValueError(f"{bad} of {len(values)} points have {name} that are not finite; drop those points")
    if colors.size and (colors.min() < 0 or colors.max() > 1):
        raise ValueError(f"colors must be in [0, 1], found {colors.min()} to {colors.max()}; divide 8-bit ones by 255")
    count = len(positions)
    capacity = count if capacity is None else capacity
    if capacity < count:
        raise ValueError(f"{count} points do not fit into {capacity} slots")
    scale = np.sqrt(np.maximum(mean_squared_neighbor_distance(positions), 1e-7))
    initial = Gaussians(
        means=jnp.asarray(positions),
        log_scales=jnp.asarray(np.repeat(np.log(scale)[:, None], 3, axis=1), jnp.float32),
        quaternions=jnp.zeros((count, 4), jnp.float32).at[:, 0].set(1),
        opacity_logits=jnp.full((count,), np.log(INITIAL_OPACITY / (1 - INITIAL_OPACITY)), jnp.float32),
        sh_dc=jnp.asarray((colors - 0.5) / SH_C0, jnp.float32),
        sh_rest=jnp.zeros((count, 15, 3), jnp.float32),
    )
    return with_capacity(initial, jnp.ones(count, bool), capacity)


def gaussians_from_activated(
    means: np.ndarray, quaternions: np.ndarray, scales: np.ndarray, opacities: np.ndarray, colors: np.ndarray
) -> Gaussians:
    """Gaussians from the numbers that other libraries render (gsplat's arguments, in its order), on the host.

    Args:
      means: (N, 3).
      quaternions: (N, 4) wxyz, of any length but 0; kept as they are.
      scales: (N, 3) standard deviations, greater than 0.
      opacities: (N,) or (N, 1) in [0, 1]; cut to [1e-6, 1 - 1e-6], because those of 0 and 1 have no finite logit.
      colors: (N, K, 3) coefficients of spherical harmonics, K = 1, 4, 9 or 16, padded with zeros; or (N, 3) RGB.

    Raises:
      ValueError: shapes that do not fit, scales or opacities out of range, numbers that are not finite, a zero
        quaternion.
    """
    means, quaternions, scales, opacities, colors = (
        np.asarray(a, np.float64) for a in (means, quaternions, scales, opacities, colors)
    )
    count = len(means) if means.ndim else 0
    opacities = opacities[:, 0] if opacities.shape == (count, 1) else opacities
    arrays = {"means": means, "quaternions": quaternions, "scales": scales, "opacities": opacities, "colors": colors}
    wanted = {"means": (count, 3), "quaternions": (count, 4), "scales": (count, 3), "opacities": (count,)}
    for name, shape in wanted.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, want {shape}")
    harmonics = colors.shape[1] if colors.ndim == 3 and colors.shape[::2] == (count, 3) else 0
    if harmonics not in (1, 4, 9, 16) and colors.shape != (count, 3):
        raise ValueError(
            f"colors has shape {colors.shape}, want ({count}, K, 3) with K = 1, 4, 9 or 16 harmonics, or ({count}, 3) "
            "RGB; give other values per Gaussian to render as `features`"
        )
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{int((~np.isfinite(array)).sum())} numbers in {name} are NaN or infinite")
    if not (scales > 0).all():
        raise ValueError(f"scales must be greater than 0, found {scales.min()}; logarithms need np.exp first")
    if ((opacities < 0) | (opacities > 1)).any():
        raise ValueError(
            f"opacities must be in [0, 1], found {opacities.min()} to {opacities.max()}; logits need a sigmoid first"
        )
    if not np.abs(quaternions).max(axis=1, initial=0).all():
        raise ValueError("a quaternion is zero, which is no rotation")
    inside = np.clip(opacities, 1e-6, 1 - 1e-6)
    rest = np.zeros((count, 15, 3))
    if harmonics:
        rest[:, : harmonics - 1] = colors[:, 1:]
    dc = colors[:, 0] if harmonics else (colors - 0.5) / SH_C0
    fields = (means, np.log(scales), quaternions, np.log(inside / (1 - inside)), dc, rest)
    return Gaussians(*(jnp.asarray(field, jnp.float32) for field in fields))
