"""Exact nearest neighbors of some points among many, inside a compiled program.

Density control asks once in a hundred iterations, for anything between none and all of a hundred thousand points:
comparing all with all would take minutes for the latter, hence a k-d tree in native code. On a CPU a callback to Python
is no way to one: with one core, XLA's only thread waits for the callback and the callback for that thread. On a GPU the
points go to the host, to SciPy's tree, once in a hundred iterations.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from scipy.spatial import KDTree

from ipsm_jax.rasterizer.native import load_library

TARGET = "ipsm_nearest_neighbors"
NEIGHBORS = 3


def nearest_neighbors(
    points: Float[Array, "n 3"], valid: Bool[Array, " n"], wanted: Bool[Array, " n"]
) -> tuple[Float[Array, " n"], Int[Array, "n 3"]]:
    """The 3 nearest other valid points of each wanted point.

    Works under jit and vmap; not differentiable.

    Args:
      points: positions; those of slots that are not valid are not looked at, and where one is not finite the point
        counts as not valid.
      valid: which points exist.
      wanted: which points' neighbors to find; those that are not valid are not looked for.

    Returns:
      (n,) mean of the SQUARED distances to the 3 neighbors, 0 where not wanted, infinite where there are fewer than 3
      other valid points; (n, 3) indices of the neighbors by ascending distance, ties by index, 0 where not wanted.

    Raises:
      NativeUnavailableError: the native library is missing or does not fit.
    """
    load_library()
    return lax.platform_dependent(points, valid, wanted, cpu=_nearest_native, default=_nearest_on_host)


def _shapes(n: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    return jax.ShapeDtypeStruct((n,), jnp.float32), jax.ShapeDtypeStruct((n, NEIGHBORS), jnp.int32)


def _nearest_native(
    points: Float[Array, "n 3"], valid: Bool[Array, " n"], wanted: Bool[Array, " n"]
) -> tuple[Float[Array, " n"], Int[Array, "n 3"]]:
    call = jax.ffi.ffi_call(TARGET, _shapes(points.shape[0]), vmap_method="expand_dims")
    means, neighbors = call(points, valid, wanted)
    return means, neighbors


def _nearest_on_host(
    points: Float[Array, "n 3"], valid: Bool[Array, " n"], wanted: Bool[Array, " n"]
) -> tuple[Float[Array, " n"], Int[Array, "n 3"]]:
    return jax.pure_callback(
        nearest_with_scipy, _shapes(points.shape[0]), points, valid, wanted, vmap_method="sequential"
    )


def nearest_with_scipy(
    points: Float[np.ndarray, "n 3"], valid: Bool[np.ndarray, " n"], wanted: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, "n 3"]]:
    """What `nearest_neighbors` computes, on the host; equal distances in any order."""
    points, valid, wanted = np.asarray(points), np.asarray(valid), np.asarray(wanted)
    valid = valid & np.isfinite(points).all(axis=-1)
    there, asked = np.flatnonzero(valid), np.flatnonzero(valid & wanted)
    means, neighbors = np.zeros(len(points), np.float32), np.zeros((len(points), NEIGHBORS), np.int32)
    if len(asked) == 0:
        return means, neighbors
    distances, order = KDTree(points[there]).query(points[asked], k=NEIGHBORS + 1)
    # The point itself is among them, unless that many lie in the same place: then any one may go.
    own = (order < len(there)) & (there[np.minimum(order, len(there) - 1)] == asked[:, None])
    own[~own.any(axis=1), -1] = True
    rest = ~own
    squared = (distances.astype(np.float64) ** 2)[rest].reshape(len(asked), NEIGHBORS)
    means[asked] = squared.mean(axis=1)  # infinite where there are too few
    found = order[rest].reshape(len(asked), NEIGHBORS)
    neighbors[asked] = np.where(found < len(there), there[np.minimum(found, len(there) - 1)], 0)
    return means, neighbors
