"""The train command: ``python -m ipsm_jax.train --scene demo``.

Loads a scene, trains on its training views, and leaves a run folder: settings, log, checkpoints, point cloud, test
views with their figures, a report and a video.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from ipsm_jax.config import (
    ConfigError,
    TrainConfig,
    check_resumable,
    load_config,
    parse_command_line,
    to_json,
)
from ipsm_jax.data.ply import write_gaussians_ply
from ipsm_jax.data.scene import Scene
from ipsm_jax.evaluate import evaluate_gaussians, print_metrics
from ipsm_jax.rasterizer.native import check_platform, load_library
from ipsm_jax.render import render_video
from ipsm_jax.reporting.diagnostics import pseudo_view_viewer
from ipsm_jax.reporting.files import atomic_write, leftovers, write_json
from ipsm_jax.trained import EXPECTED_ERRORS, limit_note, run_notes
from ipsm_jax.trained import starting_points as read_start
from ipsm_jax.training.checkpoint import FOLDER as CHECKPOINTS
from ipsm_jax.training.checkpoint import describe, list_checkpoints, load_run
from ipsm_jax.training.environment import describe_environment, enable_compilation_cache
from ipsm_jax.training.interrupt import StopRequest
from ipsm_jax.training.lock import locked
from ipsm_jax.training.loop import Interrupted, TrainingError, train
from ipsm_jax.training.prepare_regularization import check_requirements, prepare_regularization
from ipsm_jax.training.progress import ProgressDisplay
from ipsm_jax.training.recorder import Recorder, read_log, truncate_log
from ipsm_jax.training.score import score_test_views
from ipsm_jax.training.setup import first_state, load_scene_from_config, training_views
from ipsm_jax.training.state import TrainState
from ipsm_jax.viewer.opening import check_viser
from ipsm_jax.viewer.training import TrainingView


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 1 training failed, 2 unusable input, 130 stopped on request."""
    try:
        config = parse_command_line(argv)
        enable_compilation_cache()
        run(config)
    except Interrupted as stop:
        print(
            f"stopped after iteration {stop.iteration}, checkpoint saved. To go on: the same command with --resume",
            file=sys.stderr,
        )
        return 130
    except KeyboardInterrupt:
        print(
            "stopped without saving. To go on from the last checkpoint: the same command with --resume", file=sys.stderr
        )
        return 130
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (*EXPECTED_ERRORS, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(config: TrainConfig) -> Path:
    """Train as the settings say and write everything down; returns the run folder.

    Raises:
      ConfigError, DataError, CheckpointError, OSError: unusable input; the message is meant for the person.
      NativeUnavailableError: density control needs the native library, whatever draws.
      TrainingError, Interrupted: as `training.loop.train`; Interrupted also when it was done as the request came.
    """
    console = Console()
    folder = config.folder
    check_device()
    check_folder(config)
    before = progress(folder)
    if config.output.view:
        check_viser()
    resume = config.output.resume and bool(list_checkpoints(folder))
    config = dataclasses.replace(config, output=dataclasses.replace(config.output, resume=False))  # as it is saved
    scene = load_scene_from_config(config)
    _say(console, describe_scene(scene))
    if config.output.eval_every and not scene.test:
        raise ConfigError(f"scene {scene.name} has no test views to measure: leave --eval-every away")
    views = training_views(config, scene)
    check_requirements(config, scene)
    if resume:
        _, state = load_run(folder)
        _say(console, f"resuming {folder} after iteration {int(state.step)}")
        starting_points = read_start(folder) or "starting points unknown: environment.json did not say"
    else:
        # The limit that the start implies becomes a setting like any other: it is saved, and the same when resuming.
        config, state, starting_points = first_state(config, scene)
        _say(console, starting_points)
    # After the starting points, which may be refused, or need the memory that large networks take.
    regularization = prepare_regularization(config, scene, lambda sentence: _say(console, sentence))

    output = config.output
    with contextlib.ExitStack() as until_finished:
        with (
            TrainingView(config, scene, state, host=output.view_host, port=output.view_port)
            if output.view
            else contextlib.nullcontext() as view,
            ProgressDisplay(
                int(state.step), config.optimization.iterations, config.output.log_every, console
            ) as display,
            StopRequest() as stop_requested,
        ):
            until_finished.enter_context(locked(folder))
            if progress(folder) != before:
                raise ConfigError(f"another training has been working in {folder} meanwhile. Choose another --name")
            start_folder(config, scene, state, starting_points)
            recorder = Recorder(
                folder,
                config,
                display,
                lambda now: score_test_views(config.optimization, scene, now),
                None
                if regularization is None
                else pseudo_view_viewer(
                    config.optimization, [scene.names[i] for i in scene.train], views, regularization
                ),
                *([] if view is None else [view.show]),
            )
            if view is not None:
                _say(console, f"to watch: {view.address}")
            state = train(config, views, state, recorder, stop_requested, regularization)
            if view is not None:
                view.show(state, last=True)
        if stop_requested():  # during the last iterations: what follows them takes minutes too
            raise Interrupted(int(state.step))
        finish(config, scene, state, console)
    return folder


def check_device() -> None:
    """Refuse at once where training could not run.

    Raises:
      ConfigError: JAX finds no device of the kind it was told to use.
      NativeUnavailableError: the native library is missing, does not fit, or has no kernels for the device that JAX
        would use.
    """
    try:
        device = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # JAX has an assertion where a plugin is missing
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise ConfigError(
            f"JAX cannot start on what JAX_PLATFORMS={asked} asks for ({str(error) or 'no such device'}). Unset it, or "
            'set JAX_PLATFORMS=cpu; for NVIDIA GPUs JAX needs its plugin: pip install "ipsm_jax[cuda13]" (or [cuda12])'
        ) from error
    check_platform(device, load_library().cuda_architectures)


def check_folder(config: TrainConfig) -> None:
    """Refuse to overwrite a run, or to resume one that is not there, has other settings, or is being trained.

    Raises:
      ConfigError: what is in the way and what to do about it.
    """
    folder = config.folder
    is_run = (folder / "config.json").exists()
    if folder.is_dir():
        with locked(folder):  # to be told at once, and not when all is loaded
            pass
    if config.output.resume and not is_run:
        raise ConfigError(f"there is no run to resume in {folder} (no config.json). Leave --resume away to start one")
    if config.output.resume:
        check_resumable(load_config(folder / "config.json"), config)
    elif is_run:
        raise ConfigError(
            f"{folder} already holds a run, {describe(folder)}. Continue it with --resume, or choose another --name"
        )
    elif folder.exists() and (not folder.is_dir() or set(folder.iterdir()) - set(leftovers(folder))):
        raise ConfigError(f"{folder} exists and is no run of this program. Choose another --name or --out")


def progress(folder: Path) -> tuple[bool, list[int]]:
    """Whether a folder holds a run, and after which iterations it has checkpoints: what another training changes."""
    return (folder / "config.json").exists(), list(list_checkpoints(folder))


def start_folder(config: TrainConfig, scene: Scene, state: TrainState, starting_points: str) -> None:
    """Write what is known before training; cut the log to the iteration that training starts from.

    Unfinished files of a killed process go: nothing else would ever remove them, and a checkpoint is large.
    """
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    for unfinished in (*leftovers(folder), *leftovers(folder / CHECKPOINTS)):
        unfinished.unlink(missing_ok=True)
    with atomic_write(folder / "config.json") as temporary:
        temporary.write_bytes(to_json(config))
    write_json(folder / "environment.json", describe_environment(config.seed) | {"starting_points": starting_points})
    write_json(
        folder / "split.json",
        {"train": [scene.names[i] for i in scene.train], "test": [scene.names[i] for i in scene.test]},
    )
    truncate_log(folder, int(state.step))


def describe_scene(scene: Scene) -> str:
    """What was loaded, and which photos are for training and which for testing, for the person."""
    lines = [f"scene {scene.name}: {len(scene.names)} views of {scene.width}x{scene.height}, from {scene.path}"]
    for kind, indices in (("training", scene.train), ("test", scene.test)):
        lines.append(f"{len(indices)} {kind} views: {' '.join(scene.names[i] for i in indices) or 'none'}")
    return "\n".join([*lines, *scene.notes])


def finish(config: TrainConfig, scene: Scene, state: TrainState, console: Console) -> None:
    """Point cloud, test views, report and video of a finished training; says where they are."""
    folder, background = config.folder, np.asarray(config.optimization.background)
    left_out = write_gaussians_ply(folder / "point_cloud.ply", state.gaussians, state.alive)
    if left_out:
        _say(console, f"{left_out} Gaussians with numbers that are not finite are not in the point cloud")
    if (note := limit_note(folder)) is not None:
        _say(console, note)
    written = {"point cloud": "point_cloud.ply"}
    if config.output.evaluate and scene.test:
        metrics = evaluate_gaussians(
            state.gaussians,
            state.alive,
            scene,
            folder,
            background=background,
            backend=config.optimization.backend,
            history=read_log(folder),
            iteration=int(state.step),
            notes=run_notes(folder),
            progress=True,
        )
        print_metrics(console, metrics)
        written |= {"figures": "metrics.json", "report": "report.html", "test views": "renders"}
    elif config.output.evaluate:
        _say(console, "this scene has no test views: nothing was measured")
    if config.output.video:
        _say(console, f"rendering a video of {config.output.video_frames} frames")
        render_video(
            state.gaussians,
            state.alive,
            scene,
            folder / "video.mp4",
            frames=config.output.video_frames,
            background=background,
            backend=config.optimization.backend,
        )
        written["video"] = "video.mp4"
    for what, name in written.items():
        _say(console, f"{what}: {folder / name}")


def _say(console: Console, sentence: str) -> None:
    """Print as it is: no markup, no colored numbers, no line breaks of its own."""
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
