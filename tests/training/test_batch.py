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
from ipsm_jax.training.batch_loop import BrokenRunError, train_batch
from ipsm_jax.training.loop import Unobserved, train
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
pytestmark = pytest.mark.usefixtures("compiled_quickly")


def guidance(toy, **weights):
    mean = np.random.default_rng(3).uniform(-0.5, 0.5, (SIDE, SIDE, 3))
    return Regularization(
        sampler=pseudo_view_sampler(toy.views.cameras, np.tile([[2.0, 5.0]], (3, 1)), "around", list_length=50),
        diffusion=gaussian_prior(mean, 0.05 * np.eye(3 * SIDE * SIDE), factor=2),
        schedule=SCHEDULE,
        distillation=DistillationOptions(("sds", "g1"), schedule=SCHEDULE, **weights),
    )


def alone(toy, state, regularization):
    return train(CONFIG, toy.views, jax.tree.map(jnp.copy, state), Unobserved(), regularization=regularization)


def check_same(batch, run, single):
    mine, alive = state_of(batch, run), np.asarray(single.alive)
    assert int(mine.step) == int(single.step) == 60
    np.testing.assert_array_equal(mine.alive, alive)
    for name in ("means", "log_scales", "quaternions", "opacity_logits", "sh_dc"):
        want, got = (np.asarray(getattr(state.gaussians, name))[alive] for state in (single, mine))
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max(), err_msg=name)


def test_a_batch_ends_where_its_runs_end_alone(toy):
    looks = []
    batch, saved, counted = shared(Given(toy.views, None)), {}, {}
    states = train_batch(
        CONFIG,
        batch,
        stack_states(toy.states),
        30,
        lambda s, i: looks.append((int(s.step), i.density.alive, i.terms["photometric"])),
        lambda s, i: (saved.update({int(s.step): s}), counted.update({int(s.step): i.density})),
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
    for step, states_then in saved.items():
        np.testing.assert_array_equal(counted[step].alive, states_then.alive.sum(axis=1))
    new = sum(np.asarray(counts.cloned + counts.split + counts.unpooled - counts.pruned) for counts in counted.values())
    np.testing.assert_array_equal(40 + new, counted[60].alive)
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
    with pytest.raises(BrokenRunError, match=r"loss \(distillation\) of run 1 of the batch is not a number"):
        train_batch(CONFIG, batch, states, 10, lambda states, info: None)


def test_a_run_without_gaussians_cannot_go_on(toy):
    """Pruned after iteration 30, be that between two looks or just after one: nothing empty is looked at or saved."""
    config = dataclasses.replace(CONFIG, density=dataclasses.replace(CONFIG.density, prune_interval=10))
    gaussians = toy.states[1].gaussians
    faint = gaussians._replace(opacity_logits=jnp.full_like(gaussians.opacity_logits, -12.0))
    states = stack_states([toy.states[0], toy.states[1]._replace(gaussians=faint)])
    for every, expected in ((60, []), (30, [30])):
        looks, saves = [], []
        with pytest.raises(BrokenRunError, match=f"all Gaussians of run 1 .* iterations 1 and {every}") as caught:
            train_batch(
                config,
                shared(Given(toy.views, None)),
                states,
                every,
                lambda states, info: looks.append(int(states.step)),  # noqa: B023 (called at once)
                lambda states, info: saves.append(int(states.step)),  # noqa: B023
            )
        assert (caught.value.run, looks, saves) == (1, expected, [])


DIVIDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
sys.path[:0] = [%r, %r]
from conftest import make_toy
from test_batch import CONFIG, SHARING
from ipsm_jax.training.batch import Given, stack_given, stack_states
from ipsm_jax.training.batch_loop import shares, train_batch

assert [shares(runs) for runs in (1, 3, 4, 5, 6, 8)] == SHARING[jax.local_device_count()]
toy = make_toy()
runs = [Given(toy.views._replace(extent=jnp.float32(extent)), None) for extent in (1.0, 1.1, 1.2, 1.3, 1.4)]
first = (toy.states * 3)[:5]
for count in (4, 5):
    batch, infos = stack_given(runs[:count]), []
    states = train_batch(CONFIG, batch, stack_states(first[:count]), 30, lambda states, info: infos.append(info))
    assert states.alive.shape[0] == infos[-1].loss.shape[0] == count
    assert len(states.alive.sharding.device_set) == shares(count)[0]
    arrays = {name: np.asarray(a) for name, a in states.gaussians._asdict().items()}
    np.savez(f"{sys.argv[1]}-{count}.npz", loss=infos[-1].loss, **arrays)
"""
SHARING = {
    1: [(1, 1), (1, 3), (1, 4), (1, 5), (1, 6), (1, 8)],
    4: [(1, 1), (3, 1), (4, 1), (3, 2), (3, 2), (4, 2)],
}
"""Devices that batches of 1, 3, 4, 5, 6 and 8 runs are divided among, and runs of each, by the number of devices."""


def test_devices_share_a_batch_and_change_nothing(tmp_path):
    here = Path(__file__).parent
    for count in SHARING:
        environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        command = [sys.executable, "-c", DIVIDED % (str(here), str(here.parent)), str(tmp_path / f"{count}")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for runs in (4, 5):
        one, four = (np.load(tmp_path / f"{count}-{runs}.npz") for count in SHARING)
        for name in one.files:  # the loss is only told, and summed in another order
            np.testing.assert_allclose(one[name], four[name], rtol=1e-6 if name == "loss" else 0)
