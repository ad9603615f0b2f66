"""A grid on a Ray cluster: one task trains a batch; what a lost node was at is done again elsewhere.

The driver, which is the process that was started, asks for tasks and writes the ledger; it uses no device itself. A
first task loads everything and divides it into batches, because only a node of the cluster knows how much memory there
is. Each batch is a task then, in a process of its own. A task returns what is to be entered into the ledger, so that a
run counts as running from when it is handed to Ray.

A task whose process dies, or whose node is lost, is done again by Ray, up to `RETRIES` times. It trains into the same
run folders and goes on from the last checkpoints there: they have to be on storage that the nodes share. A task that
fails with an error would do so again; its runs are failed, and the rest of the grid goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grid.execute import train_ready
from grid.ledger import Ledger
from grid.memory import free_memory
from grid.packing import Loader, plan_work
from grid.plan import Run
from ipsm_jax.train import check_device
from ipsm_jax.trained import EXPECTED_ERRORS
from ipsm_jax.training.environment import enable_compilation_cache

RETRIES = 10
"""Lost processes and nodes that a batch survives; one that takes its process down itself comes to an end."""
FORWARDED = ("IPSM_JAX_", "JAX_", "XLA_")
"""Beginnings of environment variables that tasks get from the driver."""


class ClusterError(RuntimeError):
    """Ray is not there, or not fit for it; the message says what to do."""


class Change(NamedTuple):
    """Arguments of `Ledger.change`, with the hash of the run."""

    run: str
    state: str
    values: dict[str, Any]


class Changes(list[Change]):
    """A `Record` that keeps what it is told."""

    def change(self, run: Run, state: str, **values: Any) -> None:
        """Keep it."""
        self.append(Change(run.hash, state, values))


class Slots(NamedTuple):
    """What a task asks for, and how many of them the cluster has room for, in all and on a node."""

    options: dict[str, Any]
    total: int
    of_node: int


def train_grid(
    address: str,
    cpus: int | None,
    runs: Sequence[Run],
    ledger: Ledger,
    memory: int | None,
    most: int | None,
    say: Callable[[str], None],
) -> None:
    """Train the runs, and write down what becomes of them.

    Args:
      address: of the cluster, as `ray.init` takes it: host:port, 'auto', or 'local' for one that ends with the grid.
      cpus: that a batch asks for.
      runs: those that are not finished.
      ledger: locked.
      memory: bytes that a batch may take.
      most: runs of a batch, at most.
      say: is told how it goes.

    Raises:
      ClusterError: no cluster, none that has what is asked for, or nothing could be planned.
    """
    try:
        import ray
    except ImportError as error:
        raise ClusterError('--ray needs Ray, which is not installed: pip install "ipsm_jax[cluster]"') from error
    variables = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
    try:
        ray.init(address, runtime_env={"env_vars": variables})
    except (ConnectionError, ValueError) as error:
        raise ClusterError(f"no Ray cluster at {address}: {error}. `ray start --head` starts one") from error
    slots = find_slots([node["Resources"] for node in ray.nodes() if node["Alive"]], cpus)
    here, known = str(Path.cwd()), {run.hash: run for run in runs}
    # A process of its own each, so that memory is given back, and with it the device.
    remote = ray.remote(**slots.options, max_retries=RETRIES, max_calls=1)
    try:
        works = ray.get(remote(plan_task).remote(here, runs, ledger.started(), memory, most, slots)) if runs else []
    except ray.exceptions.RayError as error:
        raise ClusterError(_last_line(error)) from error
    pending = {}
    for hashes, predicted in works:
        batch = [known[name] for name in hashes]
        pending[remote(train_task).remote(here, batch, predicted)] = batch
        for run in batch:
            ledger.change(run, "running", facts={"batch": hashes})
    while pending:
        (done, *_), _ = ray.wait(list(pending), num_returns=1)
        batch = pending.pop(done)
        try:
            changes = ray.get(done)
        except ray.exceptions.RayError as error:
            say(f"a batch failed: {error}")
            changes = [Change(run.hash, "failed", {"error": _last_line(error)}) for run in batch]
        for change in changes:
            ledger.change(known[change.run], change.state, **change.values)
    ray.shutdown()


def find_slots(nodes: Sequence[dict[str, float]], cpus: int | None) -> Slots:
    """How to divide a cluster: a GPU for each batch if there are any, else all cores of a node.

    Args:
      nodes: resources of each.
      cpus: that a batch asks for, instead.

    Raises:
      ClusterError: no node has as much.
    """
    gpus = 1 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0
    fit = [node for node in nodes if node.get("GPU", 0) >= gpus and node.get("CPU", 0) >= (cpus or 1)]
    if not fit:
        raise ClusterError(f"no node of the cluster has {cpus or 1} CPUs and {gpus} GPUs: it has {list(nodes)}")
    cpus = cpus or (1 if gpus else int(min(node["CPU"] for node in fit)))
    rooms = [int(min(node["CPU"] // cpus, node.get("GPU", 0) if gpus else node["CPU"])) for node in fit]
    return Slots({"num_cpus": cpus, "num_gpus": gpus}, sum(rooms), max(rooms))


def plan_task(
    folder: str,
    runs: Sequence[Run],
    started: Mapping[str, Sequence[str]],
    memory: int | None,
    most: int | None,
    slots: Slots,
) -> list[tuple[list[str], int]]:
    """Batches as hashes of their runs, each with the bytes that it is predicted to take."""
    _enter(folder)
    loader = Loader(_say)
    for run in runs:
        run.check_here()
    ready = [loader.ready(run) for run in runs]
    if memory is None:  # that of the host is shared by all tasks on it, that of a GPU is not
        memory = free_memory() // (1 if slots.options["num_gpus"] else slots.of_node)
    works = plan_work(ready, started, memory, most, slots.total, _say)
    return [([ready.run.hash for ready in work.batch], work.predicted) for work in works]


def train_task(folder: str, batch: Sequence[Run], predicted: int) -> Changes:
    """Train a batch; what it returns is for the ledger."""
    _enter(folder)
    _say(f"training {', '.join(run.name for run in batch)}")
    changes, loader = Changes(), Loader(_say)
    try:
        for run in batch:
            run.check_here()
        train_ready([loader.ready(run) for run in batch], changes, predicted, _say)
    except (*EXPECTED_ERRORS, MemoryError) as error:
        settled = {change.run for change in changes if change.state in ("finished", "failed")}
        for run in batch:
            if run.hash not in settled:
                changes.change(run, "failed", error=str(error))
    return changes


def _enter(folder: str) -> None:
    """Paths among the settings are as on the driver."""
    os.chdir(folder)
    enable_compilation_cache()
    check_device()


def _say(sentence: str) -> None:
    """Ray shows it on the driver, with the node and the process."""
    print(sentence, flush=True)


def _last_line(error: Exception) -> str:
    """Without the stack of the task."""
    return str(error).strip().splitlines()[-1]
