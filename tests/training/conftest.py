"""A toy to train on: random Gaussians seen by three cameras, in pictures of 24 x 16 pixels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.losses.photometric import photometric_target
from ipsm_jax.rasterizer import render
from ipsm_jax.scene.camera import Camera, look_at
from ipsm_jax.scene.gaussians import gaussians_from_points
from ipsm_jax.training.state import TrainState, init_state
from ipsm_jax.training.step import TrainingViews

WIDTH, HEIGHT = 24, 16


class Toy(NamedTuple):
    views: TrainingViews
    states: list[TrainState]  # the same start with different seeds


def make_state(seed: int, capacity: int = 64) -> TrainState:
    rng = np.random.default_rng(5)
    gaussians, alive = gaussians_from_points(rng.normal(0, 0.5, (40, 3)), rng.uniform(0, 1, (40, 3)), capacity)
    # Not round, so that rotations have gradients that are more than rounding errors.
    stretch = jnp.asarray(rng.uniform(-0.7, 0.7, (capacity, 3)), jnp.float32)
    gaussians = gaussians._replace(log_scales=gaussians.log_scales + stretch)
    return init_state(jax.random.key(seed), gaussians, alive)


@pytest.fixture
def toy() -> Toy:
    return make_toy()


def make_toy() -> Toy:
    rng = np.random.default_rng(7)
    truth, alive = gaussians_from_points(rng.normal(0, 0.5, (40, 3)), rng.uniform(0, 1, (40, 3)))
    truth = truth._replace(opacity_logits=jnp.full(40, 2.0))
    matrices = jnp.stack([jnp.asarray(look_at([x, 0, -3], [0, 0, 0])) for x in (-1.0, 0.0, 1.0)])
    cameras = Camera(matrices, jnp.tile(jnp.array([[20.0, 20.0, 12.0, 8.0]]), (3, 1)), WIDTH, HEIGHT)
    images = jnp.stack([jnp.clip(render(truth, cameras[i], alive=alive).color, 0, 1) for i in range(3)])
    views = TrainingViews(cameras, jax.vmap(photometric_target)(images), jnp.float32(1.1))
    return Toy(views, [make_state(seed) for seed in range(2)])
