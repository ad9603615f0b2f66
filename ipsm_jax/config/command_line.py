"""The command line of `train`, made from the settings' dataclass."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import tyro

from ipsm_jax.config.errors import ConfigError
from ipsm_jax.config.file import load_config
from ipsm_jax.config.presets import preset_settings
from ipsm_jax.config.settings import DataConfig, OutputConfig, TrainConfig


def parse_command_line(arguments: Sequence[str] | None = None) -> TrainConfig:
    """The settings that a command line asks for: preset, then flags.

    With ``--resume`` the settings in the run folder take the preset's place, so that nothing but the name need be
    repeated; `check_resumable` then refuses changes.

    Raises:
      ConfigError: no scene, or a run to resume whose settings cannot be read.
      SystemExit: an unknown flag, a value of the wrong type or out of range, or ``--help`` (the parser prints it).
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--preset", "--scene", "--out", "--name"):
        early.add_argument(flag, default="")
    early.add_argument("--resume", action="store_true")
    known, _ = early.parse_known_args(arguments)
    default = preset_settings(known.preset, known.scene)
    if known.resume and (known.name or known.scene):
        output = OutputConfig(name=known.name, out=Path(known.out) if known.out else OutputConfig.out)
        saved = TrainConfig(data=DataConfig(scene=known.scene), output=output).folder / "config.json"
        if saved.exists():
            default = load_config(saved)
    config = tyro.cli(
        tyro.conf.OmitArgPrefixes[TrainConfig],
        args=arguments,
        default=default,
        prog="ipsm-jax train",
        description="Train 3D Gaussians on a few posed photos and write a run folder with pictures, figures and a PLY.",
    )
    if not config.data.scene:
        raise ConfigError("say what to train on: --scene demo (built in), --scene NAME or --scene FOLDER")
    return config
