"""From settings to the `Regularization` of a run: reads weights, captions and depth maps, and says what it found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ipsm_jax.config import ConfigError, DepthConfig, GeometryConfig, TrainConfig
from ipsm_jax.data.depth_maps import read_depth_maps
from ipsm_jax.data.scene import Scene
from ipsm_jax.data.triangulate import MissingPycolmapError
from ipsm_jax.losses.binocular import BinocularOptions
from ipsm_jax.losses.depth import DepthOptions
from ipsm_jax.losses.distillation import DistillationOptions, Term
from ipsm_jax.losses.schedule import GuidanceSchedule
from ipsm_jax.losses.warp import GeometryOptions
from ipsm_jax.priors.depth import DepthPrior, depth_map
from ipsm_jax.priors.locate import find_depth_network
from ipsm_jax.priors.monodepth import load_depth_network
from ipsm_jax.scene.pseudo_views import PseudoViewSampler, choose_pseudo_views, pseudo_view_sampler
from ipsm_jax.stereo import StereoError, depth_warnings, scene_bounds, scene_depths, stereo_progress
from ipsm_jax.training.prepare_diffusion import check_diffusion_prior, diffusion_prior
from ipsm_jax.training.regularization import DepthMaps, Regularization

TERMS: dict[str, tuple[Term, ...]] = {"sds": ("sds",), "g1": ("g1",), "ipsm": ("g1", "g2")}
"""Terms of distillation by the name of the guidance."""


def prepare_regularization(config: TrainConfig, scene: Scene, say: Callable[[str], None]) -> Regularization | None:
    """What the settings ask for beyond the photometric loss, ready to train with; None if that is nothing.

    Args:
      config: settings.
      scene: its training views are looked at, and nothing else of it.
      say: is told what was found where, and what takes time.

    Raises:
      ConfigError: settings that the scene cannot serve, or Stable Diffusion without a prompt.
      PriorError: weights that are missing, incomplete or not known.
      DataError: captions or depth maps that are missing or do not fit.
    """
    if not (config.wants_pseudo_views or config.geometry.binocular) and config.depth.depth == "none":
        return None
    check_requirements(config, scene)
    sampler = _sampler(config, scene) if config.wants_pseudo_views else None
    diffusion = diffusion_prior(config.guidance, scene, say) if config.guidance.guidance != "none" else None
    network, maps = _depth(config, scene, say)
    return Regularization(
        sampler=sampler,
        diffusion=diffusion,
        depth_network=network if config.depth.pseudo_depth_weight > 0 else None,
        depth_maps=maps,
        schedule=schedule_of(config),
        distillation=distillation_options(config),
        depth=None if maps is None else depth_options(config.depth),
        geometry=GeometryOptions(config.geometry.geometry_weight, config.geometry.geometry_threshold)
        if config.geometry.geometry
        else None,
        binocular=binocular_options(config.geometry),
        guidance_threshold=config.guidance.guidance_threshold,
    )


def check_requirements(config: TrainConfig, scene: Scene) -> None:
    """Refuse, before anything that takes time, what `prepare_regularization` would refuse for lack of a file.

    Raises:
      ConfigError, PriorError, DataError: as there.
    """
    if config.guidance.guidance != "none":
        check_diffusion_prior(config.guidance, scene)
    if config.depth.depth == "network":
        find_depth_network(config.depth.depth_path)
    if config.depth.depth == "exact" and scene.depths is None:
        raise ConfigError(f"--depth exact: scene {scene.name} in {scene.path} has no exact depth (the demo has)")


def schedule_of(config: TrainConfig) -> GuidanceSchedule:
    """In which iterations there is a pseudo view."""
    return GuidanceSchedule(config.pseudo.pseudo_from, config.pseudo.pseudo_until, config.pseudo.pseudo_ramp)


def distillation_options(config: TrainConfig) -> DistillationOptions | None:
    """Options of the distillation that the settings ask for."""
    guidance = config.guidance
    if guidance.guidance == "none":
        return None
    return DistillationOptions(
        terms=TERMS[guidance.guidance],
        sds_weight=guidance.weights.sds,
        g1_weight=guidance.weights.g1,
        g2_weight=guidance.weights.g2,
        g2_sign=guidance.g2_sign,
        guidance_scale=guidance.guidance_scale,
        inpaint_guidance_scale=guidance.inpaint_guidance_scale,
        first_timestep=guidance.first_timestep,
        last_timestep=guidance.last_timestep,
        weighting=guidance.timestep_weighting,
        # Without a posterior to draw from, encodings for each term would be the same.
        encode="shared" if guidance.prior == "embedded" else guidance.encode,
        schedule=schedule_of(config),
    )


def depth_options(config: DepthConfig) -> DepthOptions:
    """Options of the depth terms that the settings ask for."""
    measured = config.depth in ("exact", "stereo") or (config.depth == "maps" and config.maps_hold == "depth")
    maps: Literal["inverse", "depth", "metric"] = "depth" if measured else "inverse"
    return DepthOptions(
        config.seen_depth_weight,
        config.seen_depth_late_weight,
        config.seen_depth_late_after,
        config.pseudo_depth_weight,
        "metric" if config.depth_loss == "direct" else maps,
    )


def binocular_options(config: GeometryConfig) -> BinocularOptions | None:
    """Options of binocular consistency, if the settings ask for it."""
    if not config.binocular:
        return None
    return BinocularOptions(config.binocular_weight, config.binocular_shift, config.binocular_from)


def _sampler(config: TrainConfig, scene: Scene) -> PseudoViewSampler:
    cameras = scene.train_cameras
    bounds: np.ndarray | None = None
    with contextlib.suppress(StereoError, MissingPycolmapError):  # the samplers say which of them need bounds
        bounds = scene_bounds(scene)
    kind = config.pseudo.pseudo_views
    if kind == "auto":
        kind = choose_pseudo_views(cameras, bounds)
    try:
        return pseudo_view_sampler(cameras, bounds, kind, list_length=config.pseudo.pseudo_list)
    except ValueError as error:
        raise ConfigError(f"scene {scene.name}, --pseudo-views {config.pseudo.pseudo_views}: {error}") from error


def _depth(
    settings: TrainConfig, scene: Scene, say: Callable[[str], None]
) -> tuple[DepthPrior | None, DepthMaps | None]:
    """The network, if there is one, and the maps of the training views, if there are any."""
    config = settings.depth
    if config.depth == "none":
        return None, None
    train = list(scene.train)
    if config.depth == "network":
        folder: Path = find_depth_network(config.depth_path)
        say(f"reading the depth network {folder}, and looking at {len(train)} photos with it")
        network = load_depth_network(folder)
        look = jax.jit(depth_map)
        seen = jnp.stack([look(network, jnp.asarray(scene.images[i], jnp.float32) / 255) for i in train])
        return network, DepthMaps(seen, jnp.isfinite(seen))
    if config.depth == "stereo":
        with stereo_progress() as progress:
            depths = scene_depths(scene, progress=progress)
        say(f"depth of {len(train)} training views from dense stereo, known at {depths.confident.mean():.0%} of pixels")
        if settings.init.init not in ("auto", "stereo"):  # the dense start has said it
            for sentence in depth_warnings(scene, depths):
                say(sentence)
        return None, DepthMaps(jnp.asarray(depths.depth), jnp.asarray(depths.confident))
    if config.depth == "maps":
        assert config.depth_path is not None  # the settings see to that
        names = [scene.names[i] for i in train]
        values = config.maps_unit * read_depth_maps(config.depth_path, names, scene.width, scene.height)
        known = values > 0 if config.maps_hold == "depth" else values != 0
        if config.depth_loss == "direct":
            _check_unit(config.depth_path, scene, values[known])
        say(f"depth maps of {len(train)} training views from {config.depth_path}, known at {np.mean(known):.0%}")
    else:
        assert scene.depths is not None  # `check_requirements` sees to that
        values, known = scene.depths[train], scene.depths[train] > 0
        say(f"depth regularization by the exact depth of {len(train)} training views: for experiments")
    return None, DepthMaps(jnp.asarray(values, jnp.float32), jnp.asarray(known))


def _check_unit(folder: Path, scene: Scene, depths: Float[np.ndarray, " n"]) -> None:
    """Refuse measured depths that cannot be in the scene's unit of length."""
    bounds = scene.train_bounds
    if bounds is None or not len(depths):
        return
    middle, nearest, farthest = float(np.median(depths)), float(bounds.min()), float(bounds.max())
    if not nearest / 10 < middle < 10 * farthest:
        raise ConfigError(
            f"the maps in {folder} have a median depth of {middle:.3g}, the scene {scene.name} depths from "
            f"{nearest:.3g} to {farthest:.3g}: give --maps-unit, the scene's units in one of theirs (0.001 for "
            "millimeters in a scene in meters), or leave --depth-loss direct away"
        )
