"""Exact nearest neighbors of some points among many, inside a compiled program.

Density control asks once in a hundred iterations, for anything between none and all of a hundred thousand points:
comparing all with all would take minutes for the latter, hence a k-d tree in native code. A callback to Python is no
way to one: with one core, XLA's only thread waits for the callback and the callback for that thread.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

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
    n = points.shape[0]
    shapes = (jax.ShapeDtypeStruct((n,), jnp.float32), jax.ShapeDtypeStruct((n, NEIGHBORS), jnp.int32))
    means, neighbors = jax.ffi.ffi_call(TARGET, shapes, vmap_method="expand_dims")(points, valid, wanted)
    return means, neighbors
