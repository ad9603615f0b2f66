"""One batch of the study: a method on a scene with several seeds or weights, looked at while it trains."""

from __future__ import annotations

import dataclasses
import functools
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from ipsm_jax.config import TrainConfig
from ipsm_jax.data.scene import Scene
from ipsm_jax.metrics import psnr, ssim
from ipsm_jax.metrics.perceptual import load_lpips, lpips
from ipsm_jax.rasterizer import Rendering, compiled_renderer
from ipsm_jax.reporting.files import to_uint8, write_json, write_png
from ipsm_jax.training.batch import BatchInfo, Given, shared, stack_given, stack_states, state_of
from ipsm_jax.training.batch_loop import train_batch
from ipsm_jax.training.prepare_regularization import prepare_regularization
from ipsm_jax.training.setup import first_state, load_scene_from_config, training_views
from ipsm_jax.training.state import TrainState
from ipsm_jax.training.step import TrainingViews

FIGURES = ("psnr", "ssim", "lpips_vgg", "lpips_vgg_unscaled")
LOOKS = 10
"""How often a training is measured; LPIPS every other time."""


class Start(NamedTuple):
    """What all methods on a scene begin with."""

    scene: Scene
    views: TrainingViews
    states: list[TrainState]  # one per seed
    max_gaussians: int
    points: str


def start_of(config: TrainConfig, seeds: Sequence[int]) -> Start:
    """Load the scene of the settings and make the first states; raises what these raise."""
    scene = load_scene_from_config(config)
    if not scene.test:
        raise SystemExit(f"scene {scene.name} has no test views to measure")
    made = [first_state(dataclasses.replace(config, seed=seed), scene) for seed in seeds]
    limit = made[0][0].density.max_gaussians
    assert limit is not None  # `first_state` fills it in
    return Start(scene, training_views(config, scene), [state for _, state, _ in made], limit, made[0][2])


class Measured(NamedTuple):
    """A run's mean figures over the test views, and the 8-bit pictures of these."""

    figures: dict[str, float | None]
    pictures: dict[str, UInt8[np.ndarray, "h w 3"]]


def measure(scene: Scene, config: TrainConfig, state: TrainState, figures: Sequence[str]) -> Measured:
    """Measure what a state draws of the test views.

    Raises:
      LpipsUnavailableError: LPIPS is wanted and its weights are not installed.
    """
    draw = _renderer(config.optimization.background)
    pictures, values = {}, []
    for index in scene.test:
        picture = to_uint8(draw(state.gaussians, scene.cameras[index], state.alive).color)
        image, photo = jnp.asarray(picture / 255, jnp.float32), jnp.asarray(scene.images[index] / 255, jnp.float32)
        pictures[scene.names[index]] = picture
        values.append([float(_MEASURES[name](image, photo)) for name in figures])
    means = dict(zip(figures, np.mean(values, axis=0).tolist(), strict=True))
    return Measured({name: means.get(name) for name in FIGURES}, pictures)


@functools.cache
def _renderer(background: tuple[float, float, float]) -> Callable[..., Rendering]:
    return compiled_renderer(background=np.asarray(background), sh_degree=3)


def _vgg(image: Any, photo: Any, rescale: bool) -> Any:
    return _lpips(load_lpips("vgg"), image, photo, rescale=rescale)


_lpips = jax.jit(lpips, static_argnames="rescale")
_MEASURES: dict[str, Callable[[Any, Any], Any]] = {
    "psnr": jax.jit(psnr),
    "ssim": jax.jit(ssim),
    "lpips_vgg": functools.partial(_vgg, rescale=True),
    "lpips_vgg_unscaled": functools.partial(_vgg, rescale=False),
}


def train_and_measure(
    config: TrainConfig,
    start: Start,
    states: Sequence[TrainState],
    folder: Path,
    facts: dict[str, Any],
    weights: Float[np.ndarray, "b k"] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a batch, measuring it `LOOKS` times; writes `folder`/result.json and the last pictures of test views.

    Args:
      config: settings of all runs; `seed` and the limit of Gaussians are the start's.
      start: the scene.
      states: first states of the runs.
      folder: one batch, and nothing else.
      facts: what the result says beside its figures.
      weights: of the terms of distillation, a row per run, where they differ from the settings'.
      say: is told how far it is.
    """
    began = time.perf_counter()
    density = dataclasses.replace(config.density, max_gaussians=start.max_gaussians)
    config = dataclasses.replace(config, density=density)
    regularization = prepare_regularization(config, start.scene, say)
    batch = shared(Given(start.views, regularization))
    if regularization is not None and weights is not None:
        rows = jnp.asarray(weights, jnp.float32)
        batch = stack_given(
            [Given(start.views, dataclasses.replace(regularization, distillation_weights=row)) for row in rows]
        )
    iterations, looks, measuring = config.optimization.iterations, [], 0.0
    pictures: list[dict[str, np.ndarray]] = []

    def look(states: TrainState, info: BatchInfo) -> None:
        nonlocal measuring
        before = time.perf_counter()
        # LPIPS takes longest, and its curve needs no more points than this.
        last, half = int(states.step) == iterations, len(looks) % 2 == 1
        wanted = FIGURES if last else FIGURES[: 3 if half else 2]
        runs = [measure(start.scene, config, state_of(states, run), wanted) for run in range(len(info.loss))]
        pictures[:] = [run.pictures for run in runs]
        looks.append(
            {"iteration": int(states.step), "gaussians": info.gaussians.tolist(), "loss": info.loss.tolist()}
            | {name: [run.figures[name] for run in runs] for name in FIGURES}
        )
        seconds = before - began - measuring
        measuring += time.perf_counter() - before
        figures = " ".join(f"{value:.2f}" for value in looks[-1]["psnr"])
        say(f"  {states.step}/{iterations}  PSNR {figures} dB  {seconds:.0f} s, measuring {measuring:.0f} s")

    train_batch(config, batch, stack_states(states), -(-iterations // LOOKS), look)
    for run, views in enumerate(pictures):
        for name, picture in views.items():
            write_png(folder / f"run{run}_{Path(name).stem}.png", picture)
    result = facts | {
        "iterations": iterations,
        "width": start.scene.width,
        "height": start.scene.height,
        "points": start.points,
        "weights": None if weights is None else np.asarray(weights).tolist(),
        "looks": looks,
        "seconds": time.perf_counter() - began - measuring,
        "seconds_measuring": measuring,
        "peak_memory_mib": peak_memory_mib(),
    }
    write_json(folder / "result.json", result)
    return result


def finished(folder: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a batch that is done, or None.

    Raises:
      SystemExit: the folder holds the result of other settings.
    """
    path = folder / "result.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    changed = [f"{name} {found.get(name)} -> {value}" for name, value in facts.items() if found.get(name) != value]
    if changed:
        raise SystemExit(f"{folder} holds a batch with other settings ({'; '.join(changed)}): choose another --out")
    return found


def peak_memory_mib() -> int:
    """Of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)
