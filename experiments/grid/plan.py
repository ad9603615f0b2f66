"""The runs of a grid: every scene, method and seed, each with all its settings and a hash of them."""

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from grid.identity import config_hash
from ipsm_jax.config import ConfigError, OutputConfig, TrainConfig, parse_command_line


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
      scene, method: as the grid names them.
      config: all settings, with the run's folder among them.
      hash: `config_hash` of the settings, where the grid was started.
    """

    scene: str
    method: str
    config: TrainConfig
    hash: str

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return self.config.output.name

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.folder

    def placed(self, name: str) -> Run:
        """The same run in a folder of this name."""
        output = dataclasses.replace(self.config.output, name=name)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, output=output))

    def check_here(self) -> None:
        """Refuse to train it with another prior than the one of the machine where the grid was started.

        Raises:
          ConfigError: it would be another run here.
          PriorError: the files of its prior are not complete here.
        """
        if config_hash(self.config) != self.hash:
            raise ConfigError(
                f"{self.name} would be another run on {socket.gethostname()} than where the grid was started: install "
                "the same version of ipsm_jax and the same weights of the priors on all nodes"
            )


def shared_settings(config: TrainConfig) -> TrainConfig:
    """What runs must have in common to be trained together: all settings but scene, seed and folders."""
    data = dataclasses.replace(config.data, scene="", data_root=None)
    return dataclasses.replace(config, seed=0, data=data, output=OutputConfig(checkpoint_every=1))


def expand(
    scenes: Sequence[str],
    methods: Mapping[str, Sequence[str]],
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
      SystemExit, ConfigError: options that the train command does not take, or that a grid has no use for.
      PriorError: the files of a prior are not complete.
      ValueError: two runs with the same settings.
    """
    runs = []
    for method, own in methods.items():
        check_options(method, own, options)
    for scene in scenes:
        for method, own in methods.items():
            for seed in seeds:
                arguments = ["--scene", scene, "--seed", str(seed), "--out", str(out), "--no-video", *own, *options]
                config = parse_command_line([*arguments, *(["--data-root", str(data_root)] if data_root else [])])
                check_use(config)
                known_by = config_hash(config)
                name = f"{Path(scene).name}-{method}-seed{seed}-{known_by[:6]}"
                runs.append(Run(scene, method, config, known_by).placed(re.sub(r"[^\w.+-]+", "-", name)))
    seen: dict[str, Run] = {}
    for run in runs:
        if (other := seen.setdefault(run.hash, run)) is not run:
            raise ValueError(f"{other.name} and {run.name} have the same settings: leave one of the two away")
    return runs


def check_options(method: str, own: Sequence[str], options: Sequence[str]) -> None:
    """Refuse options by which a run would not be what the ledger says it is.

    Args:
      method: its name.
      own: the method's options.
      options: those for every run.

    Raises:
      ConfigError: one that the grid gives to each run, or one for every run that changes what the method is.
    """
    named, general = _flags(own), _flags(options)
    for flag, instead in {"scene": "scenes", "seed": "seeds", "out": "out", "data-root": "data-root"}.items():
        if flag in named | general:
            raise ConfigError(
                f"each training of a grid gets its own --{flag}: use --{instead} of run_grid.py, before --"
            )
    if twice := sorted(named & general):
        raise ConfigError(
            f"--{twice[0]} is part of what {method!r} stands for, so it cannot be given to every training after -- too"
        )


def _flags(words: Sequence[str]) -> set[str]:
    """Options without dashes in front, and without the no- of a switch."""
    flags = (word[2:].partition("=")[0].replace("_", "-") for word in words if word.startswith("--"))
    return {flag.removeprefix("no-") for flag in flags}


def check_use(config: TrainConfig) -> None:
    """Refuse options that would do nothing.

    Raises:
      ConfigError: --name, --resume, --view or --eval-every is given.
    """
    output, without = config.output, OutputConfig()
    for name, instead in {
        "name": "runs are named by their settings",
        "resume": "a grid always goes on where it was",
        "view": "`ipsm-jax view RUN --live` shows a run of a grid",
        "eval_every": "the test views are measured at the end",
    }.items():
        if getattr(output, name) != getattr(without, name):
            raise ConfigError(f"a grid has no use for --{name.replace('_', '-')}: {instead}")
