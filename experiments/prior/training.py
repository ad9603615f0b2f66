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
from prior.basis import WHITENING
from prior.masks import ALL_HOLE
from prior.network import first_weights
from prior.samples import DROPPED, JUDGED, JUDGED_SHARE, SMALLEST_CROP, STRETCH, Batch, draw_batch

WARMUP = 200
FLAT_UNTIL = 4000
"""Steps after which the learning rate begins to fall."""
AVERAGE_POWER = 9.0
"""Weights of step i count (i / n)^9 in the average after n steps (Karras et al. 2024, equation 123)."""

SECOND_MOMENT, DECAY, LARGEST_GRADIENT = 0.99, 0.01, 1.0
"""Of AdamW: b2, decay of the weights; and the norm that gradients are clipped to."""

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
    adamw = optax.adamw(rate, b2=SECOND_MOMENT, weight_decay=DECAY, mask=decayed)
    return optax.chain(optax.clip_by_global_norm(LARGEST_GRADIENT), adamw)


def kept(setup: Setup) -> dict[str, str]:
    """What stays the same for as long as a training lasts, for the header of its file and for its log."""
    patches, (first, last) = setup.patches, JUDGED
    return {
        "seed": str(setup.seed),
        "channels": str(list(setup.unet.channels)),
        "latents": f"{patches.latent_channels} of patches of {patches.patch}, pooled {patches.pooling}, "
        f"whitening {WHITENING:g}",
        "samples": f"crops from {SMALLEST_CROP} pixels, stretch {STRETCH:g}, all hole {ALL_HOLE:g}, no descriptor "
        f"{DROPPED:g}, {JUDGED_SHARE:g} of timesteps in {first}-{last - 1}",
        "loss": f"squared error / max(a_t, {LEAST_SIGNAL:g})",
        "optimizer": f"AdamW, b2 {SECOND_MOMENT:g}, decay {DECAY:g}, gradients clipped to {LARGEST_GRADIENT:g}",
        "rate_falls": f"as 1 / sqrt(step) from step {FLAT_UNTIL}, warmup {WARMUP}",
        "average": f"weighted by step^{AVERAGE_POWER:g}",
    }


def changeable(setup: Setup) -> dict[str, str]:
    """What may be another from some step on, for the same places."""
    return {"batch": str(setup.batch), "rate": f"{setup.rate:g}"}


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


def load_state(path: Path, like: State, kept: dict[str, str]) -> tuple[State, dict[str, str]]:
    """Read a state back, with its header, which may lack entries.

    Raises:
      SystemExit: it is damaged, or its header says something else of what has to stay the same.
    """
    try:
        with safetensors.safe_open(path, "np") as file:
            found = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, safetensors.SafetensorError) as error:
        raise SystemExit(f"{path} is damaged: {error}; remove it to start anew") from error
    different = sorted(key for key in kept if key in found and found[key] != kept[key])
    if different:
        texts = [f"{key} {found[key]} there, {kept[key]} asked for" for key in different]
        raise SystemExit(f"{path} is of another run: {'; '.join(texts)}. Take another --out, or the same options")
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    state = jax.tree.unflatten(structure, [jnp.asarray(arrays[jax.tree_util.keystr(place)]) for place, _ in leaves])
    return state, found
