"""One training iteration as a pure function, and many of them in one program (METHOD section 3; what steers it beyond
the photos is in `regularization`).

Iterations count from 1: the iteration that follows a state is number state.step + 1. Everything that depends on it
(view, learning rate, SH degree) is traced, so one compiled program serves the whole run until the capacity changes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from ipsm_jax.config import OptimizationConfig
from ipsm_jax.losses.photometric import PhotometricTarget, compare_with_view
from ipsm_jax.rasterizer import render
from ipsm_jax.rasterizer.rendering import Rendering
from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.gaussians import Gaussians
from ipsm_jax.training.opacity import DROPOUT_STREAM, decayed, dropout_rate, with_dropout
from ipsm_jax.training.optimizer import apply_gradient, learning_rates
from ipsm_jax.training.regularization import (
    Regularization,
    binocular_term,
    draw_pseudo_view,
    pseudo_view_terms,
    seen_depth_term,
)
from ipsm_jax.training.state import DensityStatistics, TrainState

VIEW_STREAM = 0
"""Folded into the state's key where views are shuffled; density control, pseudo views and distillation have others."""


class TrainingViews(NamedTuple):
    """What is constant during training.

    Attributes:
      cameras: batch of V cameras, the training views.
      targets: their photos and what the loss precomputes from them, leading axis V.
      extent: scene extent in world units (METHOD section 2).
    """

    cameras: Camera
    targets: PhotometricTarget
    extent: Float[Array, ""]


class StepInfo(NamedTuple):
    """What one iteration had to do with its training view, or several with theirs.

    Attributes:
      loss: all that was minimized, or the mean of several iterations.
      psnr: in dB, or the mean of several.
      pairs: (Gaussian, tile) pairs that a rendering took, the most that any took.
      terms: weighted parts of the loss by name, "photometric" and `Regularization.terms`, or their means; pseudo views'
        terms are 0 in iterations without one.
    """

    loss: Float[Array, ""]
    psnr: Float[Array, ""]
    pairs: Int[Array, ""]
    terms: dict[str, Float[Array, ""]]


def view_of_step(key: Key[Array, ""], step: Int[Array, ""], views: int) -> Int[Array, ""]:
    """Index of the training view of iteration step + 1: drawn without replacement, reshuffled when used up."""
    epoch_key = jax.random.fold_in(jax.random.fold_in(key, VIEW_STREAM), step // views)
    return jax.random.permutation(epoch_key, views)[step % views]


def sh_degree_of_step(config: OptimizationConfig, step: Int[Array, ""]) -> Int[Array, ""]:
    """Degree of the harmonics in iteration step + 1: 0 at first, one more at each multiple of the interval."""
    return jnp.minimum((step + 1) // config.sh_degree_interval, config.sh_degree)


def training_renderer(
    config: OptimizationConfig, state: TrainState, pair_capacity: int | None = None
) -> Callable[..., Rendering]:
    """(gaussians, camera, mean2d_offset=None, alive=None) -> rendering, as the iteration after `state` draws."""

    def draw(
        gaussians: Gaussians,
        camera: Camera,
        mean2d_offset: Float[Array, "n 2"] | None = None,
        alive: Bool[Array, " n"] | None = None,
    ) -> Rendering:
        return render(
            gaussians,
            camera,
            alive=state.alive if alive is None else alive,
            background=jnp.array(config.background, jnp.float32),
            sh_degree=sh_degree_of_step(config, state.step),
            mean2d_offset=mean2d_offset,
            pair_capacity=pair_capacity,
            backend=config.backend,
        )

    return draw


def total(terms: dict[str, Float[Array, ""]]) -> Float[Array, ""]:
    """Their sum."""
    return jnp.sum(jnp.stack(list(terms.values())))


def train_step(
    config: OptimizationConfig,
    views: TrainingViews,
    state: TrainState,
    regularization: Regularization | None = None,
    pair_capacity: int | None = None,
) -> tuple[TrainState, StepInfo]:
    """One iteration: render a training view, compare, move the Gaussians, add to the statistics.

    With terms that act on pseudo views, one of these is rendered too, in the iterations that are scheduled for it,
    behind a condition: the others pay nothing. Under `vmap` that holds only if all states share one iteration that is
    not mapped over (`in_axes` None for `TrainState.step`); a mapped condition becomes a choice between both branches.

    Args:
      config: static.
      views: training views; arrays, may be mapped over (scenes of one size).
      state: may be mapped over (seeds).
      regularization: what there is beyond the photometric loss.
      pair_capacity: static; room for (Gaussian, tile) pairs, see `rasterizer.render`.
    """
    iteration = state.step + 1
    with jax.named_scope("view"):
        index = view_of_step(state.key, state.step, views.targets.image.shape[0])
        camera = views.cameras[index]
    draw = training_renderer(config, state, pair_capacity)

    def draw_training_view(gaussians: Gaussians, offset: Float[Array, "n 2"]) -> Rendering:
        if not config.dropout:
            return draw(gaussians, camera, offset)
        key = jax.random.fold_in(jax.random.fold_in(state.key, DROPOUT_STREAM), iteration)
        rate = dropout_rate(config.dropout, iteration, config.iterations)
        gaussians, kept = with_dropout(key, gaussians, state.alive, rate)
        return draw(gaussians, camera, offset, kept)

    def loss_of(gaussians: Gaussians, mean2d_offset: Float[Array, "n 2"]) -> tuple[Array, tuple[Any, ...]]:
        with jax.named_scope("render"):
            rendering = draw_training_view(gaussians, mean2d_offset)
        with jax.named_scope("loss"):
            photometric, mean_square = compare_with_view(
                rendering.color, views.targets, index, config.ssim_weight, backend=config.backend
            )
            terms = {"photometric": photometric}
            if regularization is not None and regularization.depth is not None:
                terms["seen_depth"] = seen_depth_term(regularization, rendering, index, iteration)
        return total(terms), (terms, rendering.radii, mean_square, rendering.pair_count)

    no_offset = jnp.zeros((state.gaussians.capacity, 2))
    (_, (terms, radii, mean_square, pairs)), (gradient, mean2d_gradient) = jax.value_and_grad(
        loss_of, argnums=(0, 1), has_aux=True
    )(state.gaussians, no_offset)

    if regularization is not None and (options := regularization.binocular) is not None:
        with jax.named_scope("binocular"):

            def aside(gaussians: Gaussians) -> tuple[dict[str, Array], Array]:
                photo, extent = views.targets.image[index], views.extent
                term, pairs = binocular_term(
                    options, partial(draw, gaussians), photo, camera, extent, state.key, iteration
                )
                return {"binocular": term}, pairs

            active = options.active(iteration)
            gradient, more, most = _add_terms(active, aside, ("binocular",), state.gaussians, gradient)
        terms, pairs = terms | more, jnp.maximum(pairs, most)
    if regularization is not None and regularization.pseudo_terms:
        with jax.named_scope("pseudo_view"):

            def unseen(gaussians: Gaussians) -> tuple[dict[str, Array], Array]:
                return look_at_pseudo_view(regularization, views, state, iteration, draw, gaussians)

            active, names = regularization.schedule.active(iteration), regularization.pseudo_terms
            gradient, more, most = _add_terms(active, unseen, names, state.gaussians, gradient)
        terms, pairs = terms | more, jnp.maximum(pairs, most)
    with jax.named_scope("optimizer"):
        rates = learning_rates(config, views.extent, state.step)
        gaussians, moments = apply_gradient(
            state.gaussians, gradient, state.moments, rates, alive=state.alive, backend=config.backend
        )
        if config.opacity_decay < 1:
            due = iteration % config.opacity_decay_interval == 0
            logits = decayed(gaussians.opacity_logits, jnp.where(due, config.opacity_decay, 1.0))
            gaussians = gaussians._replace(opacity_logits=logits)
    with jax.named_scope("statistics"):
        statistics = add_to_statistics(state.statistics, mean2d_gradient, radii, camera.width, camera.height)
    new_state = state._replace(gaussians=gaussians, moments=moments, statistics=statistics, step=iteration)
    psnr = -10 * jnp.log10(jnp.maximum(mean_square, 1e-10))
    return new_state, StepInfo(total(terms), psnr, pairs, terms)


def _add_terms(
    active: Bool[Array, ""],
    terms_of: Callable[[Gaussians], tuple[dict[str, Array], Array]],
    names: tuple[str, ...],
    gaussians: Gaussians,
    gradient: Gaussians,
) -> tuple[Gaussians, dict[str, Array], Int[Array, ""]]:
    """If they are active: the gradient with that of these terms added, the terms, and the pairs of their renderings."""

    def with_terms(gradient: Gaussians) -> tuple[Gaussians, dict[str, Array], Array]:
        def loss_of(gaussians: Gaussians) -> tuple[Array, tuple[dict[str, Array], Array]]:
            terms, pairs = terms_of(gaussians)
            return total(terms), (terms, pairs)

        more, (terms, pairs) = jax.grad(loss_of, has_aux=True)(gaussians)
        return jax.tree.map(jnp.add, gradient, more), terms, pairs

    def without(gradient: Gaussians) -> tuple[Gaussians, dict[str, Array], Array]:
        return gradient, {name: jnp.zeros(()) for name in names}, jnp.zeros((), jnp.int32)

    return lax.cond(active, with_terms, without, gradient)


def look_at_pseudo_view(
    regularization: Regularization,
    views: TrainingViews,
    state: TrainState,
    iteration: Int[Array, ""],
    draw: Callable[..., Rendering],
    gaussians: Gaussians,
) -> tuple[dict[str, Float[Array, ""]], Int[Array, ""]]:
    """Terms of an iteration's pseudo view, and the most pairs that one of the renderings took.

    Args:
      draw: (gaussians, camera) -> rendering.
      gaussians: the state's, as an argument so that they can be differentiated; the reference view's depth is not.
    """
    view = draw_pseudo_view(regularization, views.cameras, state.key, iteration)
    rendering = draw(gaussians, view.camera)
    pairs, reference, depth = rendering.pair_count, views.cameras[view.reference], None
    if regularization.needs_warp:
        rendered = draw(lax.stop_gradient(gaussians), reference)
        depth, pairs = rendered.depth, jnp.maximum(pairs, rendered.pair_count)
    photo = views.targets.image[view.reference]
    terms, _ = pseudo_view_terms(regularization, view, rendering, photo, reference, depth)
    return terms, pairs


def add_to_statistics(
    statistics: DensityStatistics,
    mean2d_gradient: Float[Array, "n 2"],
    radii: Int[Array, " n"],
    width: int,
    height: int,
) -> DensityStatistics:
    """Add one iteration's dL/d(mean2d), given per pixel, to the statistics of the Gaussians that were visible.

    The norm is taken in normalized device coordinates, which run over 2 units across the image: a gradient per pixel is
    multiplied by (width / 2, height / 2).
    """
    norm = jnp.hypot(mean2d_gradient[:, 0] * (width / 2), mean2d_gradient[:, 1] * (height / 2))
    visible = radii > 0
    return DensityStatistics(
        statistics.gradient_sum + jnp.where(visible, norm, 0), statistics.visible_count + visible.astype(jnp.int32)
    )


def run_steps(
    config: OptimizationConfig,
    views: TrainingViews,
    state: TrainState,
    count: int | Int[Array, ""],
    regularization: Regularization | None = None,
    pair_capacity: int | None = None,
) -> tuple[TrainState, StepInfo]:
    """`count` iterations in one program; the info holds the means over them, NaN if any loss was, and the most pairs.

    The count is traced, so that whatever number of iterations lies between two events needs no new compilation.
    """

    def body(_: Array, carry: tuple[TrainState, StepInfo]) -> tuple[TrainState, StepInfo]:
        state, sums = carry
        state, info = train_step(config, views, state, regularization, pair_capacity)
        return state, jax.tree.map(jnp.add, sums, info)._replace(pairs=jnp.maximum(sums.pairs, info.pairs))

    names = ("photometric", *(() if regularization is None else regularization.terms))
    zero = StepInfo(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32), {name: jnp.zeros(()) for name in names})
    state, sums = lax.fori_loop(0, count, body, (state, zero))
    return state, jax.tree.map(lambda a: a / jnp.maximum(count, 1), sums)._replace(pairs=sums.pairs)
