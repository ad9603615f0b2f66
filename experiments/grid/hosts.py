"""A grid on several hosts with `jax.distributed`: each process trains batches of its own on its own devices.

Runs are independent, so that no program has to run on all hosts at once. What has to be shared is who does what, and
what has become of it, and both go through the key-value store that `jax.distributed` keeps on process 0:

- Process 0 alone reads and writes the ledger, which is SQLite: over a network file system several writers would spoil
  it. It divides what is to be done, so that predictions of memory cannot differ, and tells everybody.
- The other processes send it what they would have written into the ledger.

Files in the run folders could carry these messages too, but those of an earlier, killed grid would have to be told
from today's, and a network file system shows them late. The run folders still have to be on storage that all processes
see: which of them goes on with an interrupted run is not known beforehand.

A process that fails with an error says so; the others end what they have, and all exit with an error. One that is
killed falls silent, and process 0 then ends: `jax.distributed` ends all processes of a job in which one is missing. It
is the same if process 0 is killed. Nothing is lost but the time since the last checkpoints, and the same command goes
on. For going on without a lost node there is `cluster`.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import jax

from grid.execute import train_ready
from grid.ledger import Ledger, LedgerError
from grid.memory import free_memory
from grid.packing import Loader, Work, plan_work
from grid.plan import Run
from ipsm_jax.train import check_device
from ipsm_jax.trained import EXPECTED_ERRORS

AUTOMATIC = "auto"
"""Address that stands for what the job scheduler says."""
BEAT = 1.0
"""Seconds between two signs of life of a process."""
GRACE = 5 * BEAT
"""Seconds in which all processes learn of an error before the one they depend on is gone."""
PLAN, OVER = "grid/plan", "grid/over/error"
MESSAGES, SIGNS = "grid/messages", "grid/signs"

Available = tuple[str, str, int]
"""Name of a process's host, kind of its device, and bytes that are free there."""


class HostsError(RuntimeError):
    """The processes of a grid do not come together, or do not agree; the message says what to do."""


EXPECTED = (*EXPECTED_ERRORS, LedgerError, HostsError, MemoryError, ValueError)
"""Errors that are a sentence for the person."""


class Hosts:
    """The processes of the grid, as one of them sees them.

    Args:
      address: host:port of process 0, or `AUTOMATIC`.
      processes, process: how many there are, and which this is; None where the job scheduler says it.
      lost_after: seconds of silence after which a process counts as lost.

    Raises:
      HostsError: they did not come together.
    """

    def __init__(self, address: str, processes: int | None, process: int | None, lost_after: int) -> None:
        try:
            jax.distributed.initialize(
                None if address == AUTOMATIC else address,
                processes,
                process,
                heartbeat_timeout_seconds=2 * lost_after,  # ours speaks first: JAX aborts with a stack of C++ calls
                shutdown_timeout_seconds=lost_after,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise HostsError(
                f"the processes do not come together at {address}: {error} Start all of them, with the same "
                "--coordinator and --processes and each with its own --process, or --coordinator auto within a job of "
                "Slurm or Open MPI"
            ) from error
        # Nothing public is as simple: `jax.experimental.multihost_utils` makes all processes wait for each other.
        from jax._src.distributed import global_state

        self._store: Any = global_state.client
        self.process, self.processes = global_state.process_id, global_state.num_processes
        self.lost_after = lost_after
        self._sent = 0
        self._through = threading.Event()
        self._living = threading.Thread(target=self._live, daemon=True)
        self._living.start()

    def say(self, sentence: str) -> None:
        """For the person, who may see all processes in one place."""
        print(f"process {self.process}: {sentence}", flush=True)

    def publish(self, key: str, value: Any) -> None:
        """Let all processes see something that never changes."""
        self._store.key_value_set(key, json.dumps(value, default=str))

    def get(self, key: str) -> Any:
        """Wait for what a process published, for as long as that takes."""
        while True:
            try:
                return json.loads(self._store.blocking_key_value_get(key, 10_000))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise

    def send(self, **message: Any) -> None:
        """To process 0."""
        self.publish(f"{MESSAGES}/{self.process:06d}/{self._sent:09d}", message)
        self._sent += 1

    def change(self, run: Run, state: str, **values: Any) -> None:
        """As `Ledger.change`, by way of process 0."""
        self.send(run=run.hash, state=state, values=values)

    def messages(self, more: Callable[[], bool]) -> Iterator[tuple[int, dict[str, Any]]]:
        """What is sent to process 0, while there is `more` to come: each with its sender, and in its order."""
        while more():
            for key, text in sorted(self._store.key_value_dir_get(MESSAGES + "/")):
                self._store.key_value_delete(key)
                yield int(key.split("/")[-2]), json.loads(text)
            time.sleep(BEAT)

    def leave(self, error: str | None, code: int) -> NoReturn:
        """End this process, and with process 0 the grid: with an error nobody is waited for.

        The others wait for process 0 when they are through: it may train for hours, and JAX would miss them.
        """
        if self.process:
            self.send(ended=error)
            error = self.get(OVER)
        else:
            self.publish(OVER, error)
        if error is None:
            self._through.set()
            self._living.join()
            jax.distributed.shutdown()
            sys.exit(code)
        time.sleep(GRACE)
        _exit(code or 1)

    def _live(self) -> None:
        """Give signs of life, and end at once when the grid cannot go on."""
        seen: dict[str, tuple[str, float]] = {}
        for count in itertools.count():
            try:
                self._store.key_value_set(f"{SIGNS}/{self.process}", str(count), allow_overwrite=True)
                trouble = self._lost(seen) if self.process == 0 else self._ended()
            except jax.errors.JaxRuntimeError:  # JAX is about to abort
                trouble = "process 0 is gone"
            if trouble is not None:
                print(
                    f"error: {trouble}, so the grid ends. Start all processes with the same command to go on from the "
                    "last checkpoints",
                    file=sys.stderr,
                )
                _exit(1)
            if self._through.wait(BEAT):
                return

    def _lost(self, seen: dict[str, tuple[str, float]]) -> str | None:
        """Which process is silent; `seen` has the last sign of each and when it was new."""
        now = time.monotonic()
        for key, sign in self._store.key_value_dir_get(SIGNS + "/"):
            if key not in seen or seen[key][0] != sign:
                seen[key] = (sign, now)
            elif now - seen[key][1] > self.lost_after:
                return f"process {key.rsplit('/', 1)[1]} has not been heard of for {self.lost_after} s"
        return None

    def _ended(self) -> str | None:
        """Why process 0 ended the grid, if it did so before its time."""
        over = self._store.key_value_dir_get(OVER.rpartition("/")[0] + "/")
        error = json.loads(over[0][1]) if over else None
        return None if error is None else f"process 0 says: {error}"


def train_grid(hosts: Hosts, runs: list[Run], ledger: Ledger, memory: int | None, most: int | None) -> NoReturn:
    """The part of this process in the grid; ends it with 0 if all runs are finished, 1 or 2 otherwise."""
    known = {run.hash: run for run in runs}
    try:
        check_device()  # which waits for all processes
        available = socket.gethostname(), jax.default_backend(), free_memory()
        if hosts.process == 0:
            with ledger.locked():
                _lead(hosts, ledger, known, available, memory, most)
            error, code = None, ledger.report(hosts.say)
        else:
            hosts.send(available=available)
            _follow(hosts, known)
            error, code = None, 0
    except EXPECTED as problem:
        error, code = str(problem), 2
        print(f"error: {error}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        error, code = "it was stopped; the same command goes on from the last checkpoints", 130
        print(f"error: {error}", file=sys.stderr, flush=True)
    except Exception as problem:
        error, code = repr(problem), 1
        traceback.print_exc()
    hosts.leave(error, code)


def _lead(
    hosts: Hosts, ledger: Ledger, known: dict[str, Run], own: Available, memory: int | None, most: int | None
) -> None:
    """What process 0 does: divide the work, do its share, and write down what all of them tell."""
    loader, available, others = Loader(hosts.say), [own], set(range(1, hosts.processes))
    ready = [loader.ready(run) for run in ledger.waiting(list(known.values()), hosts.say)]
    for process, message in hosts.messages(lambda: len(available) < hosts.processes):
        if "ended" in message:
            raise HostsError(f"process {process}: {message['ended']}")
        available.append(message["available"])
    memory = smallest_share(available) if memory is None else memory
    works = plan_work(ready, ledger.started(), memory, most, hosts.processes, hosts.say)
    shares = deal(works, hosts.processes)
    hosts.publish(PLAN, [[_told(work) for work in share] for share in shares])

    def collect() -> list[str]:
        errors = []
        for process, message in hosts.messages(lambda: bool(others)):
            if "ended" in message:
                others.discard(process)
                errors += [] if message["ended"] is None else [f"process {process}: {message['ended']}"]
            else:
                ledger.change(known[message["run"]], message["state"], **message["values"])
        return errors

    collected, errors = ThreadPoolExecutor(1).submit(collect), []  # no `with`: an interruption must not wait for it
    try:
        for work in shares[0]:
            train_ready(work.batch, ledger, work.predicted, hosts.say)
    except EXPECTED as error:  # the others go on, as if it were one of theirs
        errors.append(f"process 0: {error}")
    errors += collected.result()
    if errors:
        raise HostsError("; ".join(errors))


def _follow(hosts: Hosts, known: dict[str, Run]) -> None:
    """What the others do: their share."""
    loader = Loader(hosts.say)
    for folders, predicted in hosts.get(PLAN)[hosts.process]:
        if unknown := set(folders) - set(known):
            raise HostsError(
                f"process 0 speaks of unknown runs {sorted(unknown)}: start all with the same command, the same "
                "version of ipsm_jax and the same weights of the priors"
            )
        batch = [loader.ready(known[run].placed(folder)) for run, folder in folders.items()]
        train_ready(batch, hosts, predicted, hosts.say)


def _told(work: Work) -> tuple[dict[str, str], int]:
    """A batch as the processes tell each other: names of the folders by hash, and the bytes predicted."""
    return {ready.run.hash: ready.run.name for ready in work.batch}, work.predicted


def deal(works: list[Work], parts: int) -> list[list[Work]]:
    """Batches for each process: the largest first, each to the one that has the fewest runs so far."""
    shares: list[list[Work]] = [[] for _ in range(parts)]
    for work in sorted(works, key=lambda work: -len(work.batch)):
        min(shares, key=lambda share: sum(len(other.batch) for other in share)).append(work)
    return shares


def smallest_share(available: Sequence[Available]) -> int:
    """Bytes that a batch may take on any process; those on the CPU of one host share its memory."""
    neighbors = Counter(host for host, device, _ in available if device == "cpu")
    return min(free // (neighbors[host] if device == "cpu" else 1) for host, device, free in available)


def _exit(code: int) -> NoReturn:
    """At once, whatever the main thread is at: it may be in a compiled program for minutes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
