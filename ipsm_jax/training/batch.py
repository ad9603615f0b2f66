"""Several runs of one scene at once: their iterations in one program, `vmap` over the states.

What differs between the runs is in their states (the key, hence all that is random; starting points; slots in use) and,
where a term's weight is to be compared, in `Regularization.distillation_weights`. Scene, settings and the iteration are
shared, so that what is due in an iteration is a condition and not a choice between both branches.

Density control and opacity resets are part of the program. They come before the iteration that they are due before, not
after the one that they follow: between two calls a state is as the last iteration left it, which is how it is to be
looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ipsm_jax.config import DensityConfig, OptimizationConfig, TrainConfig
from ipsm_jax.rasterizer.native import default_pair_capacity
from ipsm_jax.rasterizer.pairs import fit_pairs
from ipsm_jax.training.density import control_density, is_due, reset_is_due, reset_opacity
from ipsm_jax.training.regularization import Regularization, axes_of_weights
from ipsm_jax.training.state import TrainState, grow
from ipsm_jax.training.step import StepInfo, TrainingViews, train_step

SHARED_STEP = TrainState(0, 0, 0, 0, None, 0)  # type: ignore[arg-type]
"""Axes of a batch of states, for `vmap`: all but the iteration has a leading one."""


class Events(NamedTuple):
    """What is due before each iteration; index i stands for what follows the i-th, hence comes before number i + 1.

    Attributes:
      density: density control.
      reset: a reset of the opacities.
    """

    density: Bool[np.ndarray, " n"]
    reset: Bool[np.ndarray, " n"]


class BatchInfo(NamedTuple):
    """What several iterations of B runs had to do.

    Attributes:
      loss: (B,) mean of all that was minimized.
      psnr: (B,) mean PSNR of the training views, in dB.
      gaussians: (B,) in use at the end.
      refused: (B,) new Gaussians that density control found no slot for.
    """

    loss: Float[Array, " b"]
    psnr: Float[Array, " b"]
    gaussians: Int[Array, " b"]
    refused: Int[Array, " b"]


def stack_states(states: Sequence[TrainState]) -> TrainState:
    """One batch of states that are at the same iteration; all have as many slots as the largest then.

    Raises:
      ValueError: none, or states at different iterations.
    """
    steps = {int(state.step) for state in states}
    if len(steps) != 1:
        raise ValueError(f"a batch is of states at one iteration, got {sorted(steps) or 'no states'}")
    capacity = max(state.gaussians.capacity for state in states)
    same = [grow(state, capacity)._replace(step=jnp.zeros((), jnp.int32)) for state in states]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *same)
    return stacked._replace(step=states[0].step)


def state_of(states: TrainState, run: int) -> TrainState:
    """The state of one run of a batch."""
    step = states.step
    return jax.tree.map(lambda a: step if a is step else a[run], states)


def events_of(config: TrainConfig) -> Events:
    """What the settings let follow each iteration from 0 to the last."""
    last = config.optimization.iterations
    density = [is_due(config.density, i, last) for i in range(last + 1)]
    return Events(np.array(density), np.array([i > 0 and reset_is_due(config.density, i) for i in range(last + 1)]))


def run_batch(
    optimization: OptimizationConfig,
    density: DensityConfig,
    events: Events,
    views: TrainingViews,
    states: TrainState,
    count: int | Int[Array, ""],
    regularization: Regularization | None = None,
    pair_capacity: int | None = None,
) -> tuple[TrainState, BatchInfo, Int[Array, " b"]]:
    """`count` iterations of all runs, each preceded by what is due; also the most pairs that each took.

    Args:
      optimization, density: static.
      events: of the whole training; arrays.
      views: shared by all runs.
      states: a batch, see `stack_states`.
      count: traced.
      regularization: shared, but for `distillation_weights`, which may have a leading axis B.
      pair_capacity: static, see `rasterizer.render`.
    """
    weighted = regularization is not None and getattr(regularization.distillation_weights, "ndim", 0) == 2
    axes = None if regularization is None or not weighted else axes_of_weights(regularization)

    def one(state: TrainState, regularization: Regularization | None) -> tuple[TrainState, BatchInfo, Array]:
        def body(_: Array, carry: tuple[TrainState, StepInfo, Array]) -> tuple[TrainState, StepInfo, Array]:
            state, sums, refused = carry
            state, more = _precede(density, events, views, state)
            state, info = train_step(optimization, views, state, regularization, pair_capacity)
            pairs = jnp.maximum(sums.pairs, info.pairs)
            return state, jax.tree.map(jnp.add, sums, info)._replace(pairs=pairs), refused + more

        names = ("photometric", *(() if regularization is None else regularization.terms))
        nothing = jnp.zeros((), jnp.int32)
        zero = StepInfo(jnp.zeros(()), jnp.zeros(()), nothing, {name: jnp.zeros(()) for name in names})
        state, sums, refused = lax.fori_loop(0, count, body, (state, zero, nothing))
        info = BatchInfo(sums.loss / count, sums.psnr / count, jnp.sum(state.alive), refused)
        return state, info, sums.pairs

    return jax.vmap(one, in_axes=(SHARED_STEP, axes), out_axes=(SHARED_STEP, 0, 0))(states, regularization)


def _precede(
    density: DensityConfig, events: Events, views: TrainingViews, state: TrainState
) -> tuple[TrainState, Int[Array, ""]]:
    """Density control and reset, if they follow iteration state.step; how many new Gaussians were refused."""

    def control(state: TrainState) -> tuple[TrainState, Array]:
        state, info = control_density(density, views.extent, state)
        return state, info.refused

    state, refused = lax.cond(
        jnp.asarray(events.density)[state.step], control, lambda s: (s, jnp.zeros((), jnp.int32)), state
    )
    reset = partial(reset_opacity, density.opacity_reset_value)
    return lax.cond(jnp.asarray(events.reset)[state.step], reset, lambda s: s, state), refused


_run_batch = jax.jit(run_batch, static_argnums=(0, 1, 7))


def _run(
    config: TrainConfig,
    events: Events,
    views: TrainingViews,
    states: TrainState,
    count: int,
    regularization: Regularization | None,
    pair_capacity: int,
) -> tuple[TrainState, BatchInfo, Array]:
    return _run_batch(config.optimization, config.density, events, views, states, count, regularization, pair_capacity)


_grow = jax.jit(
    lambda states, capacity: jax.vmap(partial(grow, capacity=capacity), (SHARED_STEP,), SHARED_STEP)(states),
    static_argnums=1,
)


def train_batch(
    config: TrainConfig,
    views: TrainingViews,
    states: TrainState,
    every: int,
    observe: Callable[[TrainState, BatchInfo], None],
    regularization: Regularization | None = None,
) -> TrainState:
    """Train a batch to the last iteration of the settings.

    When density control of any run needs more slots than there are, the iterations since the last look are done again
    with more for all, up to `config.density.max_gaussians`.

    Args:
      config: `seed` is not looked at, the states have their own keys.
      every: iterations between looks; a call of the program takes as long.
      observe: is shown the batch after each `every` iterations and at the end.

    Raises:
      ValueError: `every` is not positive.
      FloatingPointError: a loss is not a number; says of which run.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    last, limit = config.optimization.iterations, config.density.max_gaussians
    events, room = events_of(config), 0
    while (done := int(states.step)) < last:
        count = min(every - done % every, last - done)
        while True:
            (new, info, _), room = fit_pairs(
                partial(_run, config, events, views, states, count, regularization),
                lambda result: result[2],
                max(room, default_pair_capacity(states.gaussians.means.shape[1])),
            )
            capacity, refused = states.gaussians.means.shape[1], int(info.refused.max())
            if refused == 0 or (limit is not None and capacity >= limit):
                break
            larger = 2 * capacity
            while larger < capacity + refused:
                larger *= 2
            states = _grow(states, larger if limit is None else min(larger, limit))
        states = new
        if broken := np.flatnonzero(~np.isfinite(np.asarray(info.loss))).tolist():
            raise FloatingPointError(
                f"the loss of run(s) {broken} of the batch is not a number between iterations {done + 1} and "
                f"{done + count}; lower learning rates or weights may help"
            )
        observe(states, info)
    return states
