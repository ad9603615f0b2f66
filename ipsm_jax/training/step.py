"""One training iteration as a pure function, and many of them in one program (METHOD section 3).

Iterations count from 1: the iteration that follows a state is number state.step + 1. Everything that depends on it
(view, learning rate, SH degree) is traced, so one compiled program serves the whole run until the capacity changes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ipsm_jax.config import OptimizationConfig
from ipsm_jax.losses.photometric import PhotometricTarget, compare_with_view
from ipsm_jax.rasterizer import render
from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.gaussians import Gaussians
from ipsm_jax.training.optimizer import apply_gradient, learning_rates
from ipsm_jax.training.state import DensityStatistics, TrainState

VIEW_STREAM = 0
"""Folded into the state's key where views are shuffled; density control has another number."""


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
    """Loss and PSNR in dB of the training view of one iteration, or their means over several."""

    loss: Float[Array, ""]
    psnr: Float[Array, ""]


def view_of_step(key: Key[Array, ""], step: Int[Array, ""], views: int) -> Int[Array, ""]:
    """Index of the training view of iteration step + 1: drawn without replacement, reshuffled when used up."""
    epoch_key = jax.random.fold_in(jax.random.fold_in(key, VIEW_STREAM), step // views)
    return jax.random.permutation(epoch_key, views)[step % views]


def sh_degree_of_step(config: OptimizationConfig, step: Int[Array, ""]) -> Int[Array, ""]:
    """Degree of the harmonics in iteration step + 1: 0 at first, one more at each multiple of the interval."""
    return jnp.minimum((step + 1) // config.sh_degree_interval, config.sh_degree)


PHASES = ("view", "render", "loss", "optimizer", "statistics")
"""Scopes in a step's compiled program, which profilers show."""


def train_step(config: OptimizationConfig, views: TrainingViews, state: TrainState) -> tuple[TrainState, StepInfo]:
    """One iteration: render a training view, compare, move the Gaussians, add to the statistics.

    Args:
      config: static.
      views: training views; arrays, may be mapped over (scenes of one size).
      state: may be mapped over (seeds).
    """
    with jax.named_scope("view"):
        index = view_of_step(state.key, state.step, views.targets.image.shape[0])
        camera = views.cameras[index]
    degree = sh_degree_of_step(config, state.step)

    def loss_of(gaussians: Gaussians, mean2d_offset: Float[Array, "n 2"]) -> tuple[Array, tuple[Array, Array]]:
        with jax.named_scope("render"):
            rendering = render(
                gaussians,
                camera,
                alive=state.alive,
                background=jnp.array(config.background, jnp.float32),
                sh_degree=degree,
                mean2d_offset=mean2d_offset,
                backend=config.backend,
            )
        with jax.named_scope("loss"):
            loss, mean_square = compare_with_view(
                rendering.color, views.targets, index, config.ssim_weight, backend=config.backend
            )
        return loss, (rendering.radii, mean_square)

    no_offset = jnp.zeros((state.gaussians.capacity, 2))
    (loss, (radii, mean_square)), (gradient, mean2d_gradient) = jax.value_and_grad(
        loss_of, argnums=(0, 1), has_aux=True
    )(state.gaussians, no_offset)

    with jax.named_scope("optimizer"):
        rates = learning_rates(config, views.extent, state.step)
        gaussians, moments = apply_gradient(
            state.gaussians, gradient, state.moments, rates, alive=state.alive, backend=config.backend
        )
    with jax.named_scope("statistics"):
        statistics = add_to_statistics(state.statistics, mean2d_gradient, radii, camera.width, camera.height)
    new_state = state._replace(gaussians=gaussians, moments=moments, statistics=statistics, step=state.step + 1)
    return new_state, StepInfo(loss, -10 * jnp.log10(jnp.maximum(mean_square, 1e-10)))


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
    config: OptimizationConfig, views: TrainingViews, state: TrainState, count: int | Int[Array, ""]
) -> tuple[TrainState, StepInfo]:
    """`count` iterations in one program; the info holds the means over them, NaN if any loss was.

    The count is traced, so that whatever number of iterations lies between two events needs no new compilation.
    """

    def body(_: Array, carry: tuple[TrainState, StepInfo]) -> tuple[TrainState, StepInfo]:
        state, total = carry
        state, info = train_step(config, views, state)
        return state, jax.tree.map(jnp.add, total, info)

    zero = StepInfo(jnp.zeros(()), jnp.zeros(()))
    state, total = jax.lax.fori_loop(0, count, body, (state, zero))
    return state, jax.tree.map(lambda a: a / jnp.maximum(count, 1), total)
