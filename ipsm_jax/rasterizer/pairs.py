"""Room for the (Gaussian, tile) pairs of an image, whose number is known only after projecting.

The lists of pairs have a fixed size in a compiled program. On a CPU a frame that needs more is sorted once more in the
backward pass, with the same result. On a GPU, where nothing waits for the number, such a frame is NaN all over and
`Rendering.pair_count` tells what it takes: whoever can look at that number calls again with more room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Bool

from ipsm_jax.rasterizer.native import default_pair_capacity
from ipsm_jax.rasterizer.render import render
from ipsm_jax.rasterizer.rendering import Rendering
from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.gaussians import Gaussians

T = TypeVar("T")


def overflow_spoils() -> bool:
    """Whether a frame with more pairs than room is lost on the device that JAX uses by default."""
    return jax.default_backend() != "cpu"


def fit_pairs(
    call: Callable[[int], T], needed: Callable[[T], Array], capacity: int, overflow: bool | None = None
) -> tuple[T, int]:
    """Call with room for `capacity` pairs, and again with more until all fit.

    Args:
      call: takes the room, returns a result. Called again it must do the same: its inputs must not be given up.
      needed: the numbers of pairs that a result took (`Rendering.pair_count`), of any shape.
      capacity: room to begin with.
      overflow: whether too little room spoils the result; None asks the device. Without, there is one call and no
        waiting for its result.

    Returns:
      The result, and the room that was enough: a quarter more than needed, rounded up to a few distinct sizes, because
      each size is compiled anew.
    """
    while True:
        result = call(capacity)
        if not (overflow_spoils() if overflow is None else overflow):
            return result, capacity
        most = int(np.max(np.asarray(needed(result)), initial=0))
        if most <= capacity:
            return result, capacity
        step = 1 << max(most.bit_length() - 3, 0)  # eighths of a power of two
        capacity = -(-(most + most // 4) // step) * step


def compiled_renderer(**options: Any) -> Callable[[Gaussians, Camera, Bool[Array, " n"]], Rendering]:
    """`render` with these options, compiled, that makes as much room as an image takes.

    For drawing alone, outside of other compiled programs; it waits for the image where room can be short.
    """
    draw = jax.jit(
        lambda gaussians, camera, alive, pair_capacity: render(
            gaussians, camera, alive=alive, pair_capacity=pair_capacity, **options
        ),
        static_argnums=3,
    )
    enough = 0

    def call(gaussians: Gaussians, camera: Camera, alive: Bool[Array, " n"]) -> Rendering:
        nonlocal enough
        room = max(enough, default_pair_capacity(gaussians.capacity))
        result, enough = fit_pairs(lambda c: draw(gaussians, camera, alive, c), lambda r: r.pair_count, room)
        return result

    return call
