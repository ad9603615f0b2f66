"""Showing how far training is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressDisplay:
    """Context that shows iteration, loss, PSNR of the training views, Gaussians, iterations a second and time left.

    Args:
      first: iterations that were finished before.
      last: iterations in all.
      line_every: without a terminal, iterations between two lines.
    """

    def __init__(self, first: int, last: int, line_every: int, console: Console | None = None) -> None:
        self._console = console or Console()
        self._first, self._last, self._line_every = first, last, line_every
        self._started = time.perf_counter()
        self._bar = Progress(
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=last, completed=first, figures="compiling")

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def update(self, iteration: int, loss: float, psnr: float, gaussians: int) -> None:
        """Show the figures after `iteration`."""
        rate = (iteration - self._first) / max(time.perf_counter() - self._started, 1e-9)
        figures = f"loss {loss:.4f}  PSNR {psnr:.2f} dB  {gaussians} Gaussians  {rate:.1f} it/s"
        self._bar.update(self._task, completed=iteration, figures=figures)
        if not self._console.is_terminal and (iteration % self._line_every == 0 or iteration == self._last):
            left = (self._last - iteration) / max(rate, 1e-9)
            self.say(f"{iteration}/{self._last}  {figures}  {int(left) // 60}:{int(left) % 60:02d} left")

    def say(self, sentence: str) -> None:
        """Print a line, above the bar if there is one."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)
