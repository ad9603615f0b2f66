"""Training steps of the embedded prior: AdamW, a running average of the weights, and a state that can be put down.

Learning rate and average know nothing of the end of training, so that a run can be stopped and taken up at any time:
the rate falls with the root of the steps, and the average reaches over the last tenth of all steps so far.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import safetensors
import safetensors.numpy
from jaxtyping import Array, Float, Int, UInt8

from ipsm_jax.priors.diffusion import add_noise
from ipsm_jax.priors.embedded.load import ask
from ipsm_jax.priors.embedded.patches import PatchConfig
from ipsm_jax.priors.unet import UNetConfig
from ipsm_jax.reporting.files import atomic_write
from prior.network import first_weights
from prior.samples import Batch, draw_batch

WARMUP = 200
FLAT_UNTIL = 4000
"""Steps after which the learning rate begins to fall."""
AVERAGE_POWER = 9.0
"""Weights of step i count (i / n)^9 in the average after n steps (Karras et al. 2024, equation 123)."""

LEAST_SIGNAL = 0.02
"""Errors weigh 1 / a_t, but no more than with so much of the signal left."""


class State(NamedTuple):
    """All that changes: steps done, weights, their average, and the optimizer's moments."""

    step: Int[Array, ""]
    params: dict[str, Array]
    average: dict[str, Array]
    moments: Any


class Setup(NamedTuple):
    """All that does not, hashable: structures, samples per step, learning rate and seed."""

    unet: UNetConfig
    patches: PatchConfig
    batch: int
    rate: float
    seed: int


def optimizer(setup: Setup) -> optax.GradientTransformation:
    """AdamW on clipped gradients; norms and biases are not decayed."""

    def rate(step: Array) -> Array:
        return setup.rate * jnp.minimum((step + 1) / WARMUP, jnp.sqrt(FLAT_UNTIL / jnp.maximum(step, FLAT_UNTIL)))

    decayed = lambda params: {name: value.ndim > 1 for name, value in params.items()}  # noqa: E731
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=0.01, mask=decayed))


def first_state(setup: Setup) -> State:
    """The state before the first step."""
    params = first_weights(setup.unet, setup.seed)
    return State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimizer(setup).init(params))


def noise_error(
    config: UNetConfig,
    params: dict[str, Any],
    noise: Float[Array, "b h w c"],
    batch: Batch,
) -> Float[Array, "b h w c"]:
    """Predicted minus true noise; `params` as in `ipsm_jax.priors.embedded.load.ask`."""
    noisy = add_noise(params["alphas_cumprod"], batch.latents, noise, batch.t)
    return ask(config, params, noisy, batch.t, batch.hole, batch.masked, batch.tokens) - noise


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    setup: Setup,
    state: State,
    vae: dict[str, Array],
    alphas_cumprod: Float[Array, " t"],
    squares: UInt8[Array, "n 2 256 256 3"],
) -> tuple[State, Float[Array, ""]]:
    """One step on one batch, both given by the seed and the number of the step, and the batch's loss.

    The loss is the mean squared error of the noise, weighted by 1 / a_t as if v were predicted (Salimans and Ho 2022).
    Without weights, what there is to learn at large timesteps, which is how a picture is laid out, would hardly count:
    nearly all of what is seen there is noise, and the network knows it.
    """
    data_key, noise_key = jax.random.split(jax.random.fold_in(jax.random.key(setup.seed), state.step))
    batch = draw_batch(data_key, squares, setup.patches, vae, setup.unet.sample_size, setup.batch)
    noise = jax.random.normal(noise_key, batch.latents.shape)

    weight = 1 / jnp.maximum(alphas_cumprod[batch.t], LEAST_SIGNAL)

    def loss(params: dict[str, Array]) -> Array:
        everything = {"unet": params, "vae": vae, "alphas_cumprod": alphas_cumprod}
        errors = jnp.square(noise_error(setup.unet, everything, noise, batch))
        return jnp.mean(weight * jnp.mean(errors, axis=(1, 2, 3)))

    value, gradient = jax.value_and_grad(loss)(state.params)
    updates, moments = optimizer(setup).update(gradient, state.moments, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    keep = (1 - 1 / step.astype(jnp.float32)) ** (AVERAGE_POWER + 1)
    average = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, state.average, params)
    return State(step, params, average, moments), value


def save_state(path: Path, state: State, header: dict[str, str]) -> None:
    """Write a state into one file, which appears whole or not at all."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    arrays = {jax.tree_util.keystr(place): jax.device_get(leaf) for place, leaf in leaves}
    with atomic_write(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata=header)


def load_state(path: Path, like: State, header: dict[str, str]) -> State:
    """Read a state back.

    Raises:
      SystemExit: it is damaged, or was written by a run with another structure or seed.
    """
    try:
        with safetensors.safe_open(path, "np") as file:
            found = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, safetensors.SafetensorError) as error:
        raise SystemExit(f"{path} is damaged: {error}; remove it to start anew") from error
    different = sorted(key for key in header if found.get(key) != header[key])
    if different:
        texts = [f"{key} {found.get(key)} there, {header[key]} asked for" for key in different]
        raise SystemExit(f"{path} is of another run: {'; '.join(texts)}. Take another --out, or the same options")
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    return jax.tree.unflatten(structure, [jnp.asarray(arrays[jax.tree_util.keystr(place)]) for place, _ in leaves])
