"""Train a batch into ordinary run folders: each has its own log, checkpoints, figures and pictures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from bars import iterations_bar
from rich.console import Console

from grid.ledger import Record
from grid.memory import MemoryWatch
from grid.packing import Ready
from ipsm_jax.train import finish, start_folder
from ipsm_jax.training.batch import BatchInfo, events_of, stack_given, stack_states, state_of
from ipsm_jax.training.batch_loop import BrokenRunError, train_batch
from ipsm_jax.training.checkpoint import CheckpointError, list_checkpoints, load_checkpoint
from ipsm_jax.training.density import DensityInfo
from ipsm_jax.training.environment import describe_environment
from ipsm_jax.training.progress import ProgressDisplay
from ipsm_jax.training.recorder import Recorder
from ipsm_jax.training.state import TrainState

EVERY = 100
"""Iterations in a call of the program, at most: what progress and an interruption wait for."""


def train_ready(batch: list[Ready], record: Record, predicted: int, say: Callable[[str], None]) -> list[Ready]:
    """Train runs together from where their folders are, finish each, and tell all of it for the ledger.

    A run whose loss is not a number, or that has no Gaussian left, is failed, and the others go on without it from
    their last checkpoints.

    Returns:
      The runs that were finished.
    """
    remaining = list(batch)
    while remaining:
        facts = {"batch": [ready.run.hash for ready in remaining]}
        for ready in remaining:
            record.change(ready.run, "running", environment=describe_environment(ready.config.seed), facts=facts)
        began, memory = time.perf_counter(), MemoryWatch()
        try:
            states = _train(remaining, say)
        except BrokenRunError as error:
            broken = remaining.pop(error.run)
            record.change(broken.run, "failed", error=str(error), facts=None)
            say(f"{broken.run.name} failed: {error}")
            continue
        seconds, taken = time.perf_counter() - began, memory.taken_mib()
        for index, ready in enumerate(remaining):
            finish(ready.config, ready.scene, state_of(states, index), Console(quiet=True))
            results = {
                "runs_in_batch": len(remaining),
                "seconds_of_batch": seconds,
                "predicted_mib": predicted >> 20,
                "taken_mib": taken,
                "gaussians": int(state_of(states, index).alive.sum()),
            }
            record.change(ready.run, "finished", metrics=metrics_of(ready.run.folder), facts=results, error=None)
        break
    return remaining


def metrics_of(folder: Path) -> dict[str, Any] | None:
    """The means in a run's metrics.json; None for a scene without test views."""
    path = folder / "metrics.json"
    return json.loads(path.read_text())["mean"] if path.is_file() else None


def _train(batch: list[Ready], say: Callable[[str], None]) -> TrainState:
    starts = common_states(batch)
    for ready, state in zip(batch, starts, strict=True):
        start_folder(ready.config, ready.scene, state, ready.points)
    recorders = [Recorder(ready.run.folder, ready.config, _Quiet(), _no_score) for ready in batch]
    config, done = batch[0].config, int(starts[0].step)
    if done:
        say(f"going on after iteration {done}")
    with iterations_bar(Console(stderr=True)) as bar:
        task = bar.add_task("", total=config.optimization.iterations, completed=done, figures="compiling")

        def observe(states: TrainState, info: BatchInfo) -> None:
            bar.update(task, completed=int(states.step), figures=f"PSNR {info.psnr.mean():.2f} dB")

        def save(states: TrainState, info: BatchInfo) -> None:
            nonlocal done
            iteration, values = int(states.step), jax.device_get(info)
            controlled = events_of(config).density[done + 1 : iteration + 1].any()
            for run, recorder in enumerate(recorders):
                counts = DensityInfo(*(count[run] for count in values.density))
                if controlled:
                    recorder.densified(iteration, counts, states.alive.shape[1])
                terms = {name: float(term[run]) for name, term in values.terms.items()}
                figures = (float(values.loss[run]), float(values.psnr[run]), int(counts.alive))
                recorder.advanced(iteration, iteration - done, *figures, terms)
            done = iteration
            if iteration % config.output.checkpoint_every and iteration < config.optimization.iterations:
                return
            for run, recorder in enumerate(recorders):
                recorder.save(state_of(states, run))

        given = stack_given([ready.given for ready in batch])
        every = math.gcd(EVERY, config.output.log_every, config.output.checkpoint_every)
        return train_batch(config, given, stack_states(starts), every, observe, save)


def common_states(batch: list[Ready]) -> list[TrainState]:
    """States to go on from: the newest checkpoints that all runs have and that can be read, else the first states."""
    folders = [list_checkpoints(ready.run.folder) for ready in batch]
    for iteration in sorted(set.intersection(*(set(found) for found in folders)), reverse=True):
        try:
            return [load_checkpoint(found[iteration])[1] for found in folders]
        except CheckpointError:  # damaged: the one before it
            continue
    return [ready.start for ready in batch]


def _no_score(state: TrainState) -> tuple[float, float]:
    raise AssertionError("batches do not measure test views while they train")


class _Quiet(ProgressDisplay):
    """Shows nothing: the batch has a bar of its own."""

    def __init__(self) -> None:
        super().__init__(0, 1, 1, Console(quiet=True))
