"""Depth regularization by correlation with a monocular depth network (METHOD section 4).

Rendered depth D is (H, W), alpha-blended camera z in world units; the network's map m is (H, W) inverse depth up to an
unknown scale and offset. Pearson's correlation ignores both, and that is why it is used: only the shape counts.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ipsm_jax.losses.schedule import GuidanceSchedule

INVERSE_OFFSET = 200.0
"""Added to the network's map before it is inverted, so that no pixel dominates."""
_CONSTANT = 1e-6
"""An image whose standard deviation is below this share of its largest value is constant but for rounding."""


@dataclasses.dataclass(frozen=True)
class DepthOptions:
    """Weights of the depth terms.

    Attributes:
      seen_weight: of the training view, at first.
      seen_late_weight: of the training view, late.
      seen_late_after: last iteration with the first weight.
      pseudo_weight: of the pseudo view, before the ramp.
      maps: what the maps of the training views hold: a network's "inverse" depth, measured "depth" (camera z) of any
        scale, or "metric" depth in the scene's unit.
    """

    seen_weight: float = 0.05
    seen_late_weight: float = 0.001
    seen_late_after: int = 9500
    pseudo_weight: float = 0.5
    maps: Literal["inverse", "depth", "metric"] = "inverse"

    def weight_of_seen(self, iteration: int | Int[Array, ""]) -> Float[Array, ""]:
        """Weight of the training view's term in an iteration, counted from 1."""
        late = jnp.asarray(iteration) > self.seen_late_after
        return jnp.where(late, jnp.float32(self.seen_late_weight), jnp.float32(self.seen_weight))

    def weight_of_pseudo(self, iteration: int | Int[Array, ""], schedule: GuidanceSchedule) -> Float[Array, ""]:
        """Weight of the pseudo view's term with its ramp; 0 when not scheduled."""
        return jnp.where(schedule.active(iteration), self.pseudo_weight * schedule.ramped(iteration), 0.0)


def pearson(
    x: Float[Array, "*s"], y: Float[Array, "*s"], known: Bool[Array, "*s"] | None = None
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Pearson's correlation over all entries, or those that are known, and whether there is one.

    There is none, the value is 0 and so is its gradient, if one of these entries is not finite or one of the two is
    constant (as it is where nothing is known).
    """
    x, y = x.ravel(), y.ravel()
    counted = jnp.ones(x.shape, bool) if known is None else known.ravel()
    finite = jnp.all(jnp.isfinite(x) & jnp.isfinite(y) | ~counted)
    # Undefined cases are replaced before the arithmetic: a NaN met on the way would come back in the gradient.
    x, y = (_centered(jnp.where(finite & counted, a, 0.0), counted) for a in (x, y))
    x_square, y_square = _mean(x * x, counted), _mean(y * y, counted)
    defined = (x_square > _CONSTANT**2) & (y_square > _CONSTANT**2)
    product = jnp.where(defined, x_square, 1.0) * jnp.where(defined, y_square, 1.0)
    return jnp.where(defined, _mean(x * y, counted) / jnp.sqrt(product), 0.0), defined


def _mean(x: Float[Array, " n"], counted: Bool[Array, " n"]) -> Float[Array, ""]:
    return jnp.sum(jnp.where(counted, x, 0.0)) / jnp.maximum(jnp.sum(counted), 1)


def _centered(x: Float[Array, " n"], counted: Bool[Array, " n"]) -> Float[Array, " n"]:
    """The counted entries less their mean, in units of the largest absolute value; 0 for the others.

    Twice, because the float32 mean of many large values is off by more than small ones are apart. Correlation does not
    change with the unit, so no gradient is lost by holding it fixed.
    """
    largest = lax.stop_gradient(jnp.max(jnp.abs(x)))
    x = x / jnp.where(largest > 0, largest, 1.0)
    x = x - _mean(x, counted)
    return jnp.where(counted, x - _mean(x, counted), 0.0)


def seen_depth_loss(
    depth: Float[Array, "h w"], network: Float[Array, "h w"], known: Bool[Array, "h w"] | None = None
) -> Float[Array, ""]:
    """min(1 - Corr(-m, D), 1 - Corr(1 / (m + 200), D)) for a training view, unweighted; over the known pixels.

    A correlation that is not defined does not take part; 0 if neither is.
    """
    inverse, inverse_defined = pearson(-network, depth, known)
    # Where there is no inverse, a constant stands in for it: not defined, and no NaN in the gradient.
    shifted = network + INVERSE_OFFSET
    usable = jnp.isfinite(shifted) & (shifted != 0)
    invertible = jnp.all(usable if known is None else usable | ~known)
    direct, direct_defined = pearson(1.0 / jnp.where(invertible & usable, shifted, 1.0), depth, known)
    best = jnp.maximum(jnp.where(inverse_defined, inverse, -1.0), jnp.where(direct_defined, direct, -1.0))
    return jnp.where(inverse_defined | direct_defined, 1.0 - best, 0.0)


def measured_depth_loss(
    depth: Float[Array, "h w"], measured: Float[Array, "h w"], known: Bool[Array, "h w"] | None = None
) -> Float[Array, ""]:
    """1 - Corr(D, z) for a training view whose camera z was measured, over the known pixels; unweighted.

    0 with zero gradient where there is no correlation.
    """
    correlation, defined = pearson(depth, measured, known)
    return jnp.where(defined, 1.0 - correlation, 0.0)


def metric_depth_loss(
    depth: Float[Array, "h w"],
    alpha: Float[Array, "h w"],
    measured: Float[Array, "h w"],
    known: Bool[Array, "h w"],
) -> Float[Array, ""]:
    """Mean over the known pixels of |D - alpha z| / z for a training view whose camera z was measured; unweighted.

    D is not divided by alpha: where little is covered, little is asked of the depth. 0 if nothing is known.
    """
    difference = jnp.where(known, depth - alpha * measured, 0.0) / jnp.where(known, measured, 1.0)
    return jnp.sum(jnp.abs(difference)) / jnp.maximum(jnp.sum(known), 1)


def pseudo_depth_loss(depth: Float[Array, "h w"], network: Float[Array, "h w"]) -> Float[Array, ""]:
    """1 - Corr(D, -m(x)) for a pseudo view, unweighted; 0 with zero gradient where that is not defined.

    `network` is the network's map of the *rendered* image: differentiable in both arguments, so that the gradient
    reaches the image through the network too.
    """
    correlation, defined = pearson(depth, -network)
    return jnp.where(defined, 1.0 - correlation, 0.0)
