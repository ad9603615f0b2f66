"""The progress bar of trainings that run together."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def iterations_bar(console: Console) -> Progress:
    """Iterations, and a field `figures`; on a terminal only: elsewhere the lines that are said have to do."""
    columns = (TextColumn("{task.completed:.0f}/{task.total:.0f}"), BarColumn(), TextColumn("{task.fields[figures]}"))
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
