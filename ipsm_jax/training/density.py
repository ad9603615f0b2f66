"""Density control: which Gaussians are cloned, split, unpooled and pruned (METHOD section 3).

Every function is pure and of fixed shape. New Gaussians are written into dead slots, lowest first; when these run out
the most urgent requests win and `DensityInfo.refused` counts the rest, so that a host that can give more slots throws
the result away and asks again (`densify`). The result does not depend on how many slots are free beyond those needed.

Order: clone, split, unpool, prune. Split and unpool look for neighbors among what the operations before them left.
n is the capacity; extents are the scene's, in world units; iterations count from 1.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from ipsm_jax.config import DensityConfig
from ipsm_jax.scene.gaussians import Gaussians
from ipsm_jax.training.neighbors import NEIGHBORS, nearest_neighbors
from ipsm_jax.training.optimizer import clear_moments, clear_opacity_moments
from ipsm_jax.training.state import TrainState, grow, no_statistics

DENSITY_STREAM = 1
"""Folded into the state's key where new means are drawn; see `step.VIEW_STREAM`."""
SPLIT_SHRINK = 1.6
"""Scales of the two halves are the parent's divided by this."""


class DensityInfo(NamedTuple):
    """What one density control did, int32 counts.

    Attributes:
      cloned, split: Gaussians that were.
      unpooled: new Gaussians made halfway to neighbors.
      pruned: Gaussians removed, for their low opacity or because they hold a number that is not finite.
      refused: new Gaussians that found no free slot.
      alive: Gaussians afterwards.
    """

    cloned: Int[Array, ""]
    split: Int[Array, ""]
    unpooled: Int[Array, ""]
    pruned: Int[Array, ""]
    refused: Int[Array, ""]
    alive: Int[Array, ""]


class _Slots(NamedTuple):
    """Gaussians in the making: `fresh` marks those that must start with zero moments."""

    gaussians: Gaussians
    alive: Bool[Array, " n"]
    fresh: Bool[Array, " n"]


def _where(mask: Bool[Array, " n"], chosen: Gaussians, otherwise: Gaussians) -> Gaussians:
    """Per slot, all fields of one or the other."""
    return jax.tree.map(lambda a, b: jnp.where(jnp.expand_dims(mask, tuple(range(1, a.ndim))), a, b), chosen, otherwise)


def _grant(
    wants: Bool[Array, " n"], urgency: Float[Array, " n"], budget: Int[Array, ""]
) -> tuple[Bool[Array, " n"], Int[Array, ""]]:
    """Those of `wants` that get one of `budget` free slots, the most urgent if these are too few; number refused."""
    total = jnp.sum(wants)

    def most_urgent() -> Array:
        order = jnp.argsort(jnp.where(wants, -urgency, jnp.inf), stable=True)
        rank = jnp.zeros(wants.shape, jnp.int32).at[order].set(jnp.arange(wants.shape[0], dtype=jnp.int32))
        return wants & (rank < budget)

    granted = lax.cond(total <= budget, lambda: wants, most_urgent)
    return granted, jnp.maximum(total - budget, 0)


def _assign(granted: Bool[Array, " m"], alive: Bool[Array, " n"]) -> tuple[Bool[Array, " n"], Int[Array, " n"]]:
    """Hand free slots, the lowest first, to the granted requests in order; there must be enough of them.

    Returns:
      Which slots are taken, and by which request (0 where none).
    """
    m, n = granted.shape[0], alive.shape[0]
    free = jnp.nonzero(~alive, size=n, fill_value=n)[0]
    slot = jnp.where(granted, free[jnp.minimum(jnp.cumsum(granted) - 1, n - 1)], n)
    request = jnp.full(n, m, jnp.int32).at[slot].set(jnp.arange(m, dtype=jnp.int32), mode="drop")
    taken = request < m
    return taken, jnp.where(taken, request, 0)


def _rows(gaussians: Gaussians, index: Int[Array, " n"]) -> Gaussians:
    return jax.tree.map(lambda a: a[index], gaussians)


def _broken(gaussians: Gaussians) -> Bool[Array, " n"]:
    """Slots that hold NaN or infinity. Nothing draws them, no comparison prunes them and no reader takes them."""
    return ~jnp.stack([jnp.isfinite(a).all(axis=tuple(range(1, a.ndim))) for a in gaussians]).all(axis=0)


def _clone(slots: _Slots, parents: Bool[Array, " n"]) -> _Slots:
    """Copy each parent into a free slot."""
    taken, parent = _assign(parents, slots.alive)
    gaussians = _where(taken, _rows(slots.gaussians, parent), slots.gaussians)
    return _Slots(gaussians, slots.alive | taken, slots.fresh | taken)


def _rotate(quaternions: Float[Array, "n 4"], vectors: Float[Array, "n 2 3"]) -> Float[Array, "n 2 3"]:
    """Rotate two vectors per row by wxyz quaternions of any length: v + 2 u x (u x v + w v), with q = (w, u)."""
    unit = quaternions / jnp.maximum(jnp.linalg.norm(quaternions, axis=-1, keepdims=True), 1e-12)
    w, u = unit[:, None, :1], jnp.broadcast_to(unit[:, None, 1:], vectors.shape)
    return vectors + 2 * jnp.cross(u, jnp.cross(u, vectors) + w * vectors)


def _split(key: Key[Array, ""], slots: _Slots, parents: Bool[Array, " n"]) -> _Slots:
    """Replace each parent by two smaller Gaussians with means drawn from it."""
    gaussians = slots.gaussians
    # One draw per slot, whether it splits or not: what a Gaussian draws depends on its slot only.
    draws = jax.random.normal(key, (gaussians.capacity, 2, 3))
    steps = _rotate(gaussians.quaternions, draws * jnp.exp(gaussians.log_scales)[:, None, :])
    shrunk = gaussians._replace(log_scales=gaussians.log_scales - float(np.log(SPLIT_SHRINK)))
    first = shrunk._replace(means=gaussians.means + steps[:, 0])
    second = shrunk._replace(means=gaussians.means + steps[:, 1])
    taken, parent = _assign(parents, slots.alive)
    new = _where(taken, _rows(second, parent), _where(parents, first, gaussians))
    return _Slots(new, slots.alive | taken, slots.fresh | taken | parents)


def _unpool(
    slots: _Slots, parents: Bool[Array, " n"], distance: Float[Array, " n"], neighbors: Int[Array, "n 3"]
) -> tuple[_Slots, Int[Array, ""], Int[Array, ""]]:
    """New Gaussians halfway from each parent to its neighbors; how many were made and how many refused."""
    wants, urgency = jnp.repeat(parents, NEIGHBORS), jnp.repeat(distance, NEIGHBORS)
    granted, refused = _grant(wants, urgency, jnp.sum(~slots.alive))
    taken, request = _assign(granted, slots.alive)
    neighbor = neighbors.reshape(-1)[request]
    gaussians = slots.gaussians
    halfway = gaussians._replace(
        means=(gaussians.means[request // NEIGHBORS] + gaussians.means[neighbor]) / 2,
        log_scales=gaussians.log_scales[neighbor],
        quaternions=jnp.zeros_like(gaussians.quaternions).at[:, 0].set(1),
        opacity_logits=gaussians.opacity_logits[neighbor],
        sh_dc=jnp.zeros_like(gaussians.sh_dc),
        sh_rest=jnp.zeros_like(gaussians.sh_rest),
    )
    new = _Slots(_where(taken, halfway, gaussians), slots.alive | taken, slots.fresh | taken)
    return new, jnp.sum(granted), refused


def control_density(
    config: DensityConfig, extent: Float[Array, ""], state: TrainState
) -> tuple[TrainState, DensityInfo]:
    """Density control after iteration state.step, in the slots that there are.

    Args:
      config: static.
      extent: scene extent in world units.
      state: its statistics are used up.

    Returns:
      The state with new Gaussians, whose moments are zero (survivors keep theirs), and empty statistics; and counts.
      With `refused` > 0 the most urgent requests were granted: by statistic for clones and splits, by distance to the
      neighbors for unpooling.
    """
    key = jax.random.fold_in(jax.random.fold_in(state.key, DENSITY_STREAM), state.step)
    statistic = state.statistics.mean()
    original = state.gaussians
    size = jnp.exp(jnp.max(original.log_scales, axis=-1))
    slots = _Slots(original, state.alive, jnp.zeros_like(state.alive))

    # Clones and splits asked for by the gradient compete for the same slots.
    hot = state.alive & (statistic >= config.gradient_threshold)
    small = size <= config.clone_scale * extent
    granted, refused = _grant(hot, statistic, jnp.sum(~slots.alive))
    cloning, splitting = granted & small, granted & ~small
    slots = _clone(slots, cloning)

    # Splits of large Gaussians far from all others; those that split already are left out.
    large = state.alive & (size > extent) & ~hot
    distance, _ = nearest_neighbors(slots.gaussians.means, slots.alive, large)
    lonely = large & jnp.isfinite(distance) & (distance > config.split_distance * extent)
    lonely, lonely_refused = _grant(lonely, statistic, jnp.sum(~slots.alive) - jnp.sum(splitting))
    splitting = splitting | lonely
    slots = _split(key, slots, splitting)

    large = slots.alive & (jnp.exp(jnp.max(slots.gaussians.log_scales, axis=-1)) > extent)
    large &= state.step < config.unpool_until
    distance, neighbors = nearest_neighbors(slots.gaussians.means, slots.alive, large)
    isolated = large & jnp.isfinite(distance) & (distance > config.unpool_distance * extent)
    slots, unpooled, unpool_refused = _unpool(slots, isolated, distance, neighbors)

    prune_now = (state.step >= config.prune_from) & (state.step % config.prune_interval == 0)
    faint = slots.alive & (jax.nn.sigmoid(slots.gaussians.opacity_logits) < config.prune_opacity) & prune_now
    removed = faint | (slots.alive & _broken(slots.gaussians))  # broken ones at any time
    alive = slots.alive & ~removed

    new_state = state._replace(
        gaussians=slots.gaussians,
        alive=alive,
        moments=clear_moments(state.moments, slots.fresh | ~alive),
        statistics=no_statistics(original.capacity),
    )
    counts = (jnp.sum(cloning), jnp.sum(splitting), unpooled, jnp.sum(removed))
    info = DensityInfo(*counts, refused + lonely_refused + unpool_refused, jnp.sum(alive))
    return new_state, jax.tree.map(lambda a: a.astype(jnp.int32), info)


def densify(config: DensityConfig, extent: Float[Array, ""], state: TrainState) -> tuple[TrainState, DensityInfo]:
    """Density control on the host: doubles the capacity, up to `config.max_gaussians` if that is not None.

    The capacity being part of the compiled programs' shapes, each doubling means compiling them once more.
    """
    new_state, info = _control_density(config, extent, state)
    limit = sys.maxsize if config.max_gaussians is None else config.max_gaussians
    while int(info.refused) > 0 and state.gaussians.capacity < limit:
        capacity = state.gaussians.capacity
        needed = capacity + int(info.refused)
        while capacity < needed:
            capacity *= 2
        state = grow(state, min(capacity, limit))
        new_state, info = _control_density(config, extent, state)
    return new_state, info


_control_density = jax.jit(control_density, static_argnums=0)


def is_due(config: DensityConfig, iteration: int, iterations: int) -> bool:
    """Whether density control follows this iteration: not the last one, whose new Gaussians nothing would train."""
    until = iterations - 1 if config.density_until is None else min(config.density_until, iterations - 1)
    return config.density_from <= iteration <= until and iteration % config.density_interval == 0


def reset_is_due(config: DensityConfig, iteration: int) -> bool:
    """Whether an opacity reset follows this iteration."""
    first, interval = config.opacity_reset_at, config.opacity_reset_interval
    if first == 0 or iteration < first:
        return False
    return iteration == first or (interval > 0 and (iteration - first) % interval == 0)


def reset_opacity(value: float, state: TrainState) -> TrainState:
    """Lower all opacities to at most `value`, in (0, 1), and zero their moments."""
    logits = jnp.minimum(state.gaussians.opacity_logits, float(np.log(value / (1 - value))))
    return state._replace(
        gaussians=state.gaussians._replace(opacity_logits=logits), moments=clear_opacity_moments(state.moments)
    )
