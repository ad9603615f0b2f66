"""A batch of runs in one program does what the runs do one by one: events, growth, terms, weights."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.config import DensityConfig, OptimizationConfig, TrainConfig
from ipsm_jax.losses.distillation import DistillationOptions
from ipsm_jax.losses.photometric import photometric_target
from ipsm_jax.losses.schedule import GuidanceSchedule
from ipsm_jax.priors.exact import gaussian_prior
from ipsm_jax.scene.pseudo_views import pseudo_view_sampler
from ipsm_jax.training.batch import Given, events_of, shared, stack_given, stack_states, state_of
from ipsm_jax.training.batch_loop import train_batch
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

    save = evaluate = diagnose = show = lambda self, state: None


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
    batch, saved = shared(Given(toy.views, None)), {}
    states = train_batch(
        CONFIG,
        batch,
        stack_states(toy.states),
        30,
        lambda s, i: looks.append((int(s.step), i.gaussians, i.terms["photometric"])),
        lambda s: saved.update({int(s.step): s}),
    )
    assert [step for step, *_ in looks] == list(saved) == [30, 60]
    assert states.gaussians.means.shape[:2] == (2, 128)  # it grew on the way, and not beyond its limit
    assert not np.array_equal(states.gaussians.means[0], states.gaussians.means[1])
    for run, state in enumerate(toy.states):
        single = alone(toy, state, None)
        check_same(states, run, single)
        assert int(looks[-1][1][run]) == int(single.alive.sum()) > 64
        assert 0 < float(looks[-1][2][run]) < 1
    # Density control follows iteration 30: it comes after the look and before what is saved, and is not done twice.
    assert int(looks[0][1][0]) < int(saved[30].alive[0].sum())
    again = train_batch(CONFIG, batch, saved[30], 30, lambda states, info: None)
    for one, other in zip(jax.tree.leaves(again.gaussians), jax.tree.leaves(states.gaussians), strict=True):
        np.testing.assert_array_equal(one, other)


def test_runs_can_differ_in_scenes_and_weights_of_terms(toy):
    starts = [grow(state, 128) for state in toy.states]
    other = toy.views._replace(
        targets=jax.vmap(photometric_target)(1 - toy.views.targets.image), extent=jnp.float32(1.4)
    )
    pairs, scenes = [(80.0, 0.0), (0.0, 40.0)], [toy.views, other]
    common = guidance(toy)
    runs = [
        Given(views, dataclasses.replace(common, distillation_weights=jnp.array(pair)))
        for views, pair in zip(scenes, pairs, strict=True)
    ]
    batch = stack_given(runs)
    assert sum(batch.mapped) == len(jax.tree.leaves(other.targets)) + 2  # extents and weights; all else is there once
    states = train_batch(CONFIG, batch, stack_states(starts), 60, lambda states, info: None)
    for run, (sds, g1) in enumerate(pairs):
        single = alone(toy._replace(views=scenes[run]), starts[run], guidance(toy, sds_weight=sds, g1_weight=g1))
        check_same(states, run, single)
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
    states, given = stack_states(toy.states), Given(toy.views, None)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        train_batch(CONFIG, shared(given), states, 0, lambda states, info: None)
    narrow = toy.views._replace(targets=jax.tree.map(lambda a: a[:2], toy.views.targets))
    for runs in ([], [given, Given(toy.views, guidance(toy))], [given, Given(narrow, None)]):
        with pytest.raises(ValueError, match="the same options, number of views and sizes of pictures"):
            stack_given(runs)
    common = guidance(toy)
    weights = [dataclasses.replace(common, distillation_weights=jnp.array([w, 0.0])) for w in (0.0, jnp.nan)]
    batch = stack_given([Given(toy.views, w) for w in weights])
    with pytest.raises(FloatingPointError, match=r"loss \(distillation\) of run 1 of the batch is not a number"):
        train_batch(CONFIG, batch, states, 10, lambda states, info: None)


DIVIDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
sys.path[:0] = [%r, %r]
from conftest import make_toy
from test_batch import CONFIG, SHARING
from ipsm_jax.training.batch import Given, stack_given, stack_states
from ipsm_jax.training.batch_loop import devices_for, train_batch

assert [devices_for(runs) for runs in (1, 2, 3, 4, 6, 8)] == SHARING[jax.local_device_count()]
toy = make_toy()
runs = [Given(toy.views._replace(extent=jnp.float32(extent)), None) for extent in (1.0, 1.1, 1.2, 1.3)]
states = train_batch(CONFIG, stack_given(runs), stack_states(toy.states * 2), 30, lambda states, info: None)
assert len(states.alive.sharding.device_set) == jax.local_device_count()
np.savez(sys.argv[1], *(np.asarray(a) for a in states.gaussians))
"""
SHARING = {1: [1, 1, 1, 1, 1, 1], 4: [1, 2, 3, 4, 3, 4]}
"""Devices that batches of 1, 2, 3, 4, 6 and 8 runs are divided among, by the number that there are."""


def test_devices_share_a_batch_and_change_nothing(tmp_path):
    here = Path(__file__).parent
    for count in SHARING:
        environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        command = [sys.executable, "-c", DIVIDED % (str(here), str(here.parent)), str(tmp_path / f"{count}.npz")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, four = (np.load(tmp_path / f"{count}.npz") for count in SHARING)
    for name in one.files:
        np.testing.assert_array_equal(one[name], four[name])
