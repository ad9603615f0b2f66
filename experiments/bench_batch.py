"""A batch of seeds in one program against the same seeds one by one: time, and how far they end apart.

    python experiments/bench_batch.py --scene demo:2 --methods base ipsm --seeds 4 --iterations 500

Both train on the same scene from the same starts. Compared are the Gaussians after 99 iterations, before the first
density control, where only rounding can have told them apart, and the test views' PSNR at the end, where that has grown
to another draw of the same distribution. Seconds are of training alone, the first time with compiling. Writes
<out>/batch.json first, then prints a Markdown table.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sds_vs_ipsm import check_writable, parse_scenes
from study.methods import METHODS, Study
from study.trainings import Start, load_checked, measure, start_of

from ipsm_jax.config import ConfigError, TrainConfig
from ipsm_jax.reporting.files import write_json
from ipsm_jax.trained import EXPECTED_ERRORS
from ipsm_jax.training.batch import BatchInfo, Given, shared, stack_states, state_of
from ipsm_jax.training.batch_loop import train_batch
from ipsm_jax.training.loop import Unobserved, train
from ipsm_jax.training.prepare_regularization import prepare_regularization
from ipsm_jax.training.regularization import Regularization
from ipsm_jax.training.state import TrainState

EARLY = 99
"""Iterations after which only rounding may have told them apart; density control follows the next one."""


class Early(Unobserved):
    """Keeps the state of a single run after `EARLY` iterations."""

    def __init__(self) -> None:
        self.early: TrainState | None = None

    def save(self, state: TrainState) -> None:
        """Asked for after every `EARLY` iterations."""
        if int(state.step) == EARLY:
            self.early = jax.tree.map(jnp.copy, state)


def one_by_one(
    config: TrainConfig, start: Start, regularization: Regularization | None
) -> tuple[list[TrainState], list[TrainState], float]:
    """States after `EARLY` and after all iterations of each seed, and seconds."""
    output = dataclasses.replace(config.output, checkpoint_every=EARLY, diagnostics_every=0, eval_every=0)
    config = dataclasses.replace(config, output=output)
    early, last, began = [], [], time.perf_counter()
    for state in start.states:
        observer = Early()
        last.append(train(config, start.views, jax.tree.map(jnp.copy, state), observer, regularization=regularization))
        assert observer.early is not None
        early.append(observer.early)
    jax.block_until_ready(last)
    return early, last, time.perf_counter() - began


def together(
    config: TrainConfig, start: Start, regularization: Regularization | None
) -> tuple[TrainState, TrainState, float]:
    """The same of a batch."""
    early: list[TrainState] = []

    def look(states: TrainState, info: BatchInfo) -> None:
        if int(states.step) == EARLY:
            early.append(states)

    began = time.perf_counter()
    batch = shared(Given(start.views, regularization))
    last = train_batch(config, batch, stack_states(start.states), EARLY, look)
    jax.block_until_ready(last)
    return early[0], last, time.perf_counter() - began


def difference(one: TrainState, other: TrainState) -> float:
    """Relative L2 distance of all fields of the Gaussians in use in both; infinite if these are not the same slots."""
    count = min(one.alive.shape[0], other.alive.shape[0])
    if not np.array_equal(np.flatnonzero(one.alive), np.flatnonzero(other.alive)):
        return float("inf")
    alive = np.asarray(one.alive)[:count]
    fields = zip(one.gaussians, other.gaussians, strict=True)
    pairs = [(np.asarray(a)[:count][alive], np.asarray(b)[:count][alive]) for a, b in fields]
    return float(np.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs) / sum(np.sum(a**2) for a, _ in pairs)))


def main() -> int:
    """Run the command; returns the exit code: 0, or 2 for unusable input."""
    try:
        print(table(compare(args := _arguments()), args.iterations))
    except EXPECTED_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", default="demo:2", help="name:downscale")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["base", "ipsm"], metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--init", default="auto", help="starting points, as in ipsm-jax train")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/batch"))
    return parser.parse_args()


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train both ways, each twice, and measure; writes batch.json after each method.

    Raises:
      one of `EXPECTED_ERRORS`: unusable input; the message is meant for the person.
    """
    if args.iterations <= EARLY:
        raise ConfigError(f"--iterations must be more than {EARLY}, got {args.iterations}")
    if args.seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {args.seeds}")
    check_writable(args.out)
    ((scene, downscale),) = parse_scenes([args.scene]).items()
    study = Study(args.iterations, args.init, args.data_root)
    loaded = load_checked([study.config(scene, downscale, METHODS[method].guidance) for method in args.methods])
    results = []
    for method in args.methods:
        config = study.config(scene, downscale, METHODS[method].guidance)
        start = start_of(config, loaded, range(args.seeds))
        limited = dataclasses.replace(config.density, max_gaussians=start.max_gaussians)
        config = dataclasses.replace(config, density=limited)
        regularization = prepare_regularization(config, start.scene, print)
        seconds: dict[str, list[float]] = {"single": [], "batch": []}
        for _ in range(2):  # the second time everything is compiled
            early, last, spent = one_by_one(config, start, regularization)
            seconds["single"].append(spent)
            early_batch, last_batch, spent = together(config, start, regularization)
            seconds["batch"].append(spent)
        ends = [measure(start.scene, config, state, ("psnr",)).figures["psnr"] for state in last]
        states = [state_of(last_batch, run) for run in range(args.seeds)]
        batch_ends = [measure(start.scene, config, state, ("psnr",)).figures["psnr"] for state in states]
        distances = [difference(one, state_of(early_batch, run)) for run, one in enumerate(early)]
        results.append(
            {"method": method, "seconds": seconds, "psnr": {"single": ends, "batch": batch_ends}, "early": distances}
        )
        write_json(args.out / "batch.json", {"scene": args.scene, "iterations": args.iterations, "results": results})
    return results


def table(results: list[dict[str, Any]], iterations: int) -> str:
    """Markdown, a row per method."""
    lines = [
        f"| method | seeds | one by one, s (first time) | batch, s (first time) | ratio | difference after {EARLY} | "
        f"PSNR after {iterations}, one by one | batch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        single, batch = result["seconds"]["single"], result["seconds"]["batch"]
        ends = [" ".join(f"{value:.2f}" for value in result["psnr"][way]) for way in ("single", "batch")]
        cells = [result["method"], str(len(result["early"])), f"{single[1]:.1f} ({single[0]:.1f})"]
        cells += [
            f"{batch[1]:.1f} ({batch[0]:.1f})",
            f"{batch[1] / single[1]:.2f}",
            f"{max(result['early']):.1e}",
            *ends,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
