"""A batch of runs in one program does what the runs do one by one: events, growth, terms, weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.config import DensityConfig, OptimizationConfig, TrainConfig
from ipsm_jax.losses.distillation import DistillationOptions
from ipsm_jax.losses.schedule import GuidanceSchedule
from ipsm_jax.priors.exact import gaussian_prior
from ipsm_jax.scene.pseudo_views import pseudo_view_sampler
from ipsm_jax.training.batch import events_of, stack_states, state_of, train_batch
from ipsm_jax.training.loop import train
from ipsm_jax.training.regularization import Regularization
from ipsm_jax.training.state import grow

CONFIG = TrainConfig(
    optimization=OptimizationConfig(iterations=60, sh_degree_interval=10),
    density=DensityConfig(
        density_interval=10,
        density_from=20,
        gradient_threshold=1e-4,
        prune_from=25,
        opacity_reset_at=33,
        max_gaussians=128,
    ),
)
SCHEDULE = GuidanceSchedule(start=4, stop=50, ramp=10)
SIDE = 8


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly():
    """Programs that run some iterations on a few pixels take longer to compile than to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class Silent:
    """An observer of single runs that keeps nothing."""

    def advanced(self, iteration, count, loss, psnr, gaussians, terms):
        pass

    def densified(self, iteration, info, capacity):
        pass

    save = evaluate = diagnose = lambda self, state: None


def guidance(toy, **weights):
    mean = np.random.default_rng(3).uniform(-0.5, 0.5, (SIDE, SIDE, 3))
    return Regularization(
        sampler=pseudo_view_sampler(toy.views.cameras, np.tile([[2.0, 5.0]], (3, 1)), "around", list_length=50),
        diffusion=gaussian_prior(mean, 0.05 * np.eye(3 * SIDE * SIDE), factor=2),
        schedule=SCHEDULE,
        distillation=DistillationOptions(("sds", "g1"), schedule=SCHEDULE, **weights),
    )


def alone(toy, state, regularization):
    return train(CONFIG, toy.views, jax.tree.map(jnp.copy, state), Silent(), regularization=regularization)


def check_same(batch, run, single):
    mine, alive = state_of(batch, run), np.asarray(single.alive)
    assert int(mine.step) == int(single.step) == 60
    np.testing.assert_array_equal(mine.alive, alive)
    for name in ("means", "log_scales", "quaternions", "opacity_logits", "sh_dc"):
        want, got = (np.asarray(getattr(state.gaussians, name))[alive] for state in (single, mine))
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max(), err_msg=name)


def test_a_batch_ends_where_its_runs_end_alone(toy):
    looks = []
    states = train_batch(
        CONFIG, toy.views, stack_states(toy.states), 25, lambda s, i: looks.append((int(s.step), i.gaussians))
    )
    assert [step for step, _ in looks] == [25, 50, 60]
    assert states.gaussians.means.shape[:2] == (2, 128)  # it grew on the way, and not beyond its limit
    assert not np.array_equal(states.gaussians.means[0], states.gaussians.means[1])
    for run, state in enumerate(toy.states):
        single = alone(toy, state, None)
        check_same(states, run, single)
        assert int(looks[-1][1][run]) == int(single.alive.sum()) > 64


def test_guided_runs_can_differ_in_the_weights_of_the_terms(toy):
    starts = [grow(state, 128) for state in toy.states]
    pairs = [(80.0, 0.0), (0.0, 40.0)]
    weighted = dataclasses.replace(guidance(toy), distillation_weights=jnp.array(pairs))
    states = train_batch(CONFIG, toy.views, stack_states(starts), 60, lambda states, info: None, weighted)
    for run, (sds, g1) in enumerate(pairs):
        check_same(states, run, alone(toy, starts[run], guidance(toy, sds_weight=sds, g1_weight=g1)))
    without = alone(toy, starts[0], None).gaussians.sh_dc
    assert np.abs(np.asarray(states.gaussians.sh_dc[0] - without)).max() > 0.05


def test_events_are_those_of_the_loop():
    events = events_of(CONFIG)
    assert np.flatnonzero(events.density).tolist() == [20, 30, 40, 50]
    assert np.flatnonzero(events.reset).tolist() == [33]


def test_what_cannot_be_batched_is_refused(toy):
    later = toy.states[1]._replace(step=jnp.int32(3))
    with pytest.raises(ValueError, match=r"at one iteration, got \[0, 3\]"):
        stack_states([toy.states[0], later])
    with pytest.raises(ValueError, match="no states"):
        stack_states([])
    states = stack_states(toy.states)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        train_batch(CONFIG, toy.views, states, 0, lambda states, info: None)
    with pytest.raises(FloatingPointError, match=r"run\(s\) \[1\] of the batch is not a number between iterations 1 "):
        nan = dataclasses.replace(guidance(toy), distillation_weights=jnp.array([[0.0, 0.0], [jnp.nan, 0.0]]))
        train_batch(CONFIG, toy.views, states, 10, lambda states, info: None, nan)
