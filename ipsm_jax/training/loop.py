"""The training loop, on the host.

Iterations run in a compiled program (`step.run_steps`) until something has to happen between two of them: density
control, an opacity reset, a line in the log, a checkpoint, an evaluation. Reading, writing and showing are the
`Observer`'s. How the iterations are divided into calls changes nothing about their result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax

from ipsm_jax.config import TrainConfig
from ipsm_jax.rasterizer.native import default_pair_capacity
from ipsm_jax.rasterizer.pairs import fit_pairs, overflow_spoils
from ipsm_jax.training.density import DensityInfo, densify, is_due, reset_is_due, reset_opacity
from ipsm_jax.training.regularization import Regularization
from ipsm_jax.training.state import TrainState
from ipsm_jax.training.step import TrainingViews, run_steps

SECONDS_PER_CALL = 1.5
"""About how long one call of the compiled program may take: the time that progress and Ctrl-C have to wait."""
MAX_STEPS_PER_CALL = 50

_run_steps = jax.jit(run_steps, static_argnums=(0, 5), donate_argnums=2)
_run_steps_again = jax.jit(run_steps, static_argnums=(0, 5))
"""Keeps the state that it starts from, for devices where too little room for pairs spoils an iteration."""
_reset_opacity = jax.jit(reset_opacity, static_argnums=0, donate_argnums=1)


class TrainingError(RuntimeError):
    """Training cannot go on; what was saved before is intact."""


class Interrupted(Exception):  # noqa: N818 (not an error)
    """Training stopped because it was asked to, after saving; `iteration` is the last finished one."""

    def __init__(self, iteration: int) -> None:
        super().__init__(f"stopped after iteration {iteration}")
        self.iteration = iteration


class Observer(Protocol):
    """What is told about a training; see `recorder.Recorder`."""

    def advanced(
        self, iteration: int, count: int, loss: float, psnr: float, gaussians: int, terms: dict[str, float]
    ) -> None:
        """`count` iterations were done, up to `iteration`; loss, its terms and training PSNR (dB) are their means."""

    def densified(self, iteration: int, info: DensityInfo, capacity: int) -> None:
        """Density control followed `iteration`; `capacity` slots are there now."""

    def save(self, state: TrainState) -> None:
        """Write a checkpoint."""

    def evaluate(self, state: TrainState) -> None:
        """Measure the test views."""

    def diagnose(self, state: TrainState) -> None:
        """Look at the pseudo view of the next iteration; asked only where there is one."""

    def show(self, state: TrainState) -> None:
        """Let whoever watches see the state; asked after every call of the compiled program."""


class Unobserved:
    """An `Observer` that does nothing, to be used as it is or in parts."""

    def advanced(self, *_: Any) -> None:
        """Nothing to tell."""

    densified = save = evaluate = diagnose = show = advanced


def train(
    config: TrainConfig,
    views: TrainingViews,
    state: TrainState,
    observer: Observer,
    stop_requested: Callable[[], bool] = lambda: False,
    regularization: Regularization | None = None,
) -> TrainState:
    """Train from `state`, whose buffers are given up, to `config.optimization.iterations`.

    What there is beyond the photometric loss is the regularization's; see `prepare_regularization`.

    Raises:
      TrainingError: the loss is not a number, or no Gaussian is left.
      Interrupted: `stop_requested` said so; a checkpoint was saved.
    """
    last = config.optimization.iterations
    iteration, alive = int(state.step), int(state.alive.sum())
    pace = 1  # iterations per call
    room = 0  # for (Gaussian, tile) pairs
    while iteration < last:
        count = _next_event(config, iteration, limit=pace) - iteration
        started = time.perf_counter()
        run = _run_steps_again if overflow_spoils() else _run_steps
        (state, info), room = fit_pairs(
            partial(run, config.optimization, views, state, count, regularization),
            lambda result: result[1].pairs,
            max(room, default_pair_capacity(state.gaussians.capacity)),
        )
        loss, psnr = float(info.loss), float(info.psnr)  # waits for the device
        terms = {name: float(value) for name, value in info.terms.items()}
        seconds = time.perf_counter() - started
        pace = max(1, min(MAX_STEPS_PER_CALL, 2 * pace, int(SECONDS_PER_CALL * count / seconds)))
        iteration += count
        if not math.isfinite(loss):
            broken = ", ".join(name for name, value in terms.items() if not math.isfinite(value))
            raise TrainingError(
                f"the loss ({broken}) is not a number between iterations {iteration - count + 1} and {iteration}. "
                "Lower learning rates may help; checkpoints saved before are intact"
            )

        # Before density control: Gaussians that it has just made, and nothing has trained yet, spoil the picture.
        if config.output.eval_every and iteration % config.output.eval_every == 0:
            observer.evaluate(state)

        if is_due(config.density, iteration, last):
            state, changes = densify(config.density, views.extent, state)
            alive = int(changes.alive)
            observer.densified(iteration, changes, state.gaussians.capacity)
            if alive == 0:
                raise TrainingError(f"all Gaussians were pruned after iteration {iteration}: none became opaque")
        if reset_is_due(config.density, iteration):
            state = _reset_opacity(config.density.opacity_reset_value, state)

        observer.advanced(iteration, count, loss, psnr, alive, terms)
        if _diagnosis_is_due(config, regularization, iteration):
            observer.diagnose(state)
        observer.show(state)
        stopping = stop_requested()
        if stopping or iteration == last or iteration % config.output.checkpoint_every == 0:
            observer.save(state)
        if stopping and iteration < last:
            raise Interrupted(iteration)
    return state


def _next_event(config: TrainConfig, iteration: int, limit: int) -> int:
    """The first iteration after this one that something follows, at most `limit` later."""
    last = config.optimization.iterations
    output = config.output
    wanted = (output.checkpoint_every, output.log_every, output.eval_every, output.diagnostics_every)
    intervals = [n for n in wanted if n]

    def is_event(i: int) -> bool:
        return (
            i >= min(last, iteration + limit)
            or is_due(config.density, i, last)
            or reset_is_due(config.density, i)
            or any(i % n == 0 for n in intervals)
        )

    return next(i for i in range(iteration + 1, last + 1) if is_event(i))


def _diagnosis_is_due(config: TrainConfig, regularization: Regularization | None, iteration: int) -> bool:
    """Whether to look at a pseudo view after this iteration: every so often, if the next one has one."""
    every, last = config.output.diagnostics_every, config.optimization.iterations
    if regularization is None or not regularization.pseudo_terms or not every or iteration == last:
        return False
    return iteration % every == 0 and bool(regularization.schedule.active(iteration + 1))
