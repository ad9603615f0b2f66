"""A look at what the terms do to a pseudo view: pictures, and how hard each term pulls.

Computed beside training, from its state, by the same functions: what is shown is what the next iteration would do.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ipsm_jax.config import OptimizationConfig
from ipsm_jax.losses.distillation import DistillationInfo, decoded
from ipsm_jax.rasterizer.rendering import Rendering
from ipsm_jax.training.regularization import PseudoViewPictures, Regularization, draw_pseudo_view, pseudo_view_terms
from ipsm_jax.training.state import TrainState
from ipsm_jax.training.step import TrainingViews, training_renderer


class Diagnosis(NamedTuple):
    """The pseudo view of an iteration; None where no term needs it.

    Attributes:
      iteration: counted from 1.
      reference: index of the training view that it was drawn from.
      rendering: of the pseudo view.
      reference_rendering: of the reference view.
      warped: (H, W, 3) the reference photo in the pseudo view.
      geometry_mask: (H, W) pixels that count for geometry consistency.
      guidance_mask: (H, W) pixels that the inpainting model is shown.
      distillation: with its pictures decoded, (s, s, 3).
      terms: weighted terms by name.
      gradient_norms: norm of each term's gradient with respect to the rendered color and depth, by name.
      pairs: (Gaussian, tile) pairs, the most that one of the two renderings took.
    """

    iteration: Int[Array, ""]
    reference: Int[Array, ""]
    rendering: Rendering
    reference_rendering: Rendering
    warped: Float[Array, "h w 3"] | None
    geometry_mask: Bool[Array, "h w"] | None
    guidance_mask: Bool[Array, "h w"] | None
    distillation: DistillationInfo | None
    terms: dict[str, Float[Array, ""]]
    gradient_norms: dict[str, Float[Array, ""]]
    pairs: Int[Array, ""]


def diagnose(
    config: OptimizationConfig,
    views: TrainingViews,
    regularization: Regularization,
    state: TrainState,
    pair_capacity: int | None = None,
) -> Diagnosis:
    """Look at the pseudo view of the iteration that follows `state`. Arguments as of `train_step`."""
    draw, iteration = training_renderer(config, state, pair_capacity), state.step + 1
    view = draw_pseudo_view(regularization, views.cameras, state.key, iteration)
    reference, photo = views.cameras[view.reference], views.targets.image[view.reference]
    rendering, reference_rendering = draw(state.gaussians, view.camera), draw(state.gaussians, reference)

    def terms_of(color: Array, depth: Array) -> tuple[Array, tuple[dict[str, Array], PseudoViewPictures]]:
        rendered = rendering._replace(color=color, depth=depth)
        terms, pictures = pseudo_view_terms(regularization, view, rendered, photo, reference, reference_rendering.depth)
        return jnp.stack([terms[name] for name in regularization.pseudo_terms]), (terms, pictures)

    _, pull_back, (terms, pictures) = jax.vjp(terms_of, rendering.color, rendering.depth, has_aux=True)
    # One after the other: the gradient of an encoder takes memory.
    norms = lax.map(
        lambda weights: jnp.sqrt(sum(jnp.sum(jnp.square(a)) for a in pull_back(weights))),
        jnp.eye(len(regularization.pseudo_terms)),
    )
    warp, info = pictures.warp, pictures.distillation
    if info is not None and regularization.diffusion is not None:
        info = info._replace(pictures=decoded(regularization.diffusion, info.pictures))
    geometry = regularization.geometry
    guided = regularization.distillation is not None and regularization.distillation.needs_warp
    return Diagnosis(
        iteration,
        view.reference,
        rendering,
        reference_rendering,
        None if warp is None else warp.image,
        None if warp is None or geometry is None else warp.mask(geometry.threshold),
        None if warp is None or not guided else warp.mask(regularization.guidance_threshold),
        info,
        terms,
        dict(zip(regularization.pseudo_terms, norms, strict=True)),
        jnp.maximum(rendering.pair_count, reference_rendering.pair_count),
    )
