"""Monocular depth as a value: from one picture to a map of inverse depth (METHOD section 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["predict"])
@dataclasses.dataclass(frozen=True)
class DepthPrior:
    """A network that knows how far away things in pictures are.

    A pytree: the arrays in `params` are its leaves, the function is static. It has to be hashable and equal from one
    call of a jitted function to the next (a function of a module, or a frozen dataclass with ``__call__``), or that is
    compiled anew. It is pure, and gives float32 whatever it computes in.

    Attributes:
      params: pytree of arrays, handed back to `predict`.
      predict: (params, image (h, w, 3) in [0, 1]) -> (h, w) inverse depth: larger is nearer, scale and offset are
        unknown. Takes any size, and is differentiable in the image.
    """

    params: Any
    predict: Callable[[Any, Array], Array]


def depth_map(prior: DepthPrior, image: Float[Array, "h w 3"]) -> Float[Array, "h w"]:
    """Inverse depth of one picture, float32: larger is nearer, scale and offset are unknown.

    Args:
      prior: the network.
      image: colors in [0, 1]; the gradient reaches them.

    Raises:
      ValueError: if the image is not (h, w, 3).
    """
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"a depth prior takes one picture (h, w, 3), got {image.shape}")
    return prior.predict(prior.params, image)
