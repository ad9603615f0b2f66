"""Adam over the Gaussians with a learning rate per field (METHOD section 3).

A dead slot has zero gradient and zero moments, so that Adam moves it by 0 / (0 + eps) = 0: nothing special is needed,
and the native version may leave dead slots out. That version is what CPUs use: one pass that changes values and moments
where they lie; optax's, of which XLA makes three passes per field, is its oracle and what GPUs use.
Learning rates are computed in the program from the scene's extent and the step, hence runs on several scenes can be
mapped over.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ipsm_jax.config import OptimizationConfig
from ipsm_jax.rasterizer.native import load_library
from ipsm_jax.rasterizer.render import Backend
from ipsm_jax.scene.gaussians import Gaussians

TARGET = "ipsm_adam"
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-15


def adam() -> optax.GradientTransformation:
    """Adam's direction, before learning rates: betas 0.9 and 0.999, eps 1e-15."""
    return optax.scale_by_adam(b1=BETA1, b2=BETA2, eps=EPSILON)


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
    gaussians: Gaussians,
    gradient: Gaussians,
    moments: optax.ScaleByAdamState,
    rates: Gaussians,
    *,
    alive: Bool[Array, " n"] | None = None,
    backend: Backend = "auto",
) -> tuple[Gaussians, optax.ScaleByAdamState]:
    """One Adam step: the moved Gaussians and the new moments. Works under jit and vmap.

    Args:
      gaussians, gradient, moments: n slots.
      rates: learning rates, scalars; see `learning_rates`.
      alive: (n,) which slots are in use; the others have zero gradient and moments. Default all.
      backend: "reference" is optax's Adam anywhere; else float32 goes through the native library on CPUs.

    Raises:
      NativeUnavailableError: the native library is missing or does not fit.
    """
    arrays = jax.tree.leaves((gaussians, gradient, moments.mu, moments.nu, rates))
    if backend == "reference" or any(jnp.result_type(a) != jnp.float32 for a in arrays):
        return _apply_optax(gaussians, gradient, moments, rates, alive)
    load_library()
    alive = jnp.ones(gaussians.capacity, bool) if alive is None else alive
    return lax.platform_dependent(gaussians, gradient, moments, rates, alive, cpu=_apply_native, default=_apply_optax)


def _apply_optax(
    gaussians: Gaussians,
    gradient: Gaussians,
    moments: optax.ScaleByAdamState,
    rates: Gaussians,
    alive: Bool[Array, " n"] | None,
) -> tuple[Gaussians, optax.ScaleByAdamState]:
    del alive  # whatever is zero stays zero
    direction, moments = adam().update(gradient, moments)
    moved = jax.tree.map(lambda value, change, rate: value - rate * change, gaussians, direction, rates)
    return moved, moments


def _apply_native(
    gaussians: Gaussians,
    gradient: Gaussians,
    moments: optax.ScaleByAdamState,
    rates: Gaussians,
    alive: Bool[Array, " n"],
) -> tuple[Gaussians, optax.ScaleByAdamState]:
    count = optax.safe_increment(moments.count)
    steps = jnp.stack([jnp.asarray(rate) for rate in rates]) / (1 - BETA1**count)
    changing = [*gaussians, *moments.mu, *moments.nu]
    results = jax.ffi.ffi_call(
        TARGET,
        [jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in changing],
        vmap_method="broadcast_all",  # shared buffers want operands of their results' shapes
        input_output_aliases={3 + i: i for i in range(len(changing))},
    )(
        alive,
        steps,
        1 - BETA2**count,
        *changing,
        *gradient,
        beta1=np.float64(BETA1),
        beta2=np.float64(BETA2),
        epsilon=np.float64(EPSILON),
    )
    fields = len(gaussians)
    moved, first, second = (Gaussians(*results[i : i + fields]) for i in range(0, 3 * fields, fields))
    return moved, moments._replace(count=count, mu=first, nu=second)


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
