"""What the commands `evaluate` and `render` start from: Gaussians of a run or of a PLY file, with their scene."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Bool

from ipsm_jax.config import ConfigError, OptimizationConfig
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.load import load_scene
from ipsm_jax.data.ply import read_gaussians_ply
from ipsm_jax.data.scene import Scene
from ipsm_jax.errors import InputError
from ipsm_jax.metrics import LpipsUnavailableError, LpipsWeightsError
from ipsm_jax.priors.config import PriorError
from ipsm_jax.rasterizer import NativeUnavailableError
from ipsm_jax.rasterizer.render import Backend
from ipsm_jax.reporting.video import VideoError
from ipsm_jax.scene.gaussians import Gaussians
from ipsm_jax.stereo import StereoError
from ipsm_jax.training.checkpoint import CheckpointError, load_run
from ipsm_jax.training.recorder import LogError, read_log
from ipsm_jax.training.setup import load_scene_from_config


class CommandError(InputError):
    """What was asked for cannot be done; the message says why and what to do."""


# What a command answers with one sentence; anything else is a defect and deserves its traceback.
EXPECTED_ERRORS = (
    CommandError, DataError, ConfigError, CheckpointError, LogError, LpipsUnavailableError, LpipsWeightsError,
    NativeUnavailableError, PriorError, StereoError, VideoError, OSError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """Which Gaussians, and the scene they belong to."""

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_FOLDER")] = None
    """Folder of a training run."""
    iteration: int | None = None
    """Take the checkpoint after this iteration instead of the last one."""
    ply: Path | None = None
    """Take the Gaussians from this PLY file instead of a run; needs --scene."""
    scene: str = ""
    """Scene: 'demo', a name under --data-root, or a folder. Default: the run's own."""
    data_root: Path | None = None
    """Folder that holds scenes; default: the run's own, then $IPSM_JAX_DATA, then ./data."""
    views: int | None = 3
    """With --ply: number of training views; None = all that are not test views."""
    downscale: int = 8
    """With --ply: factor by which the photos are reduced."""
    view_split: str = "auto"
    """With --ply: rule that divides the photos into training and test views."""
    backend: Backend = "auto"
    """Rasterizer: native code, or the slow reference in plain JAX."""


class Trained(NamedTuple):
    """Gaussians and what is needed to look at them.

    Attributes:
      gaussians, alive: n slots and which are in use.
      scene: photos and cameras.
      background: (3,) color behind everything.
      sh_degree: harmonics in use.
      iteration: number of training iterations, or None for a PLY file.
      folder: the run's folder, or the PLY file's.
    """

    gaussians: Gaussians
    alive: Bool[Array, " n"]
    scene: Scene
    background: np.ndarray
    sh_degree: int
    iteration: int | None
    folder: Path


def open_trained(options: SourceOptions) -> Trained:
    """Read what the options name.

    Raises:
      CommandError: if they do not name exactly one source, or the run folder does not exist.
      DataError, ConfigError, CheckpointError: if what they name cannot be read.
    """
    if options.ply is not None:
        return _open_ply(options)
    if options.run is None:
        raise CommandError("say what to look at: the folder of a run, or --ply FILE with --scene SCENE")
    if not options.run.is_dir():
        hint = " That is a file; for a PLY file use --ply." if options.run.is_file() else ""
        raise CommandError(f"there is no run folder {options.run}.{hint}")
    config, state = load_run(options.run, options.iteration)
    data = dataclasses.replace(
        config.data,
        scene=options.scene or config.data.scene,
        data_root=options.data_root or config.data.data_root,
    )
    scene = load_scene_from_config(dataclasses.replace(config, data=data))
    settings = config.optimization
    return Trained(
        gaussians=state.gaussians,
        alive=state.alive,
        scene=scene,
        background=np.asarray(settings.background, np.float32),
        sh_degree=settings.sh_degree,
        iteration=int(state.step),
        folder=options.run,
    )


def _open_ply(options: SourceOptions) -> Trained:
    assert options.ply is not None
    if options.run is not None:
        raise CommandError(f"give either the run folder {options.run} or --ply {options.ply}, not both")
    if not options.scene:
        raise CommandError(f"--ply {options.ply} needs --scene: a PLY file does not say which cameras look at it")
    gaussians = read_gaussians_ply(options.ply)
    scene = load_scene(
        options.scene,
        data_root=options.data_root,
        views=options.views,
        downscale=options.downscale,
        split=options.view_split,
    )
    return Trained(
        gaussians=gaussians,
        alive=jnp.ones(gaussians.capacity, bool),
        scene=scene,
        background=np.asarray(OptimizationConfig().background, np.float32),
        sh_degree=3,
        iteration=None,
        folder=options.ply.parent,
    )


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Records of a run's log.jsonl; none if there is no such file.

    Raises:
      CommandError: if the log is damaged.
    """
    try:
        return read_log(folder)
    except LogError as error:
        raise CommandError(str(error)) from error


def run_notes(folder: Path) -> list[str]:
    """Sentences for the report on a run: where it started from, and that its number of Gaussians was limited.

    Raises:
      CommandError: if environment.json, config.json or log.jsonl is damaged.
    """
    return [note for note in (starting_points(folder), limit_note(folder)) if note]


def starting_points(folder: Path) -> str | None:
    """The sentence about a run's starting points in its environment.json, or None if there is none.

    Raises:
      CommandError: if the file is damaged.
    """
    path = folder / "environment.json"
    found = (read_optional_json(path) or {}).get("starting_points")
    if found is not None and not isinstance(found, str):
        raise CommandError(f"{path}: starting_points should be a sentence, found {found!r:.60}")
    return found


def limit_note(folder: Path) -> str | None:
    """What the limit of a run's Gaussians has kept out, or None if that is nothing; raises as `run_notes`."""
    refused = sum(record.get("refused", 0) for record in read_history(folder))
    if not refused:
        return None
    density = (read_optional_json(folder / "config.json") or {}).get("density")
    limit = density.get("max_gaussians") if isinstance(density, dict) else None
    return (
        f"The number of Gaussians was limited to {limit} (--max-gaussians): in all, density control asked "
        f"for {refused} more than there was room for."
    )


def read_optional_json(path: Path) -> Mapping[str, Any] | None:
    """The JSON object in a file, or None if there is no such file.

    Raises:
      CommandError: if it holds something else.
    """
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CommandError(f"{path} holds {type(value).__name__} instead of a JSON object")
    return value
