"""The training loop of a batch, on the host: as `loop` for a single run, with all runs in each call of the program.

The runs are divided among the devices of this process, each of which does with its share what a single one would do
with all: nothing has to be exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Int

from ipsm_jax.config import DensityConfig, OptimizationConfig, TrainConfig
from ipsm_jax.rasterizer.native import default_pair_capacity
from ipsm_jax.rasterizer.pairs import fit_pairs
from ipsm_jax.training.batch import (
    SHARED_STEP,
    Batch,
    BatchInfo,
    Events,
    Given,
    add_counts,
    events_of,
    follow_batch,
    run_batch,
)
from ipsm_jax.training.density import DensityInfo
from ipsm_jax.training.loop import TrainingError
from ipsm_jax.training.state import TrainState, grow

T = TypeVar("T")


class BrokenRunError(TrainingError):
    """A run of a batch cannot go on; `run` says which, and what was saved before is intact."""

    def __init__(self, run: int, message: str) -> None:
        super().__init__(message)
        self.run = run


def predicted_bytes(config: TrainConfig, batch: Batch, states: TrainState) -> int:
    """Memory that training the batch will take, from what its compiled program asks for: of each GPU, or of the host.

    The program tells what each device needs. On the CPU, where a process can have several devices as well, they take
    it from the same memory.

    The program is compiled for as many slots as there may be, `config.density.max_gaussians`, or as there are if that
    is None. The rasterizer's own scratch memory, some 200 bytes per (Gaussian, tile) pair of one run, is not in it.

    Raises:
      RuntimeError: JAX cannot tell on this device.
    """
    capacity = config.density.max_gaussians or states.gaussians.means.shape[1]
    largest = jax.eval_shape(partial(_grow_batch, capacity=capacity), states)
    room = default_pair_capacity(capacity)
    lowered = _run_batch.lower(config.optimization, config.density, events_of(config), *batch, largest, 1, room)
    needs = lowered.compile().memory_analysis()
    if needs is None:
        raise RuntimeError(f"JAX does not tell what programs need on {jax.default_backend()}: give the batch's size")
    of_device = int(needs.argument_size_in_bytes + needs.output_size_in_bytes + needs.temp_size_in_bytes)
    return of_device * shares(states.alive.shape[0])[0] if jax.default_backend() == "cpu" else of_device


def shares(runs: int) -> tuple[int, int]:
    """How many local devices share a batch, and how many runs each of them has, the last perhaps fewer.

    That is as few runs as can be, and then as few devices.
    """
    each = -(-runs // jax.local_device_count())
    return -(-runs // each), each


def _divided(
    call: Callable[[Any, Given, TrainState], tuple[TrainState, T]], batch: Batch, states: TrainState
) -> Callable[[Any, Given, TrainState], tuple[TrainState, T]]:
    """The same call, with the runs divided among the devices; its first argument is the same on all."""
    runs = states.alive.shape[0]
    count, each = shares(runs)
    if count == 1:
        return call
    mesh = jax.make_mesh((count,), ("run",), (AxisType.Auto,), devices=jax.local_devices()[:count])
    whole, parted = PartitionSpec(), PartitionSpec("run")
    state = TrainState(*(whole if axis is None else parted for axis in SHARED_STEP))  # type: ignore[arg-type]
    leaves = [parted if mapped else whole for mapped in batch.mapped]
    given = jax.tree.unflatten(jax.tree.structure(batch.given), leaves)
    specs: dict[str, Any] = {"in_specs": (whole, given, state), "out_specs": (state, parted)}
    shared_call = jax.shard_map(call, mesh=mesh, check_vma=False, **specs)
    if count * each == runs:
        return shared_call
    rows = np.minimum(np.arange(count * each), runs - 1)

    def padded(todo: Any, given: Given, states: TrainState) -> tuple[TrainState, T]:
        """Shares have to be even: the last run is trained as often as that takes, and its copies are dropped."""
        arrays = [a[rows] if m else a for a, m in zip(jax.tree.leaves(given), batch.mapped, strict=True)]
        given = jax.tree.unflatten(jax.tree.structure(given), arrays)
        after, result = shared_call(todo, given, _of_runs(lambda a: a[rows], states))
        return _of_runs(lambda a: a[:runs], after), jax.tree.map(lambda a: a[:runs], result)

    return padded


def _of_runs(change: Callable[[Array], Array], states: TrainState) -> TrainState:
    """Change each array of a batch that has an axis for the runs."""
    return jax.tree.map(lambda a: a if a is states.step else change(a), states)


@partial(jax.jit, static_argnums=(0, 1, 4, 7))
def _run_batch(
    optimization: OptimizationConfig,
    density: DensityConfig,
    events: Events,
    given: Given,
    mapped: tuple[bool, ...],
    states: TrainState,
    count: int,
    pair_capacity: int,
) -> tuple[TrainState, BatchInfo]:
    def call(todo: tuple[Events, Int[Array, ""]], given: Given, states: TrainState) -> tuple[TrainState, BatchInfo]:
        events, count = todo
        return run_batch(optimization, density, events, Batch(given, mapped), states, count, pair_capacity)

    return _divided(call, Batch(given, mapped), states)((events, count), given, states)


@partial(jax.jit, static_argnums=(0, 3))
def _follow_batch(
    density: DensityConfig, events: Events, given: Given, mapped: tuple[bool, ...], states: TrainState
) -> tuple[TrainState, DensityInfo]:
    def call(events: Events, given: Given, states: TrainState) -> tuple[TrainState, DensityInfo]:
        return follow_batch(density, events, Batch(given, mapped), states)

    return _divided(call, Batch(given, mapped), states)(events, given, states)


@partial(jax.jit, static_argnums=1)
def _grow_batch(states: TrainState, capacity: int) -> TrainState:
    grown: TrainState = jax.vmap(partial(grow, capacity=capacity), (SHARED_STEP,), SHARED_STEP)(states)
    return grown


def train_batch(
    config: TrainConfig,
    batch: Batch,
    states: TrainState,
    every: int,
    observe: Callable[[TrainState, BatchInfo], None],
    save: Callable[[TrainState, BatchInfo], None] = lambda states, info: None,
) -> TrainState:
    """Train a batch from where its states are to the last iteration of the settings.

    When density control of any run needs more slots than there are, the iterations since the last look are done again
    with more for all, up to `config.density.max_gaussians`.

    Args:
      config: `seed` is not looked at, the states have their own keys.
      batch: what the runs are trained on.
      states: of `stack_states`, or as they were saved.
      every: iterations between looks; a call of the program takes as long.
      observe: is shown the batch after each `every` iterations and at the end, before what follows the iteration.
      save: is given it after that, which is where training can go on; the counts of density control include it.

    Raises:
      ValueError: `every` is not positive.
      BrokenRunError: a loss is not a number, or no Gaussian is left; says of which run, and which terms.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    last, events, room = config.optimization.iterations, events_of(config), 0

    def iterate(count: int, states: TrainState) -> tuple[tuple[TrainState, BatchInfo], Array]:
        nonlocal room
        run = partial(_run_batch, config.optimization, config.density, events, *batch, states, count)
        room = max(room, default_pair_capacity(states.gaussians.means.shape[1]))
        result, room = fit_pairs(run, lambda result: result[1].pairs, room)
        return result, result[1].density.refused

    def follow(states: TrainState) -> tuple[tuple[TrainState, DensityInfo], Array]:
        result = _follow_batch(config.density, events, *batch, states)
        return result, result[1].refused

    while (done := int(states.step)) < last:
        count = min(every - done % every, last - done)
        states, info = _with_room(config, partial(iterate, count), states)
        _refuse_broken(info, done + 1, done + count)
        observe(states, info)
        states, followed = _with_room(config, follow, states)
        info = info._replace(density=add_counts(info.density, followed))
        _refuse_broken(info, done + 1, done + count)
        save(states, info)
    return states


def _refuse_broken(info: BatchInfo, first: int, last: int) -> None:
    """Raise a `BrokenRunError` for a run that iterations `first` to `last`, or what followed them, have broken."""
    for run in np.flatnonzero(~np.isfinite(np.asarray(info.loss))):
        broken = ", ".join(name for name, value in info.terms.items() if not np.isfinite(value[run]))
        raise BrokenRunError(
            int(run),
            f"the loss ({broken}) of run {run} of the batch is not a number between iterations {first} and {last}; "
            "lower learning rates or weights may help",
        )
    for run in np.flatnonzero(np.asarray(info.density.alive) == 0):
        raise BrokenRunError(
            int(run),
            f"all Gaussians of run {run} of the batch were pruned between iterations {first} and {last}: none became "
            "opaque",
        )


def _with_room(config: TrainConfig, call: Callable[[TrainState], tuple[T, Any]], states: TrainState) -> T:
    """The first of what `call` gives, called again with more slots for as long as the second counts refusals."""
    limit = config.density.max_gaussians
    while True:
        result, refused = call(states)
        capacity, most = states.gaussians.means.shape[1], int(np.max(np.asarray(refused)))
        if most == 0 or (limit is not None and capacity >= limit):
            return result
        larger = 2 * capacity
        while larger < capacity + most:
            larger *= 2
        states = _grow_batch(states, larger if limit is None else min(larger, limit))
