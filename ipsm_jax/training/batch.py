"""Several runs at once: their iterations in one program, `vmap` over the states.

Runs of a batch have the same settings, but for the seed, and pictures of the same size. They may be of one scene or of
several, and may differ in any array of their views and regularization; what they share is there once. The iteration is
shared too, so that what is due in it is a condition and not a choice between both branches.

Density control and resets of the opacities are part of the program. Those that are due after the last iteration of a
call are left to `follow_batch`: before them a state is as training left it, which is how it is to be looked at, and
after them it is what a single run saves and goes on from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ipsm_jax.config import DensityConfig, OptimizationConfig, TrainConfig
from ipsm_jax.training.density import DensityInfo, control_density, is_due, reset_is_due, reset_opacity
from ipsm_jax.training.regularization import Regularization
from ipsm_jax.training.state import TrainState, grow
from ipsm_jax.training.step import StepInfo, TrainingViews, train_step

SHARED_STEP = TrainState(0, 0, 0, 0, None, 0)  # type: ignore[arg-type]
"""Axes of a batch of states, for `vmap`: all but the iteration has a leading one."""


class Events(NamedTuple):
    """What follows each iteration; index i stands for the i-th, counted from 1. Without the axis: what follows one.

    Attributes:
      density: density control.
      reset: a reset of the opacities.
    """

    density: Bool[Array, " n"] | Bool[np.ndarray, " n"]
    reset: Bool[Array, " n"] | Bool[np.ndarray, " n"]


class Given(NamedTuple):
    """What runs are trained on: of one run, or of a batch."""

    views: TrainingViews
    regularization: Regularization | None


class Batch(NamedTuple):
    """What the runs of a batch are trained on.

    Attributes:
      given: arrays that differ between the runs have a leading axis.
      mapped: for each array of `given`, in the order of its leaves, whether it has that axis; hashable.
    """

    given: Given
    mapped: tuple[bool, ...]

    def axes(self) -> Given:
        """For `vmap`."""
        return jax.tree.unflatten(jax.tree.structure(self.given), [0 if m else None for m in self.mapped])


class BatchInfo(NamedTuple):
    """What several iterations of B runs had to do.

    Attributes:
      loss: (B,) mean of all that was minimized.
      psnr: (B,) mean PSNR of the training views, in dB.
      terms: (B,) means of the weighted parts of the loss, by name.
      pairs: (B,) the most (Gaussian, tile) pairs that a rendering took.
      density: (B,) sums of the counts of density control; `alive` is how many there are at the end.
    """

    loss: Float[Array, " b"]
    psnr: Float[Array, " b"]
    terms: dict[str, Float[Array, " b"]]
    pairs: Int[Array, " b"]
    density: DensityInfo


def add_counts(first: DensityInfo, second: DensityInfo) -> DensityInfo:
    """Those of one density control after another."""
    return jax.tree.map(jnp.add, first, second)._replace(alive=second.alive)


def shared(given: Given) -> Batch:
    """A batch of runs that are trained on the same and differ in their states alone."""
    return Batch(given, (False,) * len(jax.tree.leaves(given)))


def stack_given(runs: Sequence[Given]) -> Batch:
    """A batch of runs that are trained on different things; arrays that are the same object in all stay single.

    Raises:
      ValueError: none, or things that differ in more than the content of arrays: sizes, options, kinds of pseudo views.
    """
    structures = {jax.tree.structure(given) for given in runs}
    shapes = {tuple((a.shape, a.dtype) for a in map(jnp.asarray, jax.tree.leaves(given))) for given in runs}
    if len(structures) != 1 or len(shapes) != 1:
        raise ValueError("runs of a batch need the same options, number of views and sizes of pictures")
    columns = list(zip(*(jax.tree.leaves(given) for given in runs), strict=True))
    mapped = tuple(any(a is not column[0] for a in column) for column in columns)
    leaves = [jnp.stack(column) if m else column[0] for column, m in zip(columns, mapped, strict=True)]
    return Batch(jax.tree.unflatten(structures.pop(), leaves), mapped)


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
    batch: Batch,
    states: TrainState,
    count: int | Int[Array, ""],
    pair_capacity: int | None = None,
) -> tuple[TrainState, BatchInfo]:
    """`count` iterations of all runs, each but the last followed by what is due.

    Args:
      optimization, density: static.
      events: of the whole training; arrays.
      batch: what the runs are trained on; its `mapped` is static.
      states: a batch, see `stack_states`.
      count: at least 1; traced.
      pair_capacity: static, see `rasterizer.render`.
    """

    def one(state: TrainState, given: Given) -> tuple[TrainState, BatchInfo]:
        def body(i: Array, carry: tuple[TrainState, StepInfo, DensityInfo]) -> tuple[TrainState, StepInfo, DensityInfo]:
            state, sums, counts = carry
            state, info = train_step(optimization, given.views, state, given.regularization, pair_capacity)
            sums = jax.tree.map(jnp.add, sums, info)._replace(pairs=jnp.maximum(sums.pairs, info.pairs))
            due = Events(*(jnp.asarray(flags)[state.step] & (i < count - 1) for flags in events))
            state, more = _follow(density, due, given.views.extent, state)
            return state, sums, add_counts(counts, more)

        names = ("photometric", *(() if given.regularization is None else given.regularization.terms))
        nothing = jnp.zeros((), jnp.int32)
        zero = StepInfo(jnp.zeros(()), jnp.zeros(()), nothing, {name: jnp.zeros(()) for name in names})
        state, sums, counts = lax.fori_loop(0, count, body, (state, zero, _no_counts(state)))
        loss, psnr, terms = jax.tree.map(lambda a: a / count, (sums.loss, sums.psnr, sums.terms))
        return state, BatchInfo(loss, psnr, terms, sums.pairs, counts)

    return jax.vmap(one, in_axes=(SHARED_STEP, batch.axes()), out_axes=(SHARED_STEP, 0))(states, batch.given)


def follow_batch(
    density: DensityConfig, events: Events, batch: Batch, states: TrainState
) -> tuple[TrainState, DensityInfo]:
    """What is due after the iteration that the states are at; also the (B,) counts of density control."""
    due = Events(*(jnp.asarray(flags)[states.step] for flags in events))

    def one(state: TrainState, given: Given) -> tuple[TrainState, DensityInfo]:
        return _follow(density, due, given.views.extent, state)

    return jax.vmap(one, in_axes=(SHARED_STEP, batch.axes()), out_axes=(SHARED_STEP, 0))(states, batch.given)


def _follow(
    density: DensityConfig, due: Events, extent: Float[Array, ""], state: TrainState
) -> tuple[TrainState, DensityInfo]:
    control = partial(control_density, density, extent)
    state, counts = lax.cond(due.density, control, lambda s: (s, _no_counts(s)), state)
    reset = partial(reset_opacity, density.opacity_reset_value)
    return lax.cond(due.reset, reset, lambda s: s, state), counts


def _no_counts(state: TrainState) -> DensityInfo:
    """Where no density control was due."""
    nothing = jnp.zeros((), jnp.int32)
    return DensityInfo(nothing, nothing, nothing, nothing, nothing, jnp.sum(state.alive, dtype=jnp.int32))
