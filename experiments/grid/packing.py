"""What trains together: runs whose settings, sizes and options are the same go into one program, within the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from grid.plan import Run, shared_settings
from ipsm_jax.config import TrainConfig
from ipsm_jax.data.scene import Scene
from ipsm_jax.training.batch import Batch, Given, stack_given, stack_states
from ipsm_jax.training.batch_loop import predicted_bytes
from ipsm_jax.training.prepare_regularization import check_requirements, prepare_regularization
from ipsm_jax.training.setup import first_state, load_scene_from_config, training_views
from ipsm_jax.training.state import TrainState


class Ready(NamedTuple):
    """A run with all that it takes to train it.

    Attributes:
      run: with the limit of Gaussians that its start implies among its settings.
      start: state before the first iteration.
      points: a sentence on where the start comes from.
    """

    run: Run
    config: TrainConfig
    scene: Scene
    given: Given
    start: TrainState
    points: str


class Loader:
    """Makes runs ready; scenes and what is made of them are kept for the next run with the same settings."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._scenes: dict[Any, Scene] = {}
        self._given: dict[Any, Given] = {}

    def ready(self, run: Run) -> Ready:
        """Load, and make the first state; raises what the train command ends with for such input."""
        data = run.config.data
        scene = self._scenes.get(data)
        if scene is None:
            scene = self._scenes[data] = load_scene_from_config(run.config)
        check_requirements(run.config, scene)
        config, start, points = first_state(run.config, scene)
        key = (data, shared_settings(config))
        if key not in self._given:
            regularization = prepare_regularization(config, scene, self._say)
            self._given[key] = Given(training_views(config, scene), regularization)
        return Ready(run, config, scene, self._given[key], start, points)


def pack(runs: Iterable[Ready], started: Mapping[str, Sequence[str]] = MappingProxyType({})) -> list[list[Ready]]:
    """Runs in groups that one program can train, in the order of their first members.

    The limit of Gaussians is one of the settings that have to be the same: what density control refuses depends on it.
    Runs that were started go on with those that they were started with, see `Ledger.started`.
    """
    groups: dict[Any, list[Ready]] = {}
    for ready in runs:
        leaves = tuple((jnp.shape(a), jnp.asarray(a).dtype) for a in jax.tree.leaves(ready.given))
        before = tuple(started.get(ready.run.hash, ()))
        key = (shared_settings(ready.config), jax.tree.structure(ready.given), leaves, before)
        groups.setdefault(key, []).append(ready)
    return list(groups.values())


class Work(NamedTuple):
    """A batch, and the bytes that it is predicted to take."""

    batch: list[Ready]
    predicted: int


def plan_work(
    runs: Iterable[Ready],
    started: Mapping[str, Sequence[str]],
    memory: int,
    most: int | None,
    parts: int,
    say: Callable[[str], None],
) -> list[Work]:
    """All batches of a grid: see `pack` and `divide`.

    Args:
      runs: those that are not finished.
      started: of `Ledger.started`.
      memory: bytes that a batch may take.
      most: runs of a batch, at most.
      parts: batches that can train at the same time; what has not been started is divided into as many.
      say: is told what is planned.
    """
    works = []
    for group in pack(runs, started):
        even = len(group) if group[0].run.hash in started else -(-len(group) // parts)
        batches, predicted = divide(group, memory, even if most is None else min(most, even))
        for batch in batches:
            works.append(Work(batch, predicted))
            names = ", ".join(ready.run.name for ready in batch)
            say(f"batch {len(works)}, predicted to take {predicted / 2**30:.1f} GiB: {names}")
    return works


def divide(group: list[Ready], memory: int, most: int | None = None) -> tuple[list[list[Ready]], int]:
    """A group in as few and as even batches as fit the memory; also the bytes that the largest is predicted to take.

    Args:
      group: of `pack`.
      memory: bytes that a batch may take.
      most: runs of a batch, at most.

    Raises:
      MemoryError: not even a single run fits.
    """
    count = len(group) if most is None else min(most, len(group))
    while True:
        batches = -(-len(group) // count)
        count = -(-len(group) // batches)  # even
        needed = predicted_bytes(group[0].config, *together(group[:count]))
        if needed <= memory:
            return [group[i : i + count] for i in range(0, len(group), count)], needed
        if count == 1:
            raise MemoryError(
                f"{group[0].run.name} alone is predicted to take {needed / 2**30:.1f} GiB of the "
                f"{memory / 2**30:.1f} GiB that a batch may have: allow more with --memory, or fewer Gaussians"
            )
        count = max(1, min(count - 1, int(count * memory / needed)))


def together(batch: list[Ready]) -> tuple[Batch, TrainState]:
    """What the runs are trained on, and their first states."""
    return stack_given([ready.given for ready in batch]), stack_states([ready.start for ready in batch])
