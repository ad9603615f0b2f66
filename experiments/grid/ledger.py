"""The ledger of a grid: one SQLite file that knows every run, its settings, its state, its circumstances and figures.

A run is known by the hash of its settings, whatever the method was called that it was first planned for. It is planned,
running, finished or failed; what was running when the program was killed is taken up again. One program at a time
writes: it holds a lock on the file beside the ledger, which the system gives back however the program ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from grid.identity import described, settings_of
from grid.plan import Run

NAME = "ledger.sqlite"
STATES = ("planned", "running", "finished", "failed")
_COLUMNS = "hash, scene, method, seed, folder, config, state, environment, metrics, facts, error, updated"


class Entry(NamedTuple):
    """A line of the ledger; what is not known yet is None."""

    hash: str
    scene: str
    method: str
    seed: int
    folder: str
    config: dict[str, Any]
    state: str
    environment: dict[str, Any] | None
    metrics: dict[str, Any] | None
    facts: dict[str, Any] | None
    error: str | None
    updated: str


class Record(Protocol):
    """What a training tells about its runs: the ledger, or what hands it on to the process that writes the ledger."""

    def change(self, run: Run, state: str, **values: Any) -> None:
        """See `Ledger.change`."""


class LedgerError(RuntimeError):
    """The ledger cannot be used; the message says why."""


class Ledger:
    """The ledger in a folder. Writing takes `locked`; reading does not."""

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / NAME

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one to write.

        Raises:
          LedgerError: another program is at it.
        """
        import fcntl  # not on Windows, where nothing else here needs it

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (self.path.parent / ".lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                raise LedgerError(f"another program (process {holder}) is working on {self.path.parent}") from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            with self._open() as database:
                database.execute(
                    "CREATE TABLE IF NOT EXISTS runs (hash TEXT PRIMARY KEY, scene TEXT, method TEXT, seed INTEGER, "
                    "folder TEXT, config TEXT, state TEXT, environment TEXT, metrics TEXT, facts TEXT, error TEXT, "
                    "updated TEXT)"
                )
                database.execute("UPDATE runs SET state = 'planned' WHERE state = 'running'")
            yield

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            database = sqlite3.connect(self.path)
            try:
                with database:  # one transaction
                    yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise LedgerError(f"{self.path}: {error}") from error

    def plan(self, run: Run) -> Run:
        """Enter a run that is not there yet; one that failed is to be tried again.

        Returns:
          The run in the folder where the ledger has it: it may have been planned under another name.
        """
        recorded = json.dumps(described(run.config))
        row = (run.hash, run.scene, run.method, run.config.seed, str(run.folder), recorded)
        with self._open() as database:
            database.execute(
                "INSERT INTO runs (hash, scene, method, seed, folder, config, state, updated) VALUES (?,?,?,?,?,?,?,?) "
                "ON CONFLICT(hash) DO UPDATE SET state = CASE state WHEN 'failed' THEN 'planned' ELSE state END",
                (*row, "planned", _now()),
            )
            (folder,) = database.execute("SELECT folder FROM runs WHERE hash = ?", (run.hash,)).fetchone()
        return run.placed(Path(folder).name)

    def waiting(self, runs: list[Run], say: Callable[[str], None]) -> list[Run]:
        """Enter all runs, and give those that are not finished, in the folders where the ledger has them."""
        runs = [self.plan(run) for run in runs]
        self._rename(runs, say)
        finished = {entry.hash for entry in self.entries() if entry.state == "finished"}
        waiting = [run for run in runs if run.hash not in finished]
        say(f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished before")
        return waiting

    def _rename(self, runs: list[Run], say: Callable[[str], None]) -> None:
        """Give the newest name of a method to all its runs, whatever their seed: they belong into one row."""
        names = {_known_by(run.scene, described(run.config)): run.method for run in runs}
        renamed: dict[tuple[str, str], None] = {}  # in their order
        with self._open() as database:
            for entry in self.entries():
                name = names.get(_known_by(entry.scene, entry.config), entry.method)
                if name != entry.method:
                    database.execute("UPDATE runs SET method = ? WHERE hash = ?", (name, entry.hash))
                    renamed[entry.method, name] = None
        for old, new in renamed:
            say(f"{old!r} has the settings of {new!r}: its runs stay in their folders, and are listed as {new!r} now")

    def started(self) -> dict[str, tuple[str, ...]]:
        """For each run that was started and has not ended, all runs of its batch: they go on together.

        How many runs a program trains decides about its rounding, and together they are where they were.
        """
        entries = [entry for entry in self.entries() if entry.state in ("planned", "running")]
        return {entry.hash: tuple(entry.facts["batch"]) for entry in entries if entry.facts}

    def change(self, run: Run, state: str, **values: Any) -> None:
        """A run's new state, and whatever else is new: environment, metrics, facts (JSON), error (text)."""
        if state not in STATES:
            raise ValueError(f"a run is {', '.join(STATES)}; got {state!r}")
        texts = {name: value if name == "error" else json.dumps(value, default=str) for name, value in values.items()}
        names = ["state", "updated", *texts]
        with self._open() as database:
            database.execute(
                f"UPDATE runs SET {', '.join(f'{name} = ?' for name in names)} WHERE hash = ?",
                (state, _now(), *texts.values(), run.hash),
            )

    def report(self, say: Callable[[str], None]) -> int:
        """Name what failed; returns the exit code of a grid that has ended: 1 if anything failed, else 0."""
        failed = [entry for entry in self.entries() if entry.state == "failed"]
        for entry in failed:
            say(f"failed: {Path(entry.folder).name}: {entry.error}")
        return 1 if failed else 0

    def entries(self) -> list[Entry]:
        """All runs, in the order in which they were planned.

        Raises:
          LedgerError: there is no ledger, or it is not one.
        """
        if not self.path.is_file():
            raise LedgerError(f"there is no ledger in {self.path.parent} ({NAME})")
        with self._open() as database:
            rows = database.execute(f"SELECT {_COLUMNS} FROM runs ORDER BY rowid").fetchall()
        entries = []
        for row in rows:
            entry = Entry(*row)
            # Beside the ledger, wherever that is now and whatever the folder was called from; the scene counts by name.
            folder = self.path.parent / Path(entry.folder).name
            entry = entry._replace(folder=str(folder), scene=Path(entry.scene).name)
            parsed = {
                k: json.loads(v) for k in ("config", "environment", "metrics", "facts") if (v := getattr(entry, k))
            }
            entries.append(entry._replace(**parsed))
        return entries


def _known_by(scene: str, config: dict[str, Any]) -> str:
    """What the runs of a row have in common."""
    return json.dumps([Path(scene).name, settings_of(config)], sort_keys=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
