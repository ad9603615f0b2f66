"""Where the time of a training iteration goes: rendering, loss, optimizer, statistics, density control, host.

    python experiments/profile_step.py [--scene demo] [--data-root data] [--gaussians 50000] [--run RUN_FOLDER]
        [--rounds 5] [--steps 20] [--against CHECKOUT] [--json out.json]

Starts from the newest checkpoint of --run, or from a short training on the scene (--warmup iterations); --gaussians
then takes so many of its Gaussians, or adds copies near to them. In each round --steps iterations run under JAX's
profiler, whose operations are assigned by the scopes of `training.step`; then as many through the training loop,
without profiler. Prints one JSON line, medians over the rounds in milliseconds per iteration, and its table. With
--against, the built checkout of another version runs the same rounds in turns, so that ratios survive a noisy machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ipsm_jax.config import TrainConfig, preset_settings
from ipsm_jax.data.scene import Scene
from ipsm_jax.training import loop
from ipsm_jax.training.checkpoint import load_run
from ipsm_jax.training.density import densify
from ipsm_jax.training.setup import first_state, load_scene_from_config, training_views
from ipsm_jax.training.state import TrainState
from ipsm_jax.training.step import TrainingViews, run_steps

OPERATION = re.compile(r"%(?P<name>\S+) = .*?(?P<what>[\w-]+)\(.*op_name=\"(?P<scope>[^\"]*)\"")
ENCLOSING = ("while", "call", "conditional")  # their operations are listed on their own
PHASES = {  # by what occurs in the name of an operation's scope, the first that fits
    "render backward": ("transpose(jvp(render))", "transpose(render)"),
    "render forward": ("jvp(render)", "/render/"),
    "loss": ("(loss)", "/loss/"),
    "binocular": ("/binocular/",),
    "pseudo view": ("/pseudo_view/",),
    "optimizer": ("/optimizer/",),
    "statistics": ("/statistics/",),
}


def phases_of(program: str) -> dict[str, str]:
    """Phase of each operation of a compiled program, by the operation's name."""
    found = {}
    for line in program.splitlines():
        if (match := OPERATION.search(line)) and match["what"] not in ENCLOSING:
            fits = (phase for phase, marks in PHASES.items() if any(mark in match["scope"] for mark in marks))
            found[match["name"]] = next(fits, "other")
    return found


def with_count(state: TrainState, count: int) -> TrainState:
    """So many of the Gaussians that are alive, all slots in use; more than there are become copies beside them."""
    rng = np.random.default_rng(0)
    alive = np.flatnonzero(state.alive)
    extra = max(0, count - len(alive))
    chosen = np.concatenate([rng.permutation(alive)[:count], rng.choice(alive, extra)])
    shift = np.exp(np.asarray(state.gaussians.log_scales)[chosen]) * rng.standard_normal((count, 3))
    shift[: count - extra] = 0

    def rows(tree: Any) -> Any:
        return jax.tree.map(lambda a: a[chosen] if jnp.ndim(a) else a, tree)

    gaussians = rows(state.gaussians)
    return state._replace(
        gaussians=gaussians._replace(means=gaussians.means + jnp.asarray(shift, jnp.float32)),
        alive=jnp.ones(count, bool),
        moments=rows(state.moments),
        statistics=rows(state.statistics),
    )


def starting_point(args: argparse.Namespace) -> tuple[TrainConfig, Scene, TrainingViews, TrainState]:
    """Settings, scene and a state in the middle of a training."""
    if args.run:
        config, state = load_run(args.run)
    else:
        config, state = preset_settings("", args.scene), None
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, scene=args.scene))
    if args.data_root:
        data = dataclasses.replace(config.data, scene=Path(config.data.scene).name, data_root=args.data_root)
        config = dataclasses.replace(config, data=data)
    scene = load_scene_from_config(config)
    views = training_views(config, scene)
    if state is None:
        config, state, _ = first_state(config, scene)
        warm_up = dataclasses.replace(config.optimization, iterations=args.warmup)
        state = loop.train(dataclasses.replace(config, optimization=warm_up), views, state, loop.Unobserved())
    return config, scene, views, state if args.gaussians is None else with_count(state, args.gaussians)


class Profile:
    """What is measured of the iterations that follow one state."""

    def __init__(self, args: argparse.Namespace) -> None:
        config, scene, self.views, self.state = starting_point(args)
        self.steps = args.steps
        self.facts = {
            "scene": scene.name,
            "width": scene.width,
            "height": scene.height,
            "gaussians": int(self.state.alive.sum()),
            "slots": self.state.gaussians.capacity,
            "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        }
        self.density = config.density
        # Density control is timed on its own.
        optimization = dataclasses.replace(config.optimization, iterations=int(self.state.step) + self.steps)
        quiet = dataclasses.replace(config.density, density_until=0, opacity_reset_at=0)
        self.config = dataclasses.replace(config, optimization=optimization, density=quiet)
        program = jax.jit(run_steps, static_argnums=0, donate_argnums=2)
        self.program = program.lower(optimization, self.views, self.state, self.steps).compile()
        self.phases = phases_of(self.program.as_text() or "")
        self.in_program = 0.0
        run: Callable[..., Any] = loop._run_steps

        def timed(*operands: Any) -> Any:
            start = time.perf_counter()
            result = jax.block_until_ready(run(*operands))
            self.in_program += time.perf_counter() - start
            return result

        loop._run_steps = timed  # type: ignore[assignment]  # what the loop takes beyond this is the host's
        self.round()  # compiles the rest

    def round(self) -> dict[str, float]:
        """Milliseconds per iteration of each phase."""
        with tempfile.TemporaryDirectory() as folder:
            state = jax.block_until_ready(jax.tree.map(jnp.copy, self.state))
            with jax.profiler.trace(folder):
                state, _ = jax.block_until_ready(self.program(self.views, state, self.steps))
            times = self._times(Path(folder))
        start = time.perf_counter()
        jax.block_until_ready(densify(self.density, self.views.extent, state))
        times["density control"] = (time.perf_counter() - start) * 1e3 / self.density.density_interval
        state = jax.block_until_ready(jax.tree.map(jnp.copy, self.state))
        self.in_program, start = 0.0, time.perf_counter()
        loop.train(self.config, self.views, state, loop.Unobserved())
        whole = time.perf_counter() - start
        times["host"] = (whole - self.in_program) * 1e3 / self.steps
        times["iteration"] = whole * 1e3 / self.steps + times["density control"]
        return times

    def _times(self, folder: Path) -> dict[str, float]:
        times = dict.fromkeys([*PHASES, "other"], 0.0)
        trace = next(folder.rglob("*.xplane.pb"))
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
            for line in plane.lines:
                for event in line.events:
                    if (phase := self.phases.get(event.name)) is not None:
                        times[phase] += event.duration_ns / 1e6 / self.steps
        return times


class Worker:
    """A process that profiles the package of one checkout, a round at a time."""

    def __init__(self, checkout: Path, arguments: list[str]) -> None:
        if not (checkout / "ipsm_jax").is_dir():
            raise SystemExit(f"{checkout} is no checkout: it has no folder ipsm_jax")
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", *arguments],
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = self._answer()

    def round(self) -> dict[str, float]:
        print("go", file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("profiling stopped; what was wrong is written above")
        return json.loads(line)


def work(args: argparse.Namespace) -> None:
    """The worker's side: facts first, then one line of figures for each line that arrives."""
    profile = Profile(args)
    print(json.dumps(profile.facts), flush=True)
    for _ in sys.stdin:
        print(json.dumps(profile.round()), flush=True)


def table(result: dict[str, Any]) -> str:
    """One row per phase; shares are of the sum of the phases."""
    versions = [name for name in ("here", "against") if name in result]
    heads = [head for name in versions for head in (f"{name}, ms", "share")]
    lines = ["| phase | " + " | ".join([*heads, *(["ratio"] if "ratio" in result else [])]) + " |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    for phase in result["here"]:
        cells = [phase]
        for name in versions:
            total = sum(value for key, value in result[name].items() if key != "iteration")
            cells += [
                f"{result[name][phase]:.2f}",
                f"{result[name][phase] / total:.1%}" if phase != "iteration" else "",
            ]
        if "ratio" in result:
            cells.append(f"{result['ratio'][phase]:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", default="demo")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--run", type=Path, help="run folder with a checkpoint to start from")
    parser.add_argument("--gaussians", type=int)
    parser.add_argument("--warmup", type=int, default=700)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    checkouts = {"here": Path(__file__).resolve().parents[1]}
    if args.against:
        checkouts["against"] = args.against.resolve()
    workers = {name: Worker(path, sys.argv[1:]) for name, path in checkouts.items()}
    rounds = [{name: worker.round() for name, worker in workers.items()} for _ in range(args.rounds)]
    for worker in workers.values():
        worker.close()
    result: dict[str, Any] = {**workers["here"].facts, "rounds": args.rounds, "steps": args.steps}
    for name in workers:
        result[name] = {p: round(float(np.median([r[name][p] for r in rounds])), 3) for p in rounds[0][name]}
    if args.against:  # of each round, since its two halves saw the same load
        result["ratio"] = {
            p: round(
                float(np.median([r["here"][p] / r["against"][p] if r["against"][p] else np.nan for r in rounds])), 3
            )
            for p in rounds[0]["here"]
        }
    print(json.dumps(result), flush=True)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
