"""What a training leaves in its run folder while it runs: log.jsonl and checkpoints; and what it shows.

Each line of log.jsonl is a JSON object: the figures of the iterations since the line before it (``iteration``,
``loss`` and, where it has several, its ``terms``, ``psnr`` in dB of the training views, ``gaussians``, ``seconds`` of
training, ``peak_memory_mib`` of the process, and the counts of density control), an evaluation (``iteration``,
``test_psnr``, ``test_ssim``), or what a picture in diagnostics/ shows (``iteration``, ``diagnostics``: weighted terms,
norms of their gradients).
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ipsm_jax.config import TrainConfig
from ipsm_jax.errors import InputError
from ipsm_jax.reporting.files import atomic_write, write_png
from ipsm_jax.training.checkpoint import save_checkpoint
from ipsm_jax.training.density import DensityInfo
from ipsm_jax.training.progress import ProgressDisplay
from ipsm_jax.training.state import TrainState

LOG = "log.jsonl"
DIAGNOSTICS = "diagnostics"


class LogError(InputError):
    """A log that cannot be used; the message names the line."""


class Recorder:
    """The `loop.Observer` of the train command.

    Args:
      folder: run folder, with a log that ends at the iteration that training starts from (`truncate_log`).
      config: settings of the run.
      display: where figures are shown.
      score: test PSNR in dB and SSIM of a state, for evaluations while training.
      look: picture and figures of the pseudo view of the iteration that follows a state; needed where there are any.
      show: is given every state that the loop holds, for a viewer.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        display: ProgressDisplay,
        score: Callable[[TrainState], tuple[float, float]],
        look: Callable[[TrainState], tuple[np.ndarray, dict[str, float]]] | None = None,
        show: Callable[[TrainState], None] = lambda state: None,
    ) -> None:
        self._folder, self._config, self._display = folder, config, display
        self._score, self._look, self._show = score, look, show
        earlier = [line["seconds"] for line in read_log(folder) if "seconds" in line]
        self._started = time.perf_counter() - (earlier[-1] if earlier else 0.0)
        self._sums: Counter[str] = Counter()
        self._terms: Counter[str] = Counter()
        self._last = (0, 0)  # iteration and number of Gaussians that the sums end with
        self._density: Counter[str] = Counter()
        self._refused = False

    def advanced(
        self, iteration: int, count: int, loss: float, psnr: float, gaussians: int, terms: dict[str, float]
    ) -> None:
        """Show the figures, and write them down every `log_every` iterations (and with each checkpoint)."""
        self._sums.update({"count": count, "loss": count * loss, "psnr": count * psnr})
        self._terms.update({name: count * value for name, value in terms.items()})
        self._last = (iteration, gaussians)
        self._display.update(iteration, loss, psnr, gaussians)
        if iteration % self._config.output.log_every == 0 or iteration == self._config.optimization.iterations:
            self._flush()

    def densified(self, iteration: int, info: DensityInfo, capacity: int) -> None:
        """Add the counts to the next line of the log, and say so when Gaussians are refused for the first time."""
        counts = {name: int(value) for name, value in info._asdict().items() if name != "alive"}
        self._density.update(counts)
        if counts["refused"] and not self._refused:
            self._refused = True
            self._display.say(
                f"iteration {iteration}: --max-gaussians {capacity} reached, {counts['refused']} more were asked for; "
                f"from now on the most urgent ones get the slots that become free ({LOG} has the counts)"
            )

    def save(self, state: TrainState) -> None:
        """Write a checkpoint, and before it what the log lacks: a resumed run starts with empty sums."""
        self._flush()
        save_checkpoint(self._folder, self._config, state)

    def evaluate(self, state: TrainState) -> None:
        """Measure the test views; write and show the figures."""
        psnr, ssim = self._score(state)
        iteration = int(state.step)
        self._write({"iteration": iteration, "test_psnr": round(psnr, 6), "test_ssim": round(ssim, 6)})
        self._display.say(f"iteration {iteration}: test views PSNR {psnr:.2f} dB, SSIM {ssim:.4f}")

    def diagnose(self, state: TrainState) -> None:
        """Write the picture of the pseudo view of the next iteration, and a line with its figures."""
        if self._look is None:
            raise ValueError("this recorder was not told how to look at pseudo views")
        picture, figures = self._look(state)
        iteration = int(state.step) + 1
        (self._folder / DIAGNOSTICS).mkdir(exist_ok=True)
        write_png(self._folder / DIAGNOSTICS / f"iteration_{iteration:06d}.png", picture)
        self._write({"iteration": int(state.step), "diagnostics": {k: float(f"{v:.4g}") for k, v in figures.items()}})

    def show(self, state: TrainState) -> None:
        """Hand the state to the viewer, if there is one."""
        self._show(state)

    def _flush(self) -> None:
        """Write the figures of the iterations since the last line, if there were any."""
        count = self._sums["count"]
        if not count:
            return
        iteration, gaussians = self._last
        means = {key: round(self._sums[key] / count, 6) for key in ("loss", "psnr")}
        seconds = round(time.perf_counter() - self._started, 3)
        line: dict[str, Any] = {
            "iteration": iteration,
            **means,
            "gaussians": gaussians,
            "seconds": seconds,
            **self._density,
        }
        if len(self._terms) > 1:
            line["terms"] = {name: round(value / count, 8) for name, value in self._terms.items()}
        if (memory := peak_memory_mib()) is not None:
            line["peak_memory_mib"] = memory
        self._write(line)
        self._sums, self._terms, self._density = Counter(), Counter(), Counter()

    def _write(self, line: dict[str, Any]) -> None:
        path = self._folder / LOG
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            error.filename = str(path)  # which it lacks when the disk is full
            raise


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a last line that a killed process left unfinished is left out.

    Raises:
      LogError: a line before the last one is no JSON object of an iteration and figures.
    """
    path = folder / LOG
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    log = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is unfinished or empty
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LogError(f"line {number} of {path} is not JSON: {error}") from error
        if not isinstance(record, dict) or type(record.get("iteration")) is not int or not _figures(record):
            raise LogError(f"line {number} of {path} is no record of a training: it needs an iteration, and numbers")
        log.append(record)
    return log


def _figures(record: dict[str, Any]) -> bool:
    """Whether all values are numbers, or objects of numbers, as terms are."""
    values = [value for entry in record.values() for value in (entry.values() if isinstance(entry, dict) else (entry,))]
    return all(type(value) is float or (type(value) is int and abs(value) < 1 << 63) for value in values)


def truncate_log(folder: Path, iteration: int) -> None:
    """Drop the lines that a run wrote after the checkpoint it is resumed from."""
    kept = [line for line in read_log(folder) if line["iteration"] <= iteration]
    with atomic_write(folder / LOG) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def peak_memory_mib() -> int | None:
    """Most memory the process has held so far, in MiB; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
