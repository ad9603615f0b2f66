"""From run folders and PLY files to what the viewer shows, with the scene if it can still be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ipsm_jax.config import OptimizationConfig
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.ply import read_gaussians_ply
from ipsm_jax.data.scene import Scene
from ipsm_jax.trained import CommandError, SourceOptions, open_trained
from ipsm_jax.training.checkpoint import load_run
from ipsm_jax.viewer.stage import Model, Stage, new_model

_SAME_PLACE = 1e-3  # of the scene's extent, between the cameras of two runs of one scene


class Opened(NamedTuple):
    """What there is to show.

    Attributes:
      stage: one or two models.
      scene: photos and cameras, or None.
      notes: sentences for the person.
    """

    stage: Stage
    scene: Scene | None
    notes: tuple[str, ...]


class _Part(NamedTuple):
    model: Model
    scene: Scene | None
    note: str | None


def check_viser() -> None:
    """Raise CommandError if viser, which `viewer.server` imports, is not installed."""
    try:
        import viser  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "viser":  # something that viser needs
            raise
        raise CommandError('the viewer needs viser, which is not installed: pip install "ipsm_jax[view]"') from error


def open_shown(sources: Sequence[SourceOptions]) -> Opened:
    """Read one run or PLY file, or two to compare.

    A run whose own scene cannot be read any more, and a PLY file without --scene, are shown without cameras and photos.

    Args:
      sources: one or two; unlike other commands, a PLY file needs no scene.

    Raises:
      CommandError, CheckpointError, DataError, ConfigError: as `trained.open_trained`; the Gaussians cannot be read, or
        a scene that was asked for by name.
    """
    names = _names([_path(source) for source in sources])
    parts = [_open(source, name) for source, name in zip(sources, names, strict=True)]
    notes = [part.note for part in parts if part.note is not None]
    scenes = [part.scene for part in parts if part.scene is not None]
    if len(scenes) == 2 and not _same_cameras(scenes[0], scenes[1]):
        notes.append(
            f"{names[0]} and {names[1]} have different cameras, so they may lie in different places: "
            f"both are shown in the coordinates of {names[0]}, with its cameras"
        )
    return Opened(Stage([part.model for part in parts]), scenes[0] if scenes else None, tuple(notes))


def _open(source: SourceOptions, name: str) -> _Part:
    scene: Scene | None = None
    note = iteration = None
    settings = OptimizationConfig()
    background, degree = np.asarray(settings.background), settings.sh_degree
    if source.ply is not None and not source.scene:
        gaussians = read_gaussians_ply(source.ply)
        alive = jnp.ones(gaussians.capacity, bool)
        note = f"{name}: a PLY file does not say which cameras belong to it (--scene does), so only Gaussians are shown"
    else:
        try:
            gaussians, alive, scene, background, degree, iteration, _ = open_trained(source)
        except (DataError, OSError) as error:
            if source.scene or source.run is None:
                raise
            config, state = load_run(source.run, source.iteration)
            gaussians, alive, iteration = state.gaussians, state.alive, int(state.step)
            background, degree = np.asarray(config.optimization.background), config.optimization.sh_degree
            note = f"{name}: its scene cannot be read, so only Gaussians are shown. {_first_line(error)}"
    if not np.asarray(alive).any():
        raise CommandError(f"{_path(source)} holds no Gaussians that are in use: there is nothing to show")
    model = new_model(
        name, gaussians, alive, background=background, sh_degree=degree, backend=source.backend, iteration=iteration
    )
    return _Part(model, scene, note)


def _first_line(error: Exception) -> str:
    """What is wrong, without the advice to who wants to train."""
    return str(error).partition("\n")[0]


def _path(source: SourceOptions) -> Path:
    path = source.ply if source.run is None else source.run
    assert path is not None
    return path


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell two of them apart."""
    whole = [path.absolute().parts for path in paths]
    count = 1
    while len(paths) == 2 and whole[0][-count:] == whole[1][-count:] and count < max(map(len, whole)):
        count += 1
    return ["/".join(parts[-count:]) for parts in whole]


def _same_cameras(first: Scene, second: Scene) -> bool:
    """Whether the photos with the same names were taken from the same places."""
    common = [(i, second.names.index(name)) for i, name in enumerate(first.names) if name in second.names]
    if not common:
        return False
    one, other = (
        scene.centers[list(rows)] for scene, rows in zip((first, second), zip(*common, strict=True), strict=True)
    )
    return bool(np.abs(one - other).max() <= _SAME_PLACE * max(first.extent, second.extent))
