"""Layers that the networks share, on weights that are looked up by the checkpoint's names.

Arrays are NHWC or (batch, tokens, channels); convolution kernels are kept HWIO, linear weights (out, in) as in the
checkpoint. Everything is computed in the dtype of the weights, with sums of normalization and softmax in float32.

A network is a function of a *weight source*: ``w(name, *shape)`` gives the array of that name. The shape says what the
network expects there. So the network's own code is also the list of its tensors: `declared_shapes` runs it with a
source that writes down what is asked for, under abstract evaluation, where nothing is allocated or computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Shape = tuple[int, ...]
Params = Mapping[str, Array]


class Weights(Protocol):
    """Where a network takes its arrays from."""

    def __call__(self, name: str, *shape: int) -> Array:
        """The array called `name`, of this shape."""


def stored(params: Params) -> Weights:
    """The weight source of a flat dict of arrays, as `checkpoint.py` reads it."""
    return lambda name, *shape: params[name]


def declared_shapes(network: Callable[[Weights], Any]) -> dict[str, Shape]:
    """Name and shape of every array that a network asks for, in the order of use.

    Raises:
      ValueError: if it asks for one name twice.
    """
    shapes: dict[str, Shape] = {}

    def declare(name: str, *shape: int) -> Array:
        if name in shapes:
            raise ValueError(f"the network uses {name} twice")
        shapes[name] = shape
        return jnp.zeros(shape)

    jax.eval_shape(lambda: network(declare))
    return shapes


def linear(
    w: Weights, name: str, x: Float[Array, "... i"], out: int, *, bias: bool = True
) -> Float[Array, "... {out}"]:
    """A linear layer, x W^T + b."""
    weight = w(f"{name}.weight", out, x.shape[-1])
    # "highest" matters in float32 alone: tensor cores would round the inputs to 10 bits
    y = lax.dot_general(x.astype(weight.dtype), weight, (((x.ndim - 1,), (1,)), ((), ())), precision="highest")
    return y + _row(w(f"{name}.bias", out), y.ndim) if bias else y


def conv(
    w: Weights,
    name: str,
    x: Float[Array, "b h w i"],
    out: int,
    kernel: int = 3,
    stride: int = 1,
    padding: tuple[int, int] | Literal["SAME"] | None = None,
    *,
    bias: bool = True,
) -> Float[Array, "b h2 w2 {out}"]:
    """Convolution.

    `padding` is (before, after) on both axes, by default what keeps the size at stride 1; "SAME" is TensorFlow's: as
    much as ceil(size / stride) outputs need, the odd row and column at the bottom and the right.
    """
    weight = w(f"{name}.weight", kernel, kernel, x.shape[-1], out)
    padding = (kernel // 2, kernel // 2) if padding is None else padding
    y = lax.conv_general_dilated(
        x.astype(weight.dtype),
        weight,
        (stride, stride),
        padding if isinstance(padding, str) else (padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    return y + _row(w(f"{name}.bias", out), 4) if bias else y


def group_norm(
    w: Weights, name: str, x: Float[Array, "b h w c"], groups: int, epsilon: float
) -> Float[Array, "b h w c"]:
    """Normalize over all pixels and each group of neighboring channels."""
    batch, height, width, channels = x.shape
    grouped = x.astype(jnp.float32).reshape(batch, height * width, groups, channels // groups)
    grouped = _normalize(grouped, (1, 3), epsilon)
    return _scale_and_shift(w, name, grouped.reshape(x.shape), x.dtype)


def layer_norm(w: Weights, name: str, x: Float[Array, "b n c"], epsilon: float) -> Float[Array, "b n c"]:
    """Normalize over channels."""
    return _scale_and_shift(w, name, _normalize(x.astype(jnp.float32), (-1,), epsilon), x.dtype)


def _normalize(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centered = x - jnp.mean(x, axes, keepdims=True)
    return centered * lax.rsqrt(jnp.mean(jnp.square(centered), axes, keepdims=True) + epsilon)


def _scale_and_shift(w: Weights, name: str, x: Array, dtype: Any) -> Array:
    channels = x.shape[-1]
    scale, shift = (_row(w(f"{name}.{kind}", channels).astype(jnp.float32), x.ndim) for kind in ("weight", "bias"))
    return (x * scale + shift).astype(dtype)


def _row(vector: Array, rank: int) -> Array:
    """A vector of channels with leading axes of length 1."""
    return vector.reshape((1,) * (rank - 1) + (-1,))


def attention(
    query: Float[Array, "b n c"],
    key: Float[Array, "b m c"],
    value: Float[Array, "b m c"],
    heads: int,
    *,
    causal: bool = False,
) -> Float[Array, "b n c"]:
    """softmax(q k^T / sqrt(d)) v with `heads` heads of d = c / heads channels; causal: no token sees a later one."""
    batch, length, channels = query.shape
    query, key, value = (a.reshape(batch, a.shape[1], heads, channels // heads) for a in (query, key, value))
    # written out because jax.nn.dot_product_attention has no kernel for some dtypes and head sizes on the CPU
    scores = jnp.einsum("bnhd,bmhd->bhnm", query, key, precision="highest", preferred_element_type=jnp.float32)
    scores = scores / math.sqrt(channels // heads)
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones((1, 1, length, length), bool)), scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, value, precision="highest").reshape(batch, length, channels)


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Every pixel becomes four."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def resnet(
    w: Weights,
    name: str,
    x: Float[Array, "b h w c"],
    out: int,
    groups: int,
    epsilon: float,
    time: Float[Array, "b e"] | None = None,
) -> Float[Array, "b h w {out}"]:
    """Two convolutions and a shortcut, with the time embedding added in between where there is one."""
    h = conv(w, f"{name}.conv1", jax.nn.silu(group_norm(w, f"{name}.norm1", x, groups, epsilon)), out)
    if time is not None:
        h = h + linear(w, f"{name}.time_emb_proj", jax.nn.silu(time), out)[:, None, None, :]
    h = conv(w, f"{name}.conv2", jax.nn.silu(group_norm(w, f"{name}.norm2", h, groups, epsilon)), out)
    return (x if x.shape[-1] == out else conv(w, f"{name}.conv_shortcut", x, out, kernel=1)) + h
