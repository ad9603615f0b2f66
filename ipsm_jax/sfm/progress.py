"""What takes long reports how far it is; by itself it is silent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Report = Callable[[str, int, int], None]
"""Called with (what is being done, how much of it is done, how much there is)."""

_LONG = 120.0  # seconds that are worth a sentence


def silent(stage: str, done: int, total: int) -> None:
    """The report of somebody who does not want to know."""


class StageClock:
    """A report that adds up the seconds spent in each stage: from when it is first named until another one is."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._since = "", time.perf_counter()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Called like any report."""
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def around(self, report: Report) -> Report:
        """A report that tells both."""

        def both(stage: str, done: int, total: int) -> None:
            self(stage, done, total)
            report(stage, done, total)

        return both

    def spent(self) -> str:
        """In words: each stage and its whole seconds, in the order that they came in."""
        self(self._stage, 0, 0)
        return ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in self.seconds.items())


def with_forecast(report: Report, say: Callable[[str], None]) -> Report:
    """The report, which also says once of each stage that takes minutes how many, from how long its beginning took."""
    begun: dict[str, tuple[float, int]] = {}
    said: set[str] = set()

    def forecasting(stage: str, done: int, total: int) -> None:
        report(stage, done, total)
        now = time.perf_counter()
        since, first = begun.setdefault(stage, (now, done))
        if stage in said or done <= first or done >= total:
            return
        said.add(stage)
        left = (now - since) / (done - first) * (total - done)
        if left >= _LONG:
            say(f"{stage}: {done} of {total}; about {left / 60:.0f} minutes for the others")

    return forecasting


@contextlib.contextmanager
def stages(console: Console | None = None) -> Iterator[Report]:
    """Context with a report that shows one bar per stage, on stderr by default; nothing without a terminal."""
    console = Console(stderr=True) if console is None else console
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield report
