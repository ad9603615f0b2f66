"""Adam over the Gaussians with a learning rate per field (METHOD section 3).

A dead slot has zero gradient and zero moments, so that Adam moves it by 0 / (0 + eps) = 0: nothing special is needed.
Learning rates are computed in the program from the scene's extent and the step, hence runs on several scenes can be
mapped over.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from ipsm_jax.config import OptimizationConfig
from ipsm_jax.scene.gaussians import Gaussians


def adam() -> optax.GradientTransformation:
    """Adam's direction, before learning rates: betas 0.9 and 0.999, eps 1e-15."""
    return optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-15)


def learning_rates(config: OptimizationConfig, extent: Float[Array, ""], step: Int[Array, ""]) -> Gaussians:
    """Learning rate of every field, scalars in the place of the arrays.

    Args:
      config: learning rates; the one of the means is in units of the extent and decays log-linearly over
        `config.iterations`, from `means_lr` at step 0.
      extent: scene extent in world units.
      step: number of finished iterations.
    """
    fraction = jnp.clip(step.astype(jnp.float32) / config.iterations, 0, 1)
    first, last = jnp.log(config.means_lr), jnp.log(config.means_lr_final)
    return Gaussians(
        means=jnp.exp(first + fraction * (last - first)) * extent,
        log_scales=jnp.float32(config.scales_lr),
        quaternions=jnp.float32(config.quaternions_lr),
        opacity_logits=jnp.float32(config.opacity_lr),
        sh_dc=jnp.float32(config.sh_dc_lr),
        sh_rest=jnp.float32(config.sh_rest_lr),
    )


def apply_gradient(
    gaussians: Gaussians, gradient: Gaussians, moments: optax.ScaleByAdamState, rates: Gaussians
) -> tuple[Gaussians, optax.ScaleByAdamState]:
    """One Adam step: the moved Gaussians and the new moments."""
    direction, moments = adam().update(gradient, moments)
    moved = jax.tree.map(lambda value, change, rate: value - rate * change, gaussians, direction, rates)
    return moved, moments


def clear_moments(moments: optax.ScaleByAdamState, slots: Bool[Array, " n"]) -> optax.ScaleByAdamState:
    """Zero both moments of the given slots, in all fields."""

    def clear(a: Array) -> Array:
        return jnp.where(jnp.expand_dims(slots, tuple(range(1, a.ndim))), 0, a)

    return moments._replace(mu=jax.tree.map(clear, moments.mu), nu=jax.tree.map(clear, moments.nu))


def clear_opacity_moments(moments: optax.ScaleByAdamState) -> optax.ScaleByAdamState:
    """Zero both moments of all opacities."""
    return moments._replace(
        mu=moments.mu._replace(opacity_logits=jnp.zeros_like(moments.mu.opacity_logits)),
        nu=moments.nu._replace(opacity_logits=jnp.zeros_like(moments.nu.opacity_logits)),
    )
