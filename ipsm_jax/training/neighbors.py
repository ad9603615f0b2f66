"""Exact nearest neighbors of a few points among many, inside a compiled program."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

NEIGHBORS = 3
_CHUNK = 32


def nearest_neighbors(
    points: Float[Array, "n 3"], valid: Bool[Array, " n"], wanted: Bool[Array, " n"]
) -> tuple[Float[Array, " n"], Int[Array, "n 3"]]:
    """The 3 nearest other valid points of each wanted point, by comparing with all of them.

    A loop takes the wanted points in chunks of 32, so the cost is proportional to their number and the memory to 32 n.

    Args:
      points: positions; those of slots that are not valid are not looked at.
      valid: which points exist.
      wanted: which points' neighbors to find; few, as a rule.

    Returns:
      (n,) mean of the SQUARED distances to the 3 neighbors, 0 where not wanted, infinite where there are fewer than 3
      other valid points; (n, 3) indices of the neighbors by ascending distance, ties by index, 0 where not wanted.
    """
    n = points.shape[0]
    columns = points.T
    indices = jnp.arange(n, dtype=jnp.int32)
    queue = jnp.nonzero(wanted, size=n, fill_value=n)[0].astype(jnp.int32)
    queue = jnp.concatenate([queue, jnp.full(_CHUNK, n, jnp.int32)])
    count = jnp.sum(wanted)

    def body(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start, means, neighbors = carry
        chunk = lax.dynamic_slice_in_dim(queue, start, _CHUNK)
        queries = points[jnp.minimum(chunk, n - 1)]
        squared = sum(jnp.square(queries[:, axis, None] - columns[None, axis]) for axis in range(3))
        squared = jnp.where(valid[None, :] & (chunk[:, None] != indices[None, :]), squared, jnp.inf)
        total = jnp.zeros(_CHUNK)
        for k in range(NEIGHBORS):
            # Two plain reductions: min and then the first index that has it. XLA vectorizes them, but not argmin.
            nearest = jnp.min(squared, axis=1)
            index = jnp.min(jnp.where(squared == nearest[:, None], indices[None, :], n), axis=1)
            total = total + nearest
            neighbors = neighbors.at[chunk, k].set(index, mode="drop")
            squared = jnp.where(index[:, None] == indices[None, :], jnp.inf, squared)
        return start + _CHUNK, means.at[chunk].set(total / NEIGHBORS, mode="drop"), neighbors

    start = (jnp.zeros_like(count), jnp.zeros(n), jnp.zeros((n, NEIGHBORS), jnp.int32))
    _, means, neighbors = lax.while_loop(lambda carry: carry[0] < count, body, start)
    return means, neighbors
