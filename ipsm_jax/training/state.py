"""All that changes during training, in one pytree.

A checkpoint is a `TrainState` and nothing else, so stopping and resuming gives bit for bit what an uninterrupted run
gives. What depends on the iteration (learning rate, SH degree, which view is next) is computed from `step` and `key`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from ipsm_jax.scene.gaussians import Gaussians, with_capacity
from ipsm_jax.training.optimizer import adam


class DensityStatistics(NamedTuple):
    """What density control goes by, gathered since it last ran (METHOD section 3).

    Attributes:
      gradient_sum: (n,) sum of the norms of dL/d(mean2d), in normalized device coordinates.
      visible_count: (n,) number of iterations in which the Gaussian had radius > 0.
    """

    gradient_sum: Float[Array, " n"]
    visible_count: Int[Array, " n"]

    def mean(self) -> Float[Array, " n"]:
        """(n,) mean gradient norm over the iterations in which a Gaussian was visible, 0 where it never was."""
        return self.gradient_sum / jnp.maximum(self.visible_count, 1).astype(self.gradient_sum.dtype)


class TrainState(NamedTuple):
    """A training run after `step` finished iterations.

    Attributes:
      gaussians: n slots.
      alive: (n,) which of them are in use.
      moments: Adam's moments and step count; zero in dead slots.
      statistics: what density control goes by.
      step: int32, number of finished iterations; the iteration that follows is step + 1.
      key: key that every random number of the run is derived from, by folding in its use and the iteration; constant.
    """

    gaussians: Gaussians
    alive: Bool[Array, " n"]
    moments: optax.ScaleByAdamState
    statistics: DensityStatistics
    step: Int[Array, ""]
    key: Key[Array, ""]


def no_statistics(capacity: int) -> DensityStatistics:
    """Statistics of `capacity` slots in which nothing was seen yet."""
    return DensityStatistics(jnp.zeros(capacity), jnp.zeros(capacity, jnp.int32))


def init_state(key: Key[Array, ""], gaussians: Gaussians, alive: Bool[Array, " n"]) -> TrainState:
    """State before the first iteration."""
    return TrainState(
        gaussians, alive, adam().init(gaussians), no_statistics(gaussians.capacity), jnp.zeros((), jnp.int32), key
    )


def grow(state: TrainState, capacity: int) -> TrainState:
    """The same state in a larger number of slots; the new ones are dead, with zero moments and statistics.

    Raises:
      ValueError: if `capacity` is smaller than the present one.
    """
    extra = capacity - state.gaussians.capacity
    gaussians, alive = with_capacity(state.gaussians, state.alive, capacity)

    def pad(a: Array) -> Array:
        return jnp.pad(a, [(0, extra)] + [(0, 0)] * (a.ndim - 1))

    moments = state.moments._replace(mu=jax.tree.map(pad, state.moments.mu), nu=jax.tree.map(pad, state.moments.nu))
    return state._replace(
        gaussians=gaussians, alive=alive, moments=moments, statistics=jax.tree.map(pad, state.statistics)
    )
