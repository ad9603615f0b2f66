"""The runs of a grid: every scene with every method and seed, each with all its settings and a hash of them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from ipsm_jax.config import OutputConfig, TrainConfig, parse_command_line, to_json


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
      scene, method: as the grid names them.
      config: all settings, with the run's folder among them.
    """

    scene: str
    method: str
    config: TrainConfig

    @property
    def hash(self) -> str:
        """16 hex digits of what decides about the result: all settings but where data and results lie."""
        return config_hash(self.config)

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return f"{Path(self.scene).name}-{self.method}-seed{self.config.seed}-{self.hash[:6]}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.output.out / self.name


def config_hash(config: TrainConfig) -> str:
    """See `Run.hash`. The scene counts by name, so that a grid can be moved to another machine."""
    data = dataclasses.replace(config.data, scene=Path(config.data.scene).name, data_root=None)
    return hashlib.sha256(to_json(dataclasses.replace(config, data=data, output=OutputConfig()))).hexdigest()[:16]


def shared_settings(config: TrainConfig) -> TrainConfig:
    """What runs must have in common to be trained together: all settings but scene, seed and folders."""
    data = dataclasses.replace(config.data, scene="", data_root=None)
    return dataclasses.replace(config, seed=0, data=data, output=OutputConfig(checkpoint_every=1))


def expand(
    scenes: Sequence[str],
    methods: dict[str, Sequence[str]],
    seeds: Sequence[int],
    options: Sequence[str],
    data_root: Path | None,
    out: Path,
) -> list[Run]:
    """All runs, scene by scene.

    Args:
      scenes: names or folders.
      methods: options of the train command by name.
      seeds: at least one.
      options: of the train command, for every run.
      data_root: folder that holds the scenes, if they are not found without.
      out: folder of the run folders.

    Raises:
      SystemExit, ConfigError: options that the train command does not take.
      ValueError: two runs with the same settings.
    """
    runs = []
    for scene in scenes:
        for method, own in methods.items():
            for seed in seeds:
                arguments = ["--scene", scene, "--seed", str(seed), "--out", str(out), "--no-video", *own, *options]
                config = parse_command_line([*arguments, *(["--data-root", str(data_root)] if data_root else [])])
                run = Run(scene, method, config)
                output = dataclasses.replace(config.output, name=run.name)
                runs.append(dataclasses.replace(run, config=dataclasses.replace(config, output=output)))
    seen: dict[str, Run] = {}
    for run in runs:
        if (other := seen.setdefault(run.hash, run)) is not run:
            raise ValueError(f"{other.name} and {run.name} have the same settings: leave one of the two away")
    return runs
