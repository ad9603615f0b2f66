"""Settings of a run: the dataclass and its presets, the command line made from it and its JSON form.

Nothing else in the package reads the command line of `train`.
"""

from ipsm_jax.config.command_line import parse_command_line
from ipsm_jax.config.errors import ConfigError
from ipsm_jax.config.file import check_resumable, from_json, load_config, to_json
from ipsm_jax.config.presets import PRESETS, best, preset_for_scene, preset_settings
from ipsm_jax.config.regularization import DepthConfig, GeometryConfig, GuidanceConfig, PseudoViewConfig
from ipsm_jax.config.settings import (
    DataConfig,
    DensityConfig,
    InitConfig,
    OptimizationConfig,
    OutputConfig,
    TrainConfig,
)

__all__ = [
    "PRESETS",
    "ConfigError",
    "DataConfig",
    "DensityConfig",
    "DepthConfig",
    "GeometryConfig",
    "GuidanceConfig",
    "InitConfig",
    "OptimizationConfig",
    "OutputConfig",
    "PseudoViewConfig",
    "TrainConfig",
    "best",
    "check_resumable",
    "from_json",
    "load_config",
    "parse_command_line",
    "preset_for_scene",
    "preset_settings",
    "to_json",
]
