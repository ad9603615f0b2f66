"""When the losses on pseudo views act, and how strongly (METHOD sections 4, 5 and 7)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class GuidanceSchedule:
    """Iterations, counted from 1, in which a pseudo view is rendered: start < iteration < stop.

    Attributes:
      start: last iteration without.
      stop: first iteration without again.
      ramp: number of iterations over which ramped weights grow from 0 to 1.
    """

    start: int = 2000
    stop: int = 9500
    ramp: int = 500

    def __post_init__(self) -> None:
        if not (self.start >= 0 and self.ramp >= 1):
            raise ValueError(f"a schedule needs start >= 0 and ramp >= 1, got {self.start} and {self.ramp}")

    def active(self, iteration: int | Int[Array, ""]) -> Bool[Array, ""]:
        """Whether there is a pseudo view in this iteration."""
        iteration = jnp.asarray(iteration)
        return (iteration > self.start) & (iteration < self.stop)

    def ramped(self, iteration: int | Int[Array, ""]) -> Float[Array, ""]:
        """min((iteration - start) / ramp, 1), at least 0."""
        return jnp.clip((jnp.asarray(iteration) - self.start) / self.ramp, 0.0, 1.0)
