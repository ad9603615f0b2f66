"""Regularizers that act on opacities: dropout of Gaussians, and decay.

With few views, Gaussians near the cameras explain each photo for itself and hide the rest of the scene. Dropout takes
some away at random, so that those behind get a gradient too (Park et al., "DropGaussian", CVPR 2025). Decay makes
all fade that the photos do not keep up (Han et al., "Binocular-Guided 3D Gaussian Splatting", NeurIPS 2024).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ipsm_jax.scene.gaussians import Gaussians

DROPOUT_STREAM = 4
"""Folded into the state's key; see `step.VIEW_STREAM`."""
_LOWEST, _HIGHEST = 1e-7, 0.999
"""Opacities are not raised above the latter; below the former, nothing shows and their logarithm is not safe."""


def with_dropout(
    key: Key[Array, ""], gaussians: Gaussians, alive: Bool[Array, " n"], rate: Float[Array, ""]
) -> tuple[Gaussians, Bool[Array, " n"]]:
    """Gaussians with each left out with probability `rate` and the opacity of the others divided by 1 - rate.

    Differentiable; those left out get no gradient.

    Args:
      key: another one in each iteration.
      gaussians, alive: n slots and which are in use.
      rate: in [0, 1), may be traced.
    """
    kept = alive & ~jax.random.bernoulli(key, rate, alive.shape)
    opacity = jnp.clip(jax.nn.sigmoid(gaussians.opacity_logits) / (1 - rate), _LOWEST, _HIGHEST)
    raised = jnp.log(opacity) - jnp.log1p(-opacity)
    logits = jnp.where(rate > 0, raised, gaussians.opacity_logits)
    return gaussians._replace(opacity_logits=logits), kept


def dropout_rate(highest: float, iteration: Int[Array, ""], iterations: int) -> Float[Array, ""]:
    """Rate of an iteration, counted from 1: rises linearly to `highest` at the end of training."""
    return highest * iteration.astype(jnp.float32) / iterations


def decayed(logits: Float[Array, " n"], factor: Float[Array, ""]) -> Float[Array, " n"]:
    """Logits of the opacities times `factor`, in (0, 1].

    f o / (1 - f o) with o = e^x / (1 + e^x) is f e^x / (1 + (1 - f) e^x), which does not overflow in this form.
    """
    return logits + jnp.log(factor) - jax.nn.softplus(logits + jnp.log1p(-factor))
