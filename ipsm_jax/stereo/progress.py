"""A bar for the stereo, which by itself is silent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ipsm_jax.stereo.depths import Report


@contextlib.contextmanager
def stereo_progress(console: Console | None = None) -> Iterator[Report]:
    """Context with a callback for `stereo_depths` that shows a bar, on stderr by default; none without a terminal."""
    console = Console(stderr=True) if console is None else console
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Depth from the photos", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
