"""What steers a training step beyond its photo: depth, geometry consistency and score distillation (METHOD 4 to 7).

A `Regularization` is a value: the options of the terms are static, priors and depth maps are its arrays. The depth of
the training view joins the photometric loss; all else looks at one pseudo view in each iteration of the schedule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from ipsm_jax.losses.binocular import BinocularOptions, binocular_loss, shifted_camera
from ipsm_jax.losses.depth import (
    DepthOptions,
    measured_depth_loss,
    metric_depth_loss,
    pseudo_depth_loss,
    seen_depth_loss,
)
from ipsm_jax.losses.distillation import DistillationInfo, DistillationOptions, distillation_loss
from ipsm_jax.losses.schedule import GuidanceSchedule
from ipsm_jax.losses.warp import GUIDANCE_THRESHOLD, GeometryOptions, Warp, geometry_loss, inverse_warp
from ipsm_jax.priors.depth import DepthPrior, depth_map
from ipsm_jax.priors.diffusion import DiffusionPrior
from ipsm_jax.rasterizer.rendering import Rendering
from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.pseudo_views import PseudoViewSampler, sample_pseudo_view

PSEUDO_VIEW_STREAM = 2
DISTILLATION_STREAM = 3
BINOCULAR_STREAM = 5
"""Folded into the state's key; see `step.VIEW_STREAM`."""


class DepthMaps(NamedTuple):
    """Depth of the V training views, as `DepthOptions.maps` says.

    Attributes:
      values: (V, H, W) inverse depth of a network, or measured camera z; of any scale.
      known: (V, H, W) where it is known.
    """

    values: Float[Array, "v h w"]
    known: Bool[Array, "v h w"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["sampler", "diffusion", "depth_network", "depth_maps", "distillation_weights"],
    meta_fields=["schedule", "distillation", "depth", "geometry", "binocular", "guidance_threshold"],
)
@dataclasses.dataclass(frozen=True)
class Regularization:
    """The terms that are switched on, and what they need; a pytree whose options are static.

    Attributes:
      sampler: where pseudo views are drawn; needed by all terms but the training views' depth.
      diffusion: for `distillation`.
      depth_network: for the depth of pseudo views; None leaves these out.
      depth_maps: of the training views, for `depth`.
      distillation_weights: (k,) of the terms of distillation, in their order, in place of the options'.
      schedule: iterations with a pseudo view.
      distillation, depth, geometry, binocular: options, None = off.
      guidance_threshold: of the mask of warped pixels that the inpainting model is shown.
    """

    sampler: PseudoViewSampler | None = None
    diffusion: DiffusionPrior | None = None
    depth_network: DepthPrior | None = None
    depth_maps: DepthMaps | None = None
    distillation_weights: Float[Array, " k"] | None = None
    schedule: GuidanceSchedule = dataclasses.field(default_factory=GuidanceSchedule)
    distillation: DistillationOptions | None = None
    depth: DepthOptions | None = None
    geometry: GeometryOptions | None = None
    binocular: BinocularOptions | None = None
    guidance_threshold: float = GUIDANCE_THRESHOLD

    @property
    def pseudo_terms(self) -> tuple[str, ...]:
        """Names of the terms that act on pseudo views: pseudo_depth, geometry, distillation."""
        depth = ("pseudo_depth",) if self.depth is not None and self.depth_network is not None else ()
        geometry = () if self.geometry is None else ("geometry",)
        return (*depth, *geometry, *(() if self.distillation is None else ("distillation",)))

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of all terms: seen_depth, binocular, and those of pseudo views."""
        seen = () if self.depth is None else ("seen_depth",)
        binocular = () if self.binocular is None else ("binocular",)
        return (*seen, *binocular, *self.pseudo_terms)

    @property
    def needs_warp(self) -> bool:
        """Whether a term needs the photo warped into the pseudo view."""
        return self.geometry is not None or (self.distillation is not None and self.distillation.needs_warp)


class PseudoViewPictures(NamedTuple):
    """What the terms saw, for people to look at.

    Attributes:
      warp: the reference view's photo in the pseudo view; None where no term needs it.
      distillation: what the diffusion models saw and thought; None without distillation.
    """

    warp: Warp | None
    distillation: DistillationInfo | None


class PseudoView(NamedTuple):
    """The pseudo view of an iteration, and what its terms need but do not differentiate.

    Attributes:
      camera: with the intrinsics of the reference view.
      reference: index of the training view that it was drawn from.
      iteration: counted from 1.
      key: for the timestep, noise and posterior samples of this iteration.
    """

    camera: Camera
    reference: Int[Array, ""]
    iteration: Int[Array, ""]
    key: Key[Array, ""]


def seen_depth_term(
    regularization: Regularization, rendering: Rendering, view: Int[Array, ""], iteration: Int[Array, ""]
) -> Float[Array, ""]:
    """Weighted depth term of the rendering of a training view.

    Raises:
      ValueError: depth regularization is off, or there are no maps.
    """
    options, maps = regularization.depth, regularization.depth_maps
    if options is None or maps is None:
        raise ValueError("the depth of training views needs depth options and depth maps")
    values, known = maps.values[view], maps.known[view]
    if options.maps == "metric":
        loss = metric_depth_loss(rendering.depth, rendering.alpha, values, known)
    elif options.maps == "depth":
        loss = measured_depth_loss(rendering.depth, values, known)
    else:
        loss = seen_depth_loss(rendering.depth, values, known)
    return options.weight_of_seen(iteration) * loss


def binocular_term(
    options: BinocularOptions,
    draw: Callable[[Camera], Rendering],
    photo: Float[Array, "h w 3"],
    camera: Camera,
    extent: Float[Array, ""],
    key: Key[Array, ""],
    iteration: Int[Array, ""],
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Weighted binocular consistency of a training view, and the most pairs that a rendering took.

    The view is rendered once more than the photometric loss did: without dropout, in a condition of its own, and so
    that its gradient stays out of density control's statistics.

    Args:
      draw: renders the Gaussians, differentiable in them.
      photo, camera: of the training view.
      extent: of the scene, the unit of the shift.
      key: of the run; the shift is uniform between the options' to the left and to the right.
      iteration: counted from 1.
    """
    key = jax.random.fold_in(jax.random.fold_in(key, BINOCULAR_STREAM), iteration)
    shift = options.shift * extent * jax.random.uniform(key, minval=-1.0, maxval=1.0)
    view, aside = draw(camera), draw(shifted_camera(camera, shift))
    loss = binocular_loss(photo, aside.color, view.depth, view.alpha, shift, camera.intrinsics[0])
    return options.weight * loss, jnp.maximum(view.pair_count, aside.pair_count)


def draw_pseudo_view(
    regularization: Regularization, cameras: Camera, key: Key[Array, ""], iteration: Int[Array, ""]
) -> PseudoView:
    """The pseudo view of an iteration of a run with this key."""
    if regularization.sampler is None:
        raise ValueError("pseudo views need a sampler, see scene.pseudo_views")
    view_key, distillation_key = (jax.random.fold_in(key, s) for s in (PSEUDO_VIEW_STREAM, DISTILLATION_STREAM))
    view = sample_pseudo_view(view_key, regularization.sampler, iteration - 1 - regularization.schedule.start)
    camera = Camera(view.camera_from_world, cameras.intrinsics[view.reference], cameras.width, cameras.height)
    return PseudoView(camera, view.reference, iteration, jax.random.fold_in(distillation_key, iteration))


def pseudo_view_terms(
    regularization: Regularization,
    view: PseudoView,
    rendering: Rendering,
    photo: Float[Array, "h w 3"],
    reference: Camera,
    reference_depth: Float[Array, "h w"] | None,
) -> tuple[dict[str, Float[Array, ""]], PseudoViewPictures]:
    """Weighted terms of a pseudo view, by name, and pictures.

    Args:
      regularization: which terms.
      view: the pseudo view.
      rendering: of the pseudo view; the gradient flows into its color and depth.
      photo: of the reference view.
      reference: its camera.
      reference_depth: its rendered depth, which gets no gradient; None will do where no term needs the warp.

    Raises:
      ValueError: a term lacks what it needs.
    """
    terms: dict[str, Array] = {}
    warp, info = None, None
    if regularization.needs_warp:
        if reference_depth is None:
            raise ValueError("warping a photo needs the rendered depth of its view")
        warp = inverse_warp(reference, photo, reference_depth, view.camera, rendering.depth)
    if regularization.depth is not None and regularization.depth_network is not None:
        seen_by_network = depth_map(regularization.depth_network, rendering.color)
        weight = regularization.depth.weight_of_pseudo(view.iteration, regularization.schedule)
        terms["pseudo_depth"] = weight * pseudo_depth_loss(rendering.depth, seen_by_network)
    if (geometry := regularization.geometry) is not None and warp is not None:
        weight = jnp.where(regularization.schedule.active(view.iteration), geometry.weight, 0.0)
        terms["geometry"] = weight * geometry_loss(rendering.color, warp.image, warp.mask(geometry.threshold))
    if (options := regularization.distillation) is not None:
        if regularization.diffusion is None:
            raise ValueError("distillation needs a diffusion prior")
        image, known = (None, None) if warp is None else (warp.image, warp.mask(regularization.guidance_threshold))
        terms["distillation"], info = distillation_loss(
            view.key,
            options,
            regularization.diffusion,
            rendering.color,
            image,
            known,
            view.iteration,
            regularization.distillation_weights,
        )
    pictures = PseudoViewPictures(warp, info)
    return terms, lax.stop_gradient(pictures)
