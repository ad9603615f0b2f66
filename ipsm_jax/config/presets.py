"""Presets: the settings a run starts from, by name and scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ipsm_jax.config.regularization import DepthConfig, GeometryConfig, GuidanceConfig, PseudoViewConfig
from ipsm_jax.config.settings import DataConfig, DensityConfig, OptimizationConfig, PresetName, TrainConfig
from ipsm_jax.data.splits import is_dtu_scan

PRESETS: dict[str, TrainConfig] = {
    "llff": TrainConfig(preset="llff"),
    "dtu": TrainConfig(
        preset="dtu",
        data=DataConfig(downscale=4),
        optimization=OptimizationConfig(ssim_weight=0.6, zero_dark_background=True),
        density=DensityConfig(opacity_reset_value=0.05, opacity_reset_interval=1000),
        pseudo=PseudoViewConfig(pseudo_views="dtu"),
        depth=DepthConfig(seen_depth_late_weight=0.005, pseudo_depth_weight=0.05),
        geometry=GeometryConfig(geometry_weight=0.2),
    ),
    "demo": TrainConfig(
        preset="demo",
        data=DataConfig(scene="demo", downscale=1),
        optimization=OptimizationConfig(iterations=2000),
        density=DensityConfig(opacity_reset_at=0),
        # A fifth of the published run, and so is its schedule.
        pseudo=PseudoViewConfig(pseudo_from=400, pseudo_until=1900, pseudo_ramp=100, pseudo_list=2000),
        guidance=GuidanceConfig(prior="embedded"),
        depth=DepthConfig(seen_depth_late_after=1900),
        geometry=GeometryConfig(binocular_from=400),
    ),
}


BEST_ITERATIONS = 3000


def best(own: TrainConfig) -> TrainConfig:
    """A scene's own preset with what our measurements support on top (README, "What they bring").

    Dropout and geometry consistency, in at most `BEST_ITERATIONS`, after which nothing improves any more, and the
    published schedule of pseudo views shortened alike. Data, loss and density control stay those of the scene's kind.
    """
    iterations = min(own.optimization.iterations, BEST_ITERATIONS)
    share = iterations / OptimizationConfig.iterations
    published = PseudoViewConfig()
    return replace(
        own,
        preset="best",
        optimization=replace(own.optimization, iterations=iterations, dropout=0.2),
        pseudo=replace(
            own.pseudo,
            pseudo_from=round(share * published.pseudo_from),
            pseudo_until=round(share * published.pseudo_until),
            pseudo_ramp=round(share * published.pseudo_ramp),
        ),
        depth=replace(own.depth, seen_depth_late_after=round(share * DepthConfig.seen_depth_late_after)),
        geometry=replace(own.geometry, geometry=True),
    )


def preset_for_scene(scene: str) -> PresetName:
    """Name of the preset that suits a scene of this name or path."""
    if scene == "demo":
        return "demo"
    return "dtu" if is_dtu_scan(Path(scene).name) else "llff"


def preset_settings(name: str, scene: str) -> TrainConfig:
    """Settings of a preset for a scene of this name or path; "" or an unknown name gives the scene's own preset."""
    own = PRESETS[preset_for_scene(scene)]
    return best(own) if name == "best" else PRESETS.get(name, own)
