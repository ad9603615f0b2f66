"""Exact nearest neighbors of some points among many, inside a compiled program.

The search is scipy's k-d tree on the host, called back from the program: density control asks once in a hundred
iterations, for anything between none and all of a hundred thousand points, and comparing all with all would take
minutes for the latter.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.spatial import cKDTree

NEIGHBORS = 3


def nearest_neighbors(
    points: Float[Array, "n 3"], valid: Bool[Array, " n"], wanted: Bool[Array, " n"]
) -> tuple[Float[Array, " n"], Int[Array, "n 3"]]:
    """The 3 nearest other valid points of each wanted point.

    Works under jit and vmap (a batch is searched one after the other); not differentiable.

    Args:
      points: finite positions; those of slots that are not valid are not looked at.
      valid: which points exist.
      wanted: which points' neighbors to find; those that are not valid are not looked for.

    Returns:
      (n,) mean of the SQUARED distances to the 3 neighbors, 0 where not wanted, infinite where there are fewer than 3
      other valid points; (n, 3) indices of the neighbors by ascending distance, 0 where not wanted.
    """
    n = points.shape[0]
    shapes = (jax.ShapeDtypeStruct((n,), jnp.float32), jax.ShapeDtypeStruct((n, NEIGHBORS), jnp.int32))
    return jax.pure_callback(_search, shapes, points, valid, wanted, vmap_method="sequential")


def _search(points: np.ndarray, valid: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    points, valid, wanted = np.asarray(points, np.float64), np.asarray(valid), np.asarray(wanted) & np.asarray(valid)
    means = np.zeros(len(points), np.float32)
    neighbors = np.zeros((len(points), NEIGHBORS), np.int32)
    slots, asking = np.flatnonzero(valid), np.flatnonzero(wanted)
    if len(asking) == 0:
        return means, neighbors
    if len(slots) <= NEIGHBORS:
        means[asking] = np.inf
        return means, neighbors
    distances, found = cKDTree(points[slots]).query(points[asking], k=NEIGHBORS + 1, workers=-1)
    # One of the four is the point itself, not always the first: others may lie at the same place. Where more than four
    # do, it may be missing, and then the last is left out.
    is_self = slots[found] == asking[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    others = ~is_self
    means[asking] = np.mean(distances[others].reshape(-1, NEIGHBORS) ** 2, axis=1)
    neighbors[asking] = slots[found][others].reshape(-1, NEIGHBORS)
    return means, neighbors
