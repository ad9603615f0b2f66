"""One batch of the study: a method on a scene with several seeds or weights, looked at while it trains."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from bars import iterations_bar
from jaxtyping import Float, UInt8
from rich.console import Console

from ipsm_jax.config import ConfigError, TrainConfig
from ipsm_jax.data.scene import Scene
from ipsm_jax.metrics import psnr, ssim
from ipsm_jax.metrics.perceptual import check_size, load_lpips, lpips
from ipsm_jax.rasterizer import Rendering, compiled_renderer
from ipsm_jax.reporting.files import leftovers, to_uint8, write_json, write_png
from ipsm_jax.training.batch import BatchInfo, Given, shared, stack_given, stack_states, state_of
from ipsm_jax.training.batch_loop import train_batch
from ipsm_jax.training.prepare_regularization import check_requirements, prepare_regularization
from ipsm_jax.training.recorder import peak_memory_mib
from ipsm_jax.training.setup import first_state, load_scene_from_config, training_views
from ipsm_jax.training.state import TrainState
from ipsm_jax.training.step import TrainingViews
from study.progress import NAME as PROGRESS
from study.progress import load_progress, load_states, save_progress

FIGURES = ("psnr", "ssim", "lpips_vgg", "lpips_vgg_unscaled")
LOOKS = 10
"""How often a training is measured, and saved; LPIPS every other time."""
SHOWN_EVERY = 10
"""Iterations between two movements of the bar, at most."""


class Start(NamedTuple):
    """What all methods on a scene begin with."""

    scene: Scene
    views: TrainingViews
    states: list[TrainState]  # one per seed
    max_gaussians: int
    points: str


def load_checked(configs: Sequence[TrainConfig]) -> Scene:
    """The scene of settings that differ in guidance alone, if nothing that they need to train and measure is missing.

    Raises:
      ConfigError: it has no views but those that train, or too small ones for LPIPS; or as `check_requirements`.
      LpipsUnavailableError, LpipsWeightsError: the weights of LPIPS cannot be used.
      DataError, PriorError: as `load_scene` and `check_requirements`.
    """
    load_lpips("vgg")
    scene = load_scene_from_config(configs[0])
    if not set(scene.test) - set(scene.train):
        raise ConfigError(f"scene {scene.name}: no views are left to measure: all {len(scene.train)} photos train")
    try:
        check_size("vgg", scene.height, scene.width)
    except ValueError as error:
        raise ConfigError(f"scene {scene.name}: {error}; give it a smaller number after the colon") from error
    for config in configs:
        check_requirements(config, scene)
    return scene


def start_of(config: TrainConfig, scene: Scene, seeds: Sequence[int]) -> Start:
    """Make the first states; raises what `training_views` and `first_state` raise."""
    views = training_views(config, scene)
    made = [first_state(dataclasses.replace(config, seed=seed), scene) for seed in seeds]
    limit = made[0][0].density.max_gaussians
    assert limit is not None  # `first_state` fills it in
    return Start(scene, views, [state for _, state, _ in made], limit, made[0][2])


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

    One that was stopped goes on from where it was last measured, with the same results.

    Args:
      config: settings of all runs; `seed` and the limit of Gaussians are the start's.
      start: the scene.
      states: first states of the runs.
      folder: one batch, and nothing else.
      facts: what the result says beside its figures.
      weights: of the terms of distillation, a row per run, where they differ from the settings'.
      say: is told how far it is.
    """
    iterations = config.optimization.iterations
    facts = facts | {"iterations": iterations, "weights": None if weights is None else np.asarray(weights).tolist()}
    for unfinished in leftovers(folder):  # of a process that was killed; nothing else would ever remove them
        unfinished.unlink(missing_ok=True)
    began, measuring = time.perf_counter(), 0.0  # as if it had not been stopped
    looks, stacked = [], stack_states(states)
    if (saved := _same(folder, load_progress(folder), facts)) is not None:
        looks, stacked, measuring = saved["looks"], load_states(folder, stacked), saved["seconds_measuring"]
        began -= saved["seconds"] + measuring
        say(f"  going on after iteration {stacked.step}")

    density = dataclasses.replace(config.density, max_gaussians=start.max_gaussians)
    config = dataclasses.replace(config, density=density)
    regularization = prepare_regularization(config, start.scene, say)
    batch = shared(Given(start.views, regularization))
    if regularization is not None and weights is not None:
        rows = jnp.asarray(weights, jnp.float32)
        batch = stack_given(
            [Given(start.views, dataclasses.replace(regularization, distillation_weights=row)) for row in rows]
        )
    between = -(-iterations // LOOKS)  # two looks
    done, count, loss = int(stacked.step), 0, np.zeros(len(states))  # the latter two since the last look

    def progress() -> dict[str, Any]:
        seconds = time.perf_counter() - began - measuring
        return facts | {"looks": looks, "seconds": seconds, "seconds_measuring": measuring}

    def look(states: TrainState, info: BatchInfo) -> None:
        nonlocal measuring
        before = time.perf_counter()
        # LPIPS takes longest, and its curve needs no more points than this.
        last, half = int(states.step) == iterations, len(looks) % 2 == 1
        wanted = FIGURES if last else FIGURES[: 3 if half else 2]
        runs = [measure(start.scene, config, state_of(states, run), wanted) for run in range(len(info.loss))]
        looks.append(
            {"iteration": int(states.step), "gaussians": info.density.alive.tolist(), "loss": (loss / count).tolist()}
            | {name: [run.figures[name] for run in runs] for name in FIGURES}
        )
        if last:
            for number, run in enumerate(runs):
                for name, picture in run.pictures.items():
                    write_png(folder / f"run{number}_{Path(name).stem}.png", picture)
        seconds = before - began - measuring
        measuring += time.perf_counter() - before
        figures = " ".join(f"{value:.2f}" for value in looks[-1]["psnr"])
        say(f"  {states.step}/{iterations}  PSNR {figures} dB  {seconds:.0f} s, measuring {measuring:.0f} s")

    def observe(states: TrainState, info: BatchInfo) -> None:
        nonlocal done, count, loss
        new, done = int(states.step) - done, int(states.step)
        count, loss = count + new, loss + new * np.asarray(info.loss, np.float64)
        bar.update(task, completed=done, figures=f"training views {np.mean(info.psnr):.2f} dB")
        if done % between == 0 or done == iterations:
            look(states, info)
            count, loss = 0, np.zeros_like(loss)

    def save(states: TrainState, _: BatchInfo) -> None:
        if int(states.step) % between == 0 and int(states.step) < iterations:
            save_progress(folder, states, progress())

    every = max(number for number in range(1, SHOWN_EVERY + 1) if between % number == 0)
    with iterations_bar(Console()) as bar:
        task = bar.add_task("", total=iterations, completed=done, figures="compiling")
        train_batch(config, batch, stacked, every, observe, save)
    result = progress() | {
        "width": start.scene.width,
        "height": start.scene.height,
        "points": start.points,
        "peak_memory_mib": peak_memory_mib(),
    }
    write_json(folder / "result.json", result)
    (folder / PROGRESS).unlink(missing_ok=True)
    return result


def finished(folder: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a batch that is done, or None.

    Raises:
      ConfigError: the folder holds the result of other settings, or a batch with others that was stopped.
    """
    path = folder / "result.json"
    if not path.exists():
        _same(folder, load_progress(folder), facts)
        return None
    return _same(folder, json.loads(path.read_text()), facts)


def _same(folder: Path, found: dict[str, Any] | None, facts: dict[str, Any]) -> dict[str, Any] | None:
    """What was found, if it is of these settings."""
    if found is None:
        return None
    changed = [f"{name} {found.get(name)} -> {value}" for name, value in facts.items() if found.get(name) != value]
    if changed:
        raise ConfigError(f"{folder} holds a batch with other settings ({'; '.join(changed)}): choose another --out")
    return found
