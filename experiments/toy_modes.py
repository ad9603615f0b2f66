"""Where score distillation goes when every score is known: a toy in the plane that shows what an inline prior is for.

    python experiments/toy_modes.py                 # writes runs/toy_modes/toy_modes.json and docs/modes.png from it
    python experiments/toy_modes.py --figure-only   # draws again from the JSON

The distribution is a mixture of Gaussians (mixture_prior.py), so plain and inpainting model are exact. The prompt is a
class of which the photographed scene is one mode (the target); others, heavier and wider, are other scenes (failures).
Without prompt there is something else too. The warped photo shows the first coordinate of the target, with an error.
Modes lie far apart compared with noise in one direction, as pictures do: they differ in very many latents.

Points start anywhere and are moved by the gradient of `ipsm_jax.losses.distillation.distillation_loss` and Adam, by
nothing else. Weights, timesteps and guidance scales are the published ones, except where a method's name has another
guidance scale (of both models). Where points end is counted: within 3 standard deviations of the target's mode, of a
failure's, or elsewhere.

There are two worlds. In "excluded", the something else is of a kind that the warped photo rules out too; in "beside" it
agrees with the warped photo, so that only the prompt rules it out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key
from mixture_prior import mixture_prior, picture
from modes_figure import draw_modes

from ipsm_jax.losses.distillation import DistillationOptions, distillation_loss
from ipsm_jax.losses.schedule import GuidanceSchedule
from ipsm_jax.priors.diffusion import DiffusionPrior
from ipsm_jax.reporting.files import write_json

KINDS = ("target", "failure", "failure", "other")
MEANS = ((6.0, 4.0), (-6.0, 3.0), (-1.0, -6.0))
OTHER_MEANS = {"excluded": (-7.0, -6.0), "beside": (7.0, -6.0)}
DEVIATIONS = ((0.7, 0.7), (1.2, 1.0), (1.3, 0.8), (1.0, 1.0))
WEIGHTS = (0.2, 0.5, 0.3, 0.0)
NEGATIVE_WEIGHTS = (0.1, 0.25, 0.15, 0.5)
WARP_ERROR = 0.3
START_DEVIATION = 5.0
NEAR = 3.0  # standard deviations of a mode that count as being there
RATE = 0.02  # of Adam, in latents
SAVED = 40  # trajectories of the first seed that go into the JSON, for the figure
EVERY = 15  # and steps between their points


def _same_guidance(options: DistillationOptions, scale: float) -> DistillationOptions:
    return dataclasses.replace(options, guidance_scale=scale, inpaint_guidance_scale=scale)


SDS = DistillationOptions(("sds",))
PUBLISHED = DistillationOptions(("g1", "g2"))
PAPER = dataclasses.replace(PUBLISHED, g2_sign="paper")
METHODS: dict[str, DistillationOptions] = {
    "SDS, guidance 1": _same_guidance(SDS, 1.0),
    "SDS, guidance 7.5": SDS,
    "SDS, guidance 100": _same_guidance(SDS, 100.0),
    "IPSM G1": DistillationOptions(("g1",)),
    "IPSM G1 + G2, published sign": PUBLISHED,
    "IPSM G1 + G2, paper's sign": PAPER,
    "IPSM G1 + G2, published sign, guidance 1": _same_guidance(PUBLISHED, 1.0),
    "IPSM G1 + G2, paper's sign, guidance 1": _same_guidance(PAPER, 1.0),
}
DRAWN = tuple(METHODS)[:6]


class Ends(NamedTuple):
    """Shares of trajectories by where they end, and their mean distance to the target in latents."""

    target: float
    failure: float
    elsewhere: float
    distance: float


def toy_prior(world: str) -> DiffusionPrior:
    covariances = [np.diag(np.square(deviation)).tolist() for deviation in DEVIATIONS]
    return mixture_prior((*MEANS, OTHER_MEANS[world]), covariances, WEIGHTS, NEGATIVE_WEIGHTS, WARP_ERROR)


def scheduled(options: DistillationOptions, steps: int) -> DistillationOptions:
    """The published schedule in `steps` iterations: weights rise over a fifteenth of them."""
    return dataclasses.replace(options, schedule=GuidanceSchedule(0, steps + 1, max(steps // 15, 1)))


@partial(jax.jit, static_argnames=("options", "steps"))
def trajectories(
    key: Key[Array, ""],
    options: DistillationOptions,
    prior: DiffusionPrior,
    starts: Float[Array, "n 2"],
    seen: Float[Array, " n"],
    steps: int,
) -> Float[Array, "n steps 2"]:
    """Points after each step of Adam on the loss, every point by itself.

    Args:
      key: for timesteps and noise.
      options: the terms; their schedule should be in `steps` iterations (`scheduled`).
      prior: the two models.
      starts: (n, 2) where points start.
      seen: (n,) the first coordinate as the warped photo shows it.
      steps: number of steps.
    """
    known = jnp.array([[True, False]])
    optimizer = optax.adam(RATE)

    def loss(point: Array, key: Array, iteration: Array, seen: Array) -> Array:
        warped = picture(jnp.stack([seen, jnp.zeros(())]))
        return distillation_loss(key, options, prior, picture(point), warped, known, iteration)[0]

    def one(key: Array, start: Array, seen: Array) -> Array:
        def step(carry: tuple[Array, Any], iteration: Int[Array, ""]) -> tuple[tuple[Array, Any], Array]:
            point, state = carry
            gradient = jax.grad(loss)(point, jax.random.fold_in(key, iteration), iteration, seen)
            updates, state = optimizer.update(gradient, state)
            point = point + updates
            return (point, state), point

        return jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(1, steps + 1))[1]

    return jax.vmap(one)(jax.random.split(key, len(starts)), starts, seen)


def count_ends(points: Float[np.ndarray, "n 2"]) -> Ends:
    """Where n points are. The modes of the class are too far apart for a point to be at two of them."""
    modes, deviations = np.asarray(MEANS), np.asarray(DEVIATIONS[: len(MEANS)])
    near = np.linalg.norm((np.asarray(points)[:, None] - modes) / deviations, axis=-1) <= NEAR
    at = {kind: near[:, [k == kind for k in KINDS[: len(MEANS)]]].any(1) for kind in ("target", "failure")}
    elsewhere = ~(at["target"] | at["failure"])
    distance = np.linalg.norm(points - modes[0], axis=-1)
    return Ends(*(float(np.mean(x)) for x in (at["target"], at["failure"], elsewhere, distance)))


def draw_starts(key: Key[Array, ""], count: int) -> tuple[Float[Array, "n 2"], Float[Array, " n"]]:
    """Points to start from, anywhere, and what the warped photo shows of the target."""
    start_key, seen_key = jax.random.split(key)
    starts = START_DEVIATION * jax.random.normal(start_key, (count, 2))
    return starts, MEANS[0][0] + WARP_ERROR * jax.random.normal(seen_key, (count,))


def run_method(world: str, method: str, points: int, steps: int, seeds: int) -> dict[str, Any]:
    """What a method does in a world, as it goes into the JSON: ends of each seed, and some paths of the first."""
    prior, options = toy_prior(world), scheduled(METHODS[method], steps)
    ends, paths = [], []
    for seed in range(seeds):
        start_key, key = jax.random.split(jax.random.key(seed))
        starts, seen = draw_starts(start_key, points)
        moved = np.asarray(trajectories(key, options, prior, starts, seen, steps))
        ends.append(count_ends(moved[:, -1])._asdict())
        if seed == 0 and method in DRAWN:
            every = np.concatenate(
                [starts[:SAVED, None], moved[:SAVED, EVERY - 1 :: EVERY], moved[:SAVED, -1:]], axis=1
            )
            paths = np.round(every.astype(np.float64), 2).tolist()
    return {"world": world, "method": method, "seeds": ends, "paths": paths}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: mean ± std over seeds of where points end."""
    lines = ["| world | method | target | failure | elsewhere | distance to the target |", "|---|---|---|---|---|---|"]
    for result in results:
        cells = [result["world"], result["method"]]
        for name in ("target", "failure", "elsewhere"):
            shares = [100 * ends[name] for ends in result["seeds"]]
            cells.append(f"{np.mean(shares):.0f} ± {_deviation(shares):.0f} %")
        distances = [ends["distance"] for ends in result["seeds"]]
        cells.append(f"{np.mean(distances):.1f} ± {_deviation(distances):.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200, help="trajectories of each seed")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/toy_modes"))
    parser.add_argument("--figure", type=Path, default=Path("docs/modes.png"))
    parser.add_argument("--figure-only", action="store_true", help="draw what <out>/toy_modes.json holds")
    args = parser.parse_args()
    path = args.out / "toy_modes.json"
    if not args.figure_only:
        results = []
        for world in OTHER_MEANS:
            for method in METHODS:
                results.append(run_method(world, method, args.points, args.steps, args.seeds))
                print(f"{world}: {method} is done", flush=True)
        setting = {name: getattr(args, name) for name in ("points", "steps", "seeds")}
        mixture = {"kinds": KINDS, "means": MEANS, "other_means": OTHER_MEANS, "deviations": DEVIATIONS}
        setting |= mixture | {"weights": WEIGHTS, "negative_weights": NEGATIVE_WEIGHTS, "warp_error": WARP_ERROR}
        write_json(path, {"setting": setting, "results": results})
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: run without --figure-only first")
    saved = json.loads(path.read_text())
    draw_modes(args.figure, saved["setting"], [r for r in saved["results"] if r["world"] == "excluded" and r["paths"]])
    print(table(saved["results"]), f"figure: {args.figure}", sep="\n\n")


if __name__ == "__main__":
    main()
